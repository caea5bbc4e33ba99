"""NoProp by flow matching: one block that says which way the label lies."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.rules.local.noprop.embedding import ClassEmbedding
from beyondprop.rules.local.noprop.integrators import check_steps, integrate, one_of
from beyondprop.rules.local.noprop.timed import Start, TimedNoProp

Method = Literal["euler", "heun", "adams-bashforth"]
Grid = Literal["uniform", "log-snr"]


class NoPropFM(TimedNoProp):
    r"""NoProp by flow matching (Li, Teh and Pascanu, arXiv 2503.24322, Section 2.2.3, Algorithm 3).

    One block learns the velocity that carries noise z_0 ~ N(0, I) along a straight line to the label's embedding
    z_1 = u_y. The loss of a batch is the mean over its samples, each with t ~ U(0, 1) of its own, of

        L = ||v(z_t, x, t) - (z_1 - z_0)||²,   z_t ~ N(t z_1 + (1 - t) z_0, σ² I)                        (10), (11)

    where v = block(z_t, x, t) W_Embed, without softmax. A learned embedding would shrink to a point under this loss; it
    is anchored by -log p_out(y | z̃_1) with z̃_1 = z_t + (1 - t) v and p_out the softmax of a linear layer (12), (13).
    The prediction follows dz/dt = v(z, x, t) from noise at t = 0 to t = 1, and takes the class whose embedding is
    nearest.

    Args:
        encoder: Reads x, once for a batch.
        block: Called as `block(z, h, t)`, h what the encoder gives; returns class logits of shape (batch, classes).
        embedding: W_Embed.
        sigma: σ of (10), not negative; the paper gives none.
        consistency: Weight of a term ||z̃_1(z_t, x, t) - z̃_1(z_s, x, s)||² where z_s is a cleaner point of the same
            line, a tenth of the way from t to 1, and is held fixed. A block whose answers agree along the way needs
            fewer steps.
        draws: Times and noises drawn for each sample of a batch.

    Raises:
        UserError: A number is out of range.

    >>> from beyondprop.rules.local.noprop import TimedBlock
    >>> rule = NoPropFM(nn.Linear(4, 8), TimedBlock(8, classes=3, dim=3), ClassEmbedding.one_hot(3))
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
        sigma: float = 0.1,
        consistency: float = 0.0,
        draws: int = 1,
    ) -> None:
        super().__init__(encoder, block, embedding, draws=draws)
        if sigma < 0 or consistency < 0:
            raise UserError(f"sigma and consistency must not be negative, got {sigma} and {consistency}")
        self.sigma, self.consistency = sigma, consistency
        # A fixed embedding has nothing to be anchored, and its classes are told by distance alone.
        self.head = embedding.nearest_row_classifier() if embedding.learned else None

    def batch_loss(self, h: Tensor, y: Tensor) -> Tensor:
        """The objective, with t and the noise drawn anew."""
        clean, t = self.embedding(y), self.draw_times(len(y))
        noise, blur = torch.randn_like(clean), torch.randn_like(clean)

        def between(t: Tensor) -> Tensor:  # (10)
            part = t.unsqueeze(-1)
            return part * clean + (1 - part) * noise + self.sigma * blur

        z = between(t)
        velocity = self.velocity(z, h, t)
        loss = (velocity - (clean - noise)).square().sum(dim=1).mean()
        reached = z + (1 - t).unsqueeze(-1) * velocity
        if self.head is not None:
            with torch.autocast(z.device.type, enabled=False):
                loss = loss + F.cross_entropy(self.head(reached), y)
        if self.consistency:
            with torch.no_grad():
                later = t + 0.1 * (1 - t)
                z_later = between(later)
                aim = z_later + (1 - later).unsqueeze(-1) * self.velocity(z_later, h, later)
            loss = loss + self.consistency * (reached - aim).square().sum(dim=1).mean()
        return loss

    def velocity(self, z: Tensor, h: Tensor, t: Tensor) -> Tensor:
        """v(z, x, t), shape (batch, d)."""
        return self.embedding.combined(self.block_logits(z, h, t))

    def forward(
        self,
        x: Tensor,
        *,
        steps: int = 20,
        method: Method = "euler",
        grid: Grid = "uniform",
        start: Start = "zero",
    ) -> Tensor:
        """Predict by following the velocity from z_0 to z_1 in a number of steps.

        Args:
            x: Input batch.
            steps: Any number from 1. The paper takes 1000.
            method: `"euler"`; `"heun"`, order 2 by two evaluations a step; `"adams-bashforth"`, order 2 by one.
            grid: Where the steps stand: evenly in time, or in the logarithm of the signal-to-noise ratio
                t² / (1 - t)², which puts more of them at either end.
            start: z_0: its mean, `"zero"`, or a draw of `"noise"` as in the paper.

        Returns:
            Scores -k ||z_1 - u||²/2, normalised over the classes as log-probabilities, shape (batch, classes); the
            largest is the nearest embedding. k is fixed at 10.
        """
        check_steps(steps)
        one_of("method", method, get_args(Method))
        one_of("grid", grid, get_args(Grid))
        h = self.encode(x)
        z = integrate(
            lambda z, t: self.velocity(z, h, t), self.start_at(start, len(h)), self.time_grid(steps, grid), method
        )
        return (10.0 * self.embedding.nearness(z)).log_softmax(dim=-1)

    def time_grid(self, steps: int, grid: Grid) -> Tensor:
        """The times t_0 = 0 to t_N = 1, shape (steps + 1,)."""
        rows = self.embedding.rows
        even = torch.linspace(0, 1, steps + 1, device=rows.device, dtype=rows.dtype)
        if grid == "uniform":
            return even
        times = torch.sigmoid(4.0 * (2 * even - 1))  # log SNR from -8 to 8
        return torch.cat([even[:1], times[1:-1], even[-1:]])

    def learned_besides(self) -> tuple[str, ...]:
        """The head, where there is one."""
        return ("head",) if self.head is not None else ()
