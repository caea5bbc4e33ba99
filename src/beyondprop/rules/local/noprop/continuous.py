"""NoProp in continuous time: one block that denoises the label at any noise level."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.rules.local.noprop.embedding import ClassEmbedding, ErrorKind
from beyondprop.rules.local.noprop.integrators import (
    check_steps,
    diffuse,
    integrate,
    integrate_exponentially,
    one_of,
)
from beyondprop.rules.local.noprop.learned_schedule import LearnedSchedule
from beyondprop.rules.local.noprop.timed import Start, TimedNoProp

Method = Literal["multistep", "exponential", "heun", "euler", "ancestral"]
Grid = Literal["log-snr", "uniform"]


class NoPropCT(TimedNoProp):
    r"""NoProp, continuous time (Li, Teh and Pascanu, arXiv 2503.24322, Section 2.2.2, Algorithm 2).

    One block learns to say what the clean label is, from x, a noisy label and the time t. The loss of a batch is the
    mean over its samples, each with a time of its own, t ~ U(0, 1), of

        L = -log p_out(y | z_1) + KL(q(z_0|y) || N(0,I)) + η/2 SNR'(t) ||û(z_t, x, t) - u_y||²

    where q(z_t|y) = N(sqrt(ᾱ_t) u_y, (1 - ᾱ_t) I), û = softmax(block(z_t, x, t)) W_Embed and p_out is the softmax of a
    linear layer. The schedule ᾱ is learned with the rest. The prediction follows the probability-flow equation

        dz/dt = -γ'(t)/2 (sqrt(ᾱ_t) û(z, x, t) - ᾱ_t z)

    from noise at t = 0 to t = 1. In this form nothing is divided by ᾱ_t or 1 - ᾱ_t.

    Args:
        encoder: Reads x, once for a batch.
        block: Called as `block(z, h, t)`, h what the encoder gives; returns class logits of shape (batch, classes).
        embedding: W_Embed.
        schedule: γ(t); default: a `LearnedSchedule`.
        eta: η, weight of the denoising term.
        weighting: Of the denoising term. `"snr"`: SNR'(t), as above and in the paper. `"log-snr"`: (log SNR)'(t), which
            counts every octave of noise alike. Under the paper's weights the noisy end, where the prediction begins and
            x alone can tell the class, makes up next to nothing of the loss and is hardly learned. Either way the
            expected loss depends on the ends of the schedule alone, not on the way between them. Under `"snr"` they
            learn from all of it, as it is a bound of the likelihood. `"log-snr"` is none, and would cut off the noise
            where errors are large: there the ends learn from p_out and the KL term alone.
        error: What stands for ||û - u_y||²: `"squared"`, that itself, or `"cross-entropy"`
            (`ClassEmbedding.denoising_error`).
        consistency: Weight of a term η/2 ||û(z_t, x, t) - û(z_s, x, s)||² where z_s is a cleaner point of the same
            noise, a tenth of the way from t to 1, and is held fixed. A block whose answers agree along the way needs
            fewer steps.
        draws: Times and noises drawn for each sample of a batch.

    Raises:
        UserError: An option is unknown or out of range.

    >>> from beyondprop.rules.local.noprop import TimedBlock
    >>> rule = NoPropCT(nn.Linear(4, 8), TimedBlock(8, classes=3, dim=3), ClassEmbedding.one_hot(3))
    >>> rule.backward(torch.randn(16, 4), torch.randint(3, (16,))).shape
    torch.Size([])
    >>> rule(torch.randn(16, 4), steps=5).shape
    torch.Size([16, 3])
    """

    def __init__(
        self,
        encoder: nn.Module,
        block: nn.Module,
        embedding: ClassEmbedding,
        *,
        schedule: LearnedSchedule | None = None,
        eta: float = 1.0,
        weighting: Literal["log-snr", "snr"] = "log-snr",
        error: ErrorKind = "squared",
        consistency: float = 0.0,
        draws: int = 1,
    ) -> None:
        super().__init__(encoder, block, embedding, draws=draws)
        if eta <= 0 or consistency < 0:
            raise UserError(
                f"eta must be positive and consistency not negative, got eta={eta} and consistency={consistency}"
            )
        one_of("weighting", weighting, ("snr", "log-snr"))
        one_of("error", error, get_args(ErrorKind))
        self.eta, self.weighting, self.error, self.consistency = eta, weighting, error, consistency
        self.schedule = schedule or LearnedSchedule()
        self.head = embedding.nearest_row_classifier()

    def batch_loss(self, h: Tensor, y: Tensor) -> Tensor:
        """The objective, with t and the noise drawn anew."""
        u, t = self.embedding(y), self.draw_times(len(y))
        noise = torch.randn_like(u)
        gamma, slope = self.schedule.gamma_and_slope(t, ends_learn=self.weighting == "snr")
        logits = self.block_logits(self.noisy_label(u, gamma, noise), h, t)
        weight = -slope * torch.exp(-gamma) if self.weighting == "snr" else -slope  # SNR'(t) or (log SNR)'(t)
        error = self.embedding.denoising_error(logits, y, self.error)
        loss = 0.5 * self.eta * (weight * error).mean() + self._ends_loss(u, y)
        if self.consistency:
            with torch.no_grad():
                later = t + 0.1 * (1 - t)
                aim = self.denoise(self.noisy_label(u, self.schedule(later), noise), h, later)
            apart = (self.embedding.expected(logits) - aim).square().sum(dim=1)
            loss = loss + 0.5 * self.eta * self.consistency * apart.mean()
        return loss

    def noisy_label(self, u: Tensor, gamma: Tensor, noise: Tensor) -> Tensor:
        """z_t = sqrt(ᾱ_t) u + sqrt(1 - ᾱ_t) ε, shape (batch, d), for γ(t) of shape (batch,) or a scalar."""
        gamma = gamma.unsqueeze(-1)
        return torch.sigmoid(-gamma).sqrt() * u + torch.sigmoid(gamma).sqrt() * noise

    def denoise(self, z: Tensor, h: Tensor, t: Tensor) -> Tensor:
        """û(z_t, x, t), shape (batch, d)."""
        return self.embedding.expected(self.block_logits(z, h, t))

    def forward(
        self,
        x: Tensor,
        *,
        steps: int = 20,
        method: Method = "multistep",
        grid: Grid = "log-snr",
        start: Start = "zero",
    ) -> Tensor:
        """Predict by going from z_0 to z_1 in a number of steps.

        Args:
            x: Input batch.
            steps: Any number from 1. The paper takes 1000.
            method: `"euler"` or `"heun"` (two evaluations a step) on the probability-flow equation; `"exponential"` and
                `"multistep"` solve its linear part exactly, to order 1 and 2, one evaluation a step; `"ancestral"`
                draws from the diffusion itself.
            grid: Where the steps stand: evenly in the logarithm of the signal-to-noise ratio, or in time.
            start: z_0: its mean, `"zero"`, or a draw of `"noise"` as in the paper.

        Returns:
            Log-probabilities, shape (batch, classes).
        """
        check_steps(steps)
        one_of("method", method, get_args(Method))
        one_of("grid", grid, get_args(Grid))
        h = self.encode(x)
        z, times = self.start_at(start, len(h)), self.time_grid(steps, grid)

        def denoise(z: Tensor, t: Tensor) -> Tensor:
            return self.denoise(z, h, t)

        if method == "ancestral":
            z = diffuse(denoise, z, times, self.schedule(times))
        elif method in ("exponential", "multistep"):
            order = 2 if method == "multistep" else 1
            z = integrate_exponentially(denoise, z, times, self.schedule(times), order)
        else:
            z = integrate(lambda z, t: self.velocity(z, h, t), z, times, method)
        return self._log_p_out(z)

    def velocity(self, z: Tensor, h: Tensor, t: Tensor) -> Tensor:
        """dz/dt of the probability-flow equation, shape (batch, d), at a time t that all samples share."""
        gamma, slope = self.schedule.gamma_and_slope(t)
        keep = torch.sigmoid(-gamma)
        return -0.5 * slope * (keep.sqrt() * self.denoise(z, h, t) - keep * z)

    def time_grid(self, steps: int, grid: Grid) -> Tensor:
        """The times t_0 = 0 to t_N = 1, shape (steps + 1,)."""
        rows = self.embedding.rows
        even = torch.linspace(0, 1, steps + 1, device=rows.device, dtype=rows.dtype)
        if grid == "uniform":
            return even
        noisy, clean = self.schedule(even[[0, -1]])
        times = self.schedule.times_at(torch.lerp(noisy, clean, even))
        return torch.cat([even[:1], times[1:-1], even[-1:]])

    def learned_besides(self) -> tuple[str, ...]:
        """The schedule and the head."""
        return ("schedule", "head")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Network, schedule, head and, where it is learned, the embedding; the schedule without weight decay."""
        groups = super().parameter_groups()
        return [group | {"weight_decay": 0.0} if group["name"] == "schedule" else group for group in groups]

    def _ends_loss(self, u: Tensor, y: Tensor) -> Tensor:
        """-log p_out(y|z_1) + KL(q(z_0|y) || N(0, I)), the KL in its closed form."""
        noisy, clean = self.schedule(u.new_tensor([0.0, 1.0]))
        cross_entropy = F.nll_loss(self._log_p_out(self.noisy_label(u, clean, torch.randn_like(u))), y)
        keep = torch.sigmoid(-noisy)
        # log(1 - ᾱ_0) = -softplus(-γ)
        kl = 0.5 * (keep * u.square().sum(dim=1).mean() + u.shape[1] * (F.softplus(-noisy) - keep))
        return cross_entropy + kl

    def _log_p_out(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            return self.head(z).log_softmax(dim=-1)
