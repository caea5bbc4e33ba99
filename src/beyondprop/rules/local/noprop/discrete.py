"""NoProp in discrete time: T blocks that each learn alone to denoise the label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.rule import Rule, check_labels, descend, without_trace
from beyondprop.rules.local.noprop.batched import find_difference, run_together
from beyondprop.rules.local.noprop.blocks import DenoisingBlock, checked_logits, count_features, reinitialised_copy
from beyondprop.rules.local.noprop.embedding import ClassEmbedding, ErrorKind
from beyondprop.rules.local.noprop.schedule import DiscreteSchedule, cosine_schedule
from beyondprop.rules.local.noprop.streams import block_stream, draw_step_seed
from beyondprop.rules.local.sharing import shared_parameter

Start = Literal["zero", "noise"]
Readout = Literal["head", "last-block", "mean"]
Execution = Literal["loop", "batched", "compiled"]


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
        error: What stands for ||û_t - u_y||²: `"squared"`, that itself, or `"cross-entropy"`
            (`ClassEmbedding.denoising_error`).
        execution: How a step trains the blocks. `"loop"`: one after another, so that memory holds the activations of
            one block; the fastest on a CPU, but for small blocks. `"batched"`: all at once by `torch.vmap`, equal to
            the loop but for rounding, with T times its activations and a copy of the parameters in memory; for small
            blocks, and accelerators that wait for the launch of small kernels. The blocks must have one structure;
            dropout draws from one stream for all blocks, not from one for each. `"compiled"`: batched, under
            `torch.compile`, which needs what that needs, such as a C++ compiler. Predictions always run block after
            block.

    Raises:
        UnsupportedNetworkError: There are not T blocks, or two of them share a parameter; or they are to run as one and
            differ in more than their values, or (in `for_classifier`, or in the first `backward`) vmap cannot run them.
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
        error: ErrorKind = "squared",
        execution: Execution = "loop",
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
        if error not in ("squared", "cross-entropy"):
            raise UserError(f"error must be 'squared' or 'cross-entropy', got {error!r}")
        self.error = error
        if execution not in ("loop", "batched", "compiled"):
            raise UserError(f"execution must be 'loop', 'batched' or 'compiled', got {execution!r}")
        if execution != "loop":
            if order == "one-by-one":
                raise UserError('order="one-by-one" trains one block at a time: use execution="loop"')
            if difference := find_difference(list(self.network)):
                raise UnsupportedNetworkError(f'{difference}; only execution="loop" trains blocks that differ')
        self.eta, self.head_form, self.sigma, self.order, self.execution = eta, head, sigma, order, execution
        self.head = embedding.nearest_row_classifier()
        self.train_only(range(1, len(self.network) + 1), head=True)
        if order == "one-by-one":
            self.stages = tuple(f"block {t}" for t in range(1, len(self.network) + 1))

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Any list of distinct blocks will do: `block(z, x)` is called as it is."""
        if isinstance(network, list | tuple) and all(isinstance(block, nn.Module) for block in network):
            network = nn.ModuleList(network)
        if not isinstance(network, nn.ModuleList) or len(network) == 0:
            return "NoProp needs a list of blocks; NoPropDT.for_classifier makes one from a plain classifier"
        return shared_parameter(list(network))

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

        Raises:
            UserError: There is no step, or an option is unknown or out of range.
            UnsupportedNetworkError: The network returns no tensor; else as for the constructor.
        """
        if steps < 1:
            raise UserError(f"steps, the number of blocks, must be at least 1, got {steps}")
        features = count_features(network, example)
        embedding = embedding or ClassEmbedding.one_hot(classes)
        encoders = [nn.Sequential(reinitialised_copy(network), nn.Flatten()) for _ in range(steps)]
        blocks = [DenoisingBlock(e, features, classes, embedding.dim, hidden=hidden) for e in encoders]
        rule = cls(blocks, embedding, **options)
        rule.to(device=example.device, dtype=example.dtype if example.is_floating_point() else None)
        if rule.execution != "loop":  # refuses here what vmap cannot run
            with without_trace(rule):
                z = rule.embedding.table.new_zeros(steps, len(example), embedding.dim)
                run_together(list(rule.network), z, example)
        return rule

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Train each block on its own noisy labels, then the head on the least noisy ones."""
        del phase
        y = check_labels(y, self.embedding.classes)
        steps, seed = len(self.network), draw_step_seed()
        total = self.embedding.table.new_zeros(())
        if self.trains_head:
            with block_stream(seed, 0, x.device):
                total = self._head_loss(y)
            descend(total, "the head p_out")
        if self.stage is None:
            ts: Sequence[int] = sorted(self.trained_blocks)
            share = 1.0
        else:  # Algorithm 1 estimates the sum over t by T times one of its terms
            ts = [t for t in (self.stages.index(self.stage) + 1,) if t in self.trained_blocks]
            share = float(steps)
        total = total.detach()
        if self.execution != "loop" and ts:
            return total + self._train_together(ts, seed, x, y)
        for t in ts:
            with block_stream(seed, t, x.device):
                logits = self._logits(t, self.noisy_label(t - 1, y), x)
                loss = share * self._denoising_loss(logits, y, self.schedule.snr_increment(t))
            descend(loss, f"block {t}")  # frees this block's activations before the next block runs
            total = total + loss.detach()
        return total

    def _train_together(self, ts: Sequence[int], seed: int, x: Tensor, y: Tensor) -> Tensor:
        """What the loop over these blocks does, all at once."""
        noisy = []
        for t in ts:
            with block_stream(seed, t, x.device):
                noisy.append(self.noisy_label(t - 1, y))
        blocks = [self.network[t - 1] for t in ts]
        # The stream of dropout is told apart by the first of the blocks: other processes train others.
        with block_stream(seed, len(self.network) + ts[0], x.device):
            logits = run_together(blocks, torch.stack(noisy), x, compiled=self.execution == "compiled")
        checked_logits(logits[0], f"block {ts[0]}", (len(x), self.embedding.classes))
        increments = self.embedding.table.new_tensor([self.schedule.snr_increment(t) for t in ts])
        losses = self._denoising_loss(logits, y, increments)
        for i in (~losses.isfinite()).nonzero().flatten()[:1].tolist():
            descend(losses[i], f"block {ts[i]}")  # raises
        descend(losses.sum(), "the blocks")
        return losses.detach().sum()

    def train_only(self, blocks: Iterable[int], *, head: bool) -> None:
        """Train some of the blocks alone from now on, as one of several processes does (`beyondprop.parallel`).

        Blocks draw from streams of their own, so that each learns the same whoever trains the others. `rule(x)` runs
        all of them as before.

        Args:
            blocks: Numbers of those to be trained, from 1; `parameter_groups` names their parameters only.
            head: Whether the head is trained.

        Raises:
            UserError: There is no such block.
        """
        self.trained_blocks, self.trains_head = frozenset(blocks), head
        if unknown := self.trained_blocks.difference(range(1, len(self.network) + 1)):
            raise UserError(f"there is no block {min(unknown)}: the blocks are 1 to {len(self.network)}")

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
        """Blocks and head, so far as they are trained here, and the embedding where it is learned."""
        blocks = [self.network[t - 1] for t in sorted(self.trained_blocks)]
        groups = [
            {"name": "blocks", "params": [p for block in blocks for p in block.parameters() if p.requires_grad]},
            {"name": "head", "params": list(self.head.parameters()) if self.trains_head else []},
            {"name": "embedding", "params": list(self.embedding.parameters())},
        ]
        return [group for group in groups if group["params"]]

    def _denoising_loss(self, logits: Tensor, y: Tensor, snr_increment: float | Tensor) -> Tensor:
        """Of one block's logits, shape (batch, classes), or of several blocks', with one increment for each."""
        error = self.embedding.denoising_error(logits, y, self.error)
        return 0.5 * self.eta * snr_increment * error.mean(dim=-1)

    def _logits(self, t: int, z: Tensor, x: Tensor) -> Tensor:
        return checked_logits(self.network[t - 1](z, x), f"block {t}", (len(x), self.embedding.classes))

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
            nearness = self.embedding.nearness(self.embedding.expected(logits))
            return (nearness / self.sigma**2).log_softmax(dim=-1)

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
