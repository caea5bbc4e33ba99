"""What NoProp-CT and NoProp-FM share: an encoder that reads x once, and one block for all times."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.rule import Rule, check_labels, descend
from beyondprop.rules.local.noprop.blocks import TimedBlock, checked_logits, count_features, reinitialised_copy
from beyondprop.rules.local.noprop.embedding import ClassEmbedding
from beyondprop.rules.local.noprop.integrators import one_of

Start = Literal["zero", "noise"]


class TimedNoProp(Rule):
    """A rule with one block for all times t in [0, 1]; subclasses write the loss of a batch and the prediction.

    Args:
        encoder: Reads the input batch x; whatever tensor h it returns, first dimension the batch, goes to the block. It
            does not know t, so it runs once for a batch, however many times and steps there are.
        block: Called as `block(z, h, t)`, with z of shape (batch, d) and t of shape (batch,); returns class logits
            of shape (batch, classes).
        embedding: W_Embed.
        draws: Pairs of a time and a noise drawn for each sample of a batch. The encoder still runs once: further draws
            lower the variance of the gradient for little.

    Raises:
        UnsupportedNetworkError: An argument is no module; in a call, the encoder or the block returns something else.
        UserError: A number is out of range; in `backward`, a label is out of range.
        NonFiniteError: In `backward`, when the loss is NaN or infinite.
    """

    def __init__(self, encoder: nn.Module, block: nn.Module, embedding: ClassEmbedding, *, draws: int = 1) -> None:
        super().__init__()
        modules = isinstance(encoder, nn.Module) and isinstance(block, nn.Module)
        if not modules or not isinstance(embedding, ClassEmbedding):
            name = type(self).__name__
            raise UnsupportedNetworkError(
                f"{name} needs an encoder, a block and a ClassEmbedding; {name}.for_classifier makes them"
            )
        if draws < 1:
            raise UserError(f"draws must be at least 1, got {draws}")
        self.encoder, self.block, self.embedding, self.draws = encoder, block, embedding, draws

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """Any classifier will do: a copy of it is the encoder."""
        del network, example
        return None

    @classmethod
    def for_classifier(
        cls,
        network: nn.Module,
        example: Tensor,
        classes: int,
        *,
        embedding: ClassEmbedding | None = None,
        hidden: int = 256,
        draws: int = 4,
        **options: Any,
    ) -> Self:
        """Make a newly initialised copy of the classifier the encoder, with the image path of `TimedBlock` upon it.

        Args:
            network: Maps a batch to features, for instance class scores. It is copied, never used itself; the copy
                draws new weights; layers whose parameters are frozen keep theirs, and stay frozen.
            example: One input batch.
            classes: Number of classes.
            embedding: W_Embed; default one-hot.
            hidden: Width of the paths of image, label and time.
            draws: Times and noises drawn for each sample. The constructor's default is the paper's one; more of them
                learn in fewer epochs, and cost little beside the encoder.
            **options: Arguments of the constructor.
        """
        features = count_features(network, example)
        embedding = embedding or ClassEmbedding.one_hot(classes)
        encoder = nn.Sequential(reinitialised_copy(network), nn.Flatten(), *TimedBlock.image_path(features, hidden))
        block = TimedBlock(hidden, classes, embedding.dim)
        rule = cls(encoder, block, embedding, draws=draws, **options)
        return rule.to(device=example.device, dtype=example.dtype if example.is_floating_point() else None)

    @abstractmethod
    def batch_loss(self, h: Tensor, y: Tensor) -> Tensor:
        """The objective on encoded inputs h and labels y, each `draws` times the batch; a scalar."""

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Differentiate the batch's loss through the one block and its encoder."""
        del phase
        y = check_labels(y, self.embedding.classes)
        h = self.encode(x)
        loss = self.batch_loss(h.repeat(self.draws, *[1] * (h.ndim - 1)), y.repeat(self.draws))
        descend(loss, "the block")
        return loss

    def encode(self, x: Tensor) -> Tensor:
        """h, what the encoder makes of x, checked to be a tensor with the batch as its first dimension."""
        h = self.encoder(x)
        if not isinstance(h, Tensor) or h.ndim == 0 or len(h) != len(x):
            made = f"shape {tuple(h.shape)}" if isinstance(h, Tensor) else type(h).__name__
            raise UnsupportedNetworkError(
                f"the encoder returns {made}, but h must be a tensor with the batch of {len(x)} as its first dimension"
            )
        return h

    def draw_times(self, count: int) -> Tensor:
        """Draw `count` times, each uniform on [0, 1), together evenly spread.

        One random shift of a regular grid (Kingma et al., arXiv 2107.00630, Appendix I.1) keeps the expectation of any
        loss over t and lowers its variance.
        """
        rows = self.embedding.rows
        regular = torch.arange(count, device=rows.device, dtype=rows.dtype) / count
        return (regular + torch.rand((), device=rows.device, dtype=rows.dtype)) % 1

    def start_at(self, start: Start, batch: int) -> Tensor:
        """z_0: its mean, `"zero"`, or a draw of `"noise"`; shape (batch, d)."""
        one_of("start", start, get_args(Start))
        z = self.embedding.rows.new_zeros(batch, self.embedding.dim)
        return torch.randn_like(z) if start == "noise" else z

    def block_logits(self, z: Tensor, h: Tensor, t: Tensor) -> Tensor:
        """What the block says at times t of shape (batch,), or one time for all, with its shape checked."""
        return checked_logits(self.block(z, h, t.expand(len(z))), "the block", (len(z), self.embedding.classes))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Encoder and block, then whatever else the rule learns."""
        network = [*self.encoder.parameters(), *self.block.parameters()]
        groups = [
            {"name": "network", "params": [p for p in network if p.requires_grad]},
            *({"name": name, "params": list(getattr(self, name).parameters())} for name in self.learned_besides()),
            {"name": "embedding", "params": list(self.embedding.parameters())},
        ]
        return [group for group in groups if group["params"]]

    def learned_besides(self) -> tuple[str, ...]:
        """Names of the rule's other modules that learn."""
        return ()
