"""NoProp in discrete time: T blocks that each learn alone to denoise the label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rule import Rule, check_labels, without_trace
from beyondprop.rules.local.noprop.blocks import DenoisingBlock, reinitialised_copy
from beyondprop.rules.local.noprop.embedding import ClassEmbedding
from beyondprop.rules.local.noprop.schedule import DiscreteSchedule, cosine_schedule
from beyondprop.rules.local.noprop.streams import block_stream, draw_step_seed

Start = Literal["zero", "noise"]
Readout = Literal["head", "last-block", "mean"]


class NoPropDT(Rule):
    r"""NoProp, discrete time (Li, Teh and Pascanu, arXiv 2503.24322, Section 2.1, Algorithm 1).

    Every block sees the input x and a noisy label embedding, and learns to say what the clean one is; no gradient
    passes from one block to another. The loss of a batch is (8), with the expectation over t taken exactly:

        L = -log p_out(y | z_T) + KL(q(z_0|y) || N(0,I)) + η/2 Σ_t (SNR(t) - SNR(t-1)) ||û_t(z_{t-1}, x) - u_y||²

    where z_{t-1} ~ q(z_{t-1}|y) and z_T ~ q(z_T|y) (6), and û_t = softmax(block_t(z_{t-1}, x)) W_Embed. To predict, the
    chain z_t = a_t û_t(z_{t-1}, x) + b_t z_{t-1} + sqrt(c_t) ε (3) runs from t = 0 (noise) to t = T (clean).

    Args:
        blocks: T modules, each called as `block(z, x)` with z of shape (batch, d) and the input batch x, returning
            class logits of shape (batch, classes). They may not share parameters.
        embedding: W_Embed.
        schedule: Signal levels ᾱ_0..ᾱ_T; default: the clipped cosine.
        eta: η, weight of the denoising term.
        head: p_out. `"softmax"`: softmax of a linear layer (14). `"posterior"`: exp(-||ỹ - u_y||² / (2σ²)) normalised
            over classes, with ỹ = softmax(linear(z_T)) W_Embed (15)-(16).
        sigma: σ of the posterior head (the paper gives none).
        order: `"all-blocks"`: every batch trains all blocks. `"one-by-one"`: Algorithm 1, where every epoch passes over
            the data once for each t, training block t alone with the single-t estimate of the loss; the stages are the
            blocks.

    Raises:
        UnsupportedNetworkError: There are not T blocks, or two of them share a parameter.
        UserError: An option is unknown or out of range; in `backward`, a label is out of range.
        NonFiniteError: In `backward`, when a block's loss is NaN or infinite; the message names the block.

    >>> blocks = [DenoisingBlock(nn.Flatten(), features=4, classes=3, dim=3) for _ in range(5)]
    >>> rule = NoPropDT(blocks, ClassEmbedding.one_hot(3))
    >>> rule.backward(torch.randn(8, 4), torch.randint(3, (8,))).shape
    torch.Size([])
    >>> rule(torch.randn(8, 4)).shape
    torch.Size([8, 3])
    """

    stage_span = "epoch"

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        embedding: ClassEmbedding,
        *,
        schedule: DiscreteSchedule | None = None,
        eta: float = 0.1,
        head: Literal["softmax", "posterior"] = "softmax",
        sigma: float = 0.5,
        order: Literal["all-blocks", "one-by-one"] = "all-blocks",
    ) -> None:
        super().__init__()
        one_network = isinstance(blocks, nn.Module) and not isinstance(blocks, nn.ModuleList)
        if one_network or not isinstance(embedding, ClassEmbedding):
            raise UnsupportedNetworkError(
                "NoProp needs a list of blocks and a ClassEmbedding; NoPropDT.for_classifier makes both"
            )
        self.network = blocks if isinstance(blocks, nn.ModuleList) else nn.ModuleList(blocks)
        if reason := self.supports(self.network):
            raise UnsupportedNetworkError(reason)
        self.embedding = embedding
        self.schedule = schedule or cosine_schedule(len(self.network))
        if self.schedule.steps != len(self.network):
            raise UnsupportedNetworkError(
                f"a schedule of {self.schedule.steps} steps needs as many blocks, got {len(self.network)}"
            )
        if eta <= 0 or sigma <= 0:
            raise UserError(f"eta and sigma must be positive, got eta={eta} and sigma={sigma}")
        if head not in ("softmax", "posterior"):
            raise UserError(f"head must be 'softmax' or 'posterior', got {head!r}")
        if order not in ("all-blocks", "one-by-one"):
            raise UserError(f"order must be 'all-blocks' or 'one-by-one', got {order!r}")
        self.eta, self.head_form, self.sigma, self.order = eta, head, sigma, order
        self.head = embedding.nearest_row_classifier()
        if order == "one-by-one":
            self.stages = tuple(f"block {t}" for t in range(1, len(self.network) + 1))

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Any list of distinct blocks will do: `block(z, x)` is called as it is."""
        if isinstance(network, list | tuple) and all(isinstance(block, nn.Module) for block in network):
            network = nn.ModuleList(network)
        if not isinstance(network, nn.ModuleList) or len(network) == 0:
            return "NoProp needs a list of blocks; NoPropDT.for_classifier makes one from a plain classifier"
        owners: dict[int, str] = {}
        for name, parameter in network.named_parameters(remove_duplicate=False):
            block = name.split(".")[0]
            owner = owners.setdefault(id(parameter), block)
            if owner != block:
                both = f"block {int(owner) + 1} and block {int(block) + 1}"
                return f"{both} share the parameter {name}: each must learn alone"
        return None

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """Any classifier will do: its copies are the blocks' encoders."""
        del network, example
        return None

    @classmethod
    def for_classifier(
        cls,
        network: nn.Module,
        example: Tensor,
        classes: int,
        *,
        steps: int = 10,
        embedding: ClassEmbedding | None = None,
        hidden: int = 256,
        **options: Any,
    ) -> Self:
        """Make T blocks that each read x through an encoder of their own: a newly initialised copy of the classifier.

        Args:
            network: Maps a batch to features, for instance class scores. It is copied, never used itself; the copies
                draw new weights; layers whose parameters are frozen keep theirs, and stay frozen.
            example: One input batch.
            classes: Number of classes.
            steps: T, the number of blocks.
            embedding: W_Embed; default one-hot.
            hidden: Width of the blocks' label path.
            **options: Arguments of the constructor.
        """
        with without_trace(network):
            features = network(example).flatten(1).shape[1]
        embedding = embedding or ClassEmbedding.one_hot(classes)
        encoders = [nn.Sequential(reinitialised_copy(network), nn.Flatten()) for _ in range(steps)]
        blocks = [DenoisingBlock(e, features, classes, embedding.dim, hidden=hidden) for e in encoders]
        rule = cls(blocks, embedding, **options)
        return rule.to(device=example.device, dtype=example.dtype if example.is_floating_point() else None)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Train each block on its own noisy labels, then the head on the least noisy ones."""
        del phase
        y = check_labels(y, self.embedding.classes)
        steps, seed = len(self.network), draw_step_seed()
        with block_stream(seed, 0, x.device):
            total = self._head_loss(y)
        _descend(total, "the head p_out")
        if self.stage is None:
            ts: Sequence[int] = range(1, steps + 1)
            share = 1.0
        else:  # Algorithm 1 estimates the sum over t by T times one of its terms
            ts = (self.stages.index(self.stage) + 1,)
            share = float(steps)
        total = total.detach()
        for t in ts:
            with block_stream(seed, t, x.device):
                loss = share * self._denoising_loss(t, x, y)
            _descend(loss, f"block {t}")  # frees this block's activations before the next block runs
            total = total + loss.detach()
        return total

    def noisy_label(self, t: int, y: Tensor) -> Tensor:
        """Draw z_t ~ q(z_t | y) of (6), shape (batch, d), for t = 0..T."""
        level, u = self.schedule.alpha_bar[t], self.embedding(y)
        return math.sqrt(level) * u + math.sqrt(1 - level) * torch.randn_like(u)

    def forward(
        self, x: Tensor, *, noise: bool = False, start: Start = "zero", readout: Readout = "head", chains: int = 1
    ) -> Tensor:
        """Predict by running the chain from z_0 to z_T.

        The paper draws z_0 ~ N(0, I) and noise in every update (`noise=True, start="noise"`). The default leaves both
        out: each draw that misleads an early block is kept by the late ones, which trust z more than x.

        Args:
            x: Input batch.
            noise: Whether to add sqrt(c_t) ε in every update.
            start: z_0: its mean, `"zero"`, or a draw of `"noise"`.
            readout: Where the class is read: `"head"`, p_out(y | z_T); `"last-block"`, the last block's probabilities;
                `"mean"`, the mean of all blocks' probabilities along the chain.
            chains: How many chains to draw and average (of use with noise only).

        Returns:
            Log-probabilities, shape (batch, classes).
        """
        if chains < 1:
            raise UserError(f"chains must be at least 1, got {chains}")
        runs = [self._read(readout, *self.run_chain(x, noise=noise, start=start)) for _ in range(chains)]
        return torch.stack(runs).logsumexp(dim=0) - math.log(chains)

    def run_chain(self, x: Tensor, *, noise: bool = False, start: Start = "zero") -> tuple[Tensor, Tensor]:
        """Run (3) over all blocks.

        Returns:
            z_T, shape (batch, d), and each block's log-probabilities on the way, shape (T, batch, classes).
        """
        z = self._start(start, len(x))
        spoken = []
        for t in range(1, len(self.network) + 1):
            a, b, c = self.schedule.coefficients(t)
            logits = self._logits(t, z, x)
            spoken.append(logits.to(z.dtype).log_softmax(dim=-1))
            z = a * self.embedding.expected(logits) + b * z
            if noise:
                z = z + math.sqrt(c) * torch.randn_like(z)
        return z, torch.stack(spoken)

    def each_block_alone(self, x: Tensor, *, start: Start = "zero") -> Tensor:
        """What each block says given z_0, which holds nothing of the label: log-probabilities (T, batch, classes)."""
        z = self._start(start, len(x))
        said = [self._logits(t, z, x) for t in range(1, len(self.network) + 1)]
        return torch.stack([logits.to(z.dtype).log_softmax(dim=-1) for logits in said])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Blocks, head and, where it is learned, the embedding."""
        groups = [
            {"name": "blocks", "params": [p for p in self.network.parameters() if p.requires_grad]},
            {"name": "head", "params": list(self.head.parameters())},
            {"name": "embedding", "params": list(self.embedding.parameters())},
        ]
        return [group for group in groups if group["params"]]

    def _denoising_loss(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        u = self.embedding(y)
        error = self.embedding.expected(self._logits(t, self.noisy_label(t - 1, y), x)) - u
        return 0.5 * self.eta * self.schedule.snr_increment(t) * error.square().sum(dim=1).mean()

    def _logits(self, t: int, z: Tensor, x: Tensor) -> Tensor:
        logits = self.network[t - 1](z, x)
        expected = (len(x), self.embedding.classes)
        if logits.shape != expected:
            raise UnsupportedNetworkError(
                f"block {t} returns shape {tuple(logits.shape)}, but class logits have (batch, classes) = {expected}"
            )
        return logits

    def _head_loss(self, y: Tensor) -> Tensor:
        u = self.embedding(y)
        cross_entropy = F.nll_loss(self._log_p_out(self.noisy_label(self.schedule.steps, y)), y)
        start, dim = self.schedule.alpha_bar[0], self.embedding.dim
        # The mean over the batch of `DiscreteSchedule.prior_kl`, differentiable where the embedding is learned.
        kl = 0.5 * start * u.square().sum(dim=1).mean() + self.schedule.prior_kl(0.0, dim)
        return cross_entropy + kl

    def _log_p_out(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            logits = self.head(z)
            if self.head_form == "softmax":
                return logits.log_softmax(dim=-1)
            rows = self.embedding.rows
            # -||ỹ - u||² / 2 up to ||ỹ||², which is common to all classes.
            closeness = self.embedding.expected(logits) @ rows.T - 0.5 * rows.square().sum(dim=1)
            return (closeness / self.sigma**2).log_softmax(dim=-1)

    def _start(self, start: Start, batch: int) -> Tensor:
        if start not in ("zero", "noise"):
            raise UserError(f"start must be 'zero' or 'noise', got {start!r}")
        z = self.embedding.rows.new_zeros(batch, self.embedding.dim)
        return torch.randn_like(z) if start == "noise" else z

    def _read(self, readout: Readout, z: Tensor, spoken: Tensor) -> Tensor:
        if readout == "head":
            return self._log_p_out(z)
        if readout == "last-block":
            return spoken[-1]
        if readout == "mean":
            return spoken.logsumexp(dim=0) - math.log(len(spoken))
        raise UserError(f"readout must be 'head', 'last-block' or 'mean', got {readout!r}")


def _descend(loss: Tensor, where: str) -> None:
    if not loss.isfinite():
        raise NonFiniteError(
            f"the loss of {where} is {loss.item()}: check the data for NaN, or lower the learning rate"
        )
    if loss.requires_grad:  # a frozen block has nothing to learn
        loss.backward()
        torch.clear_autocast_cache()  # or the cast weights of every block would stay until the last one has run
