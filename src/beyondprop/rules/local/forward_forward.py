"""Forward-Forward: two forward passes, one with the true label and one with a wrong one."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.inputs import check_example
from beyondprop.rule import check_labels, descend, is_finite
from beyondprop.rules.local.blockwise import HiddenLayers, Order, finished, output_shapes
from beyondprop.rules.local.label_input import ClassPattern, LabelInput, Overlay
from beyondprop.rules.local.linear_of_parts import linear_of_parts

Goodness = Literal["sum", "mean"]
Negatives = Literal["uniform", "hard"]
Readout = Literal["scan", "softmax"]

# Of a label scan, whose memory would be that of the batch times the classes: inputs, and numbers of the largest block.
SCANNED, SCANNED_NUMBERS = 4096, 2**26
BOUNDED = (nn.Tanh, nn.Sigmoid, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Softmax)

logger = logging.getLogger("beyondprop.rules")


class _FirstProducts(NamedTuple):
    """A first layer's output is (samples + classes) · scale + bias for a sample with a class.

    Attributes:
        samples: The products of the samples' own numbers with their weights, shape (batch, units).
        classes: Those of the classes', (classes, units).
        scale: That of n for each pair, (batch, classes).
        bias: The layer's.
        rest: What the block still has to run.
    """

    samples: Tensor
    classes: Tensor
    scale: Tensor
    bias: Tensor
    rest: nn.Module


class ForwardForward(HiddenLayers):
    r"""The Forward-Forward algorithm (Hinton, arXiv 2212.13345, Sections 2 and 3.3).

        h_k = block_k(n(h_{k-1})),   G_k = Σ_j h_kj²,   l_k = log(1 + exp(θ - G_k⁺)) + log(1 + exp(G_k⁻ - θ))

    averaged over the batch, with the true class in the input (+) and a wrong one (-). n scales a sample to a mean
    square of 1, so that the next block sees directions alone, and not the goodness G of the one before. All C classes
    are tried to predict, in one batch of C times the samples, and the one with the greatest goodness is chosen.

    Args:
        network: An `nn.Sequential` of hidden layers; it is never changed. It has no output layer.
        example: One input batch, run once without a trace, to see the shapes of the blocks' outputs.
        classes: Number of classes.
        label: How the class enters. Default: `Overlay(classes)`.
        blocks, order: As `Blockwise`.
        goodness: Of a block: the `"sum"` of squares of its output, or their `"mean"`.
        threshold: θ in units of a mean square; with the sum it is multiplied by the block's units. Default: 1, and a
            quarter for blocks that end in a bounded activation, which cannot reach 1.
        normalise: Whether n is applied, also to the input; without it n does nothing.
        negatives: Wrong classes are drawn `"uniform"`ly, or `"hard"`: in proportion to the square root of the goodness
            that the network gives them, which costs one label scan a step.
        peer: Weight of peer normalisation: the squared deviation of each unit's mean activity (over the true samples; a
            moving average with a decay of 0.9) from that of all units of its block, averaged.
        skip_first: Whether the first block's goodness does not count for predictions, where there are others.
        readout: `"softmax"` also trains a linear classifier on the normalised outputs of all blocks but the first (of
            all where there is but one), for an input that names no class: predictions by one pass. In the order
            `"one-by-one"` it is the last stage.

    Raises:
        UnsupportedNetworkError: The network is no `nn.Sequential`, or blocks share a parameter.
        UserError: An option is unknown or out of range; in `backward`, a label is no class index.
        NonFiniteError: In `backward`, when a block's loss is NaN or infinite; the message names the block. Blocks
            before it have received their gradients by then.

    >>> network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    >>> rule = ForwardForward(network, torch.zeros(2, 6), classes=3)
    >>> rule.backward(torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    >>> rule(torch.randn(5, 6)).shape
    torch.Size([5, 3])
    """

    # The sum of the blocks' losses also changes by what a block's step does to the inputs of those behind it.
    follows_gradient: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        classes: int,
        *,
        label: LabelInput | None = None,
        blocks: Sequence[int] | None = None,
        goodness: Goodness = "sum",
        threshold: float | None = None,
        normalise: bool = True,
        negatives: Negatives = "uniform",
        peer: float = 0.0,
        skip_first: bool = True,
        readout: Readout = "scan",
        order: Order = "together",
    ) -> None:
        super().__init__(network, blocks, order)
        if goodness not in ("sum", "mean"):
            raise UserError(f"goodness must be 'sum' or 'mean', got {goodness!r}")
        if negatives not in ("uniform", "hard"):
            raise UserError(f"negatives must be 'uniform' or 'hard', got {negatives!r}")
        if readout not in ("scan", "softmax"):
            raise UserError(f"readout must be 'scan' or 'softmax', got {readout!r}")
        if peer < 0:
            raise UserError(f"peer must be at least 0, got {peer}")
        self.classes, self.goodness, self.normalise = classes, goodness, normalise
        self.negatives, self.peer, self.readout = negatives, peer, readout
        if label is not None and not isinstance(label, LabelInput):
            raise UserError(f"label must be a LabelInput such as Overlay or ClassPattern, not {type(label).__name__}")
        if threshold is not None and not threshold > 0:
            raise UserError(f"threshold must be positive, got {threshold}")
        check_example(example, network)
        like = next(network.parameters())
        self.label = (label or Overlay(classes)).to(device=like.device, dtype=like.dtype)
        if self.label.classes != classes:
            raise UserError(f"the label is made for {self.label.classes} classes, and the rule for {classes}")
        self.shapes = self._output_shapes(example)
        self._overlaid_told = False
        self.thresholds = [self._threshold(k, threshold) for k in range(len(self.blocks))]
        self._first_counted = 1 if skip_first and len(self.blocks) > 1 else 0
        self._first_read = 1 if len(self.blocks) > 1 else 0
        if peer > 0:
            for k, shape in enumerate(self.shapes):
                start = torch.zeros(shape[0], device=like.device, dtype=like.dtype)
                self.register_buffer(f"activity_{k}", start)
        self.classifier: nn.Linear | None = None
        if readout == "softmax":
            features = sum(shape.numel() for shape in self.shapes[self._first_read :])
            self.classifier = nn.Linear(features, classes).to(device=like.device, dtype=like.dtype)
            for parameter in self.classifier.parameters():
                nn.init.zeros_(parameter)
            if order == "one-by-one":
                self.stages = (*self.stages, "readout")

    def pair_loss(self, positive: Tensor, negative: Tensor, threshold: float) -> Tensor:
        """Return one block's loss, a scalar.

        Args:
            positive: Goodness of the samples with their true class, shape (batch,).
            negative: Goodness of the same samples with a wrong one, shape (batch,).
            threshold: θ.
        """
        # Below -40 the gradient is less than rounding, and so small that products with it are several times slower.
        pull, push = (threshold - positive).clamp(min=-40), (negative - threshold).clamp(min=-40)
        return (F.softplus(pull) + F.softplus(push)).mean()

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Run both passes as one batch; each block learns from its own goodness."""
        del phase
        y = check_labels(y, self.classes)
        if not is_finite(x):  # the label may overlay it
            raise NonFiniteError("the input holds NaN or infinity: clean the data")
        self._tell_what_is_overlaid(x)
        if self.stage == "readout":
            with finished(self):
                outputs = self._unnamed(x)
            return self._train_readout(outputs, y)
        wrong = self.wrong_labels(x, y)
        reads = self.classifier is not None and self.stage is None
        unnamed: list[tuple[Tensor, Tensor]] = []

        def objective(k: int, h: Tensor) -> Tensor:
            if reads:  # now, while autocast still holds this block's weights in bfloat16
                with finished(self.blocks[k]):
                    before = self.direction(*unnamed[-1]) if unnamed else self.direction(self.label.neutral(x))
                    made = self.blocks[k](before)
                    unnamed.append((made, _size(made)))
            positive, negative = self.measure(h).chunk(2)
            loss = self.pair_loss(positive, negative, self.thresholds[k])
            return loss + self.peer * self._inequality(k, h[: len(x)]) if self.peer > 0 else loss

        with torch.set_grad_enabled(self.stage in (None, self.stages[0])):
            entered = self._entered(x, y, wrong)
        loss = self.walk(*entered, objective, self.direction)
        return loss + self._train_readout(unnamed, y) if reads else loss

    def forward(self, x: Tensor, *, readout: Readout | None = None) -> Tensor:
        """Predict.

        Args:
            x: Input batch.
            readout: `"scan"`: the classes' goodness, summed over blocks, by one pass with all classes; `"softmax"`: the
                scores of the linear classifier, by one pass. Default: as the rule was made.

        Raises:
            UserError: `"softmax"` of a rule that was made without it.
        """
        readout = readout or self.readout
        if readout == "softmax":
            if self.classifier is None:
                raise UserError('this rule has no classifier to read: make it with readout="softmax"')
            return self.classifier(self._features(self._unnamed(x)))
        if readout != "scan":
            raise UserError(f"readout must be 'scan' or 'softmax', got {readout!r}")
        return self.scan(x)

    def scan(self, x: Tensor) -> Tensor:
        """Return every class's goodness, summed over the blocks that count, shape (batch, classes)."""
        largest = max(shape.numel() for shape in self.shapes)
        inputs = min(SCANNED, SCANNED_NUMBERS // largest)
        return torch.cat([self._scan(part) for part in x.split(max(1, inputs // self.classes))])

    def _scan(self, x: Tensor) -> Tensor:
        first = self._first_products(x)
        if first is None:
            outputs = self._outputs(self.direction(self.label.every_class(x)))
        else:
            every = torch.addcmul(first.bias, first.samples[:, None] + first.classes, first.scale[..., None])
            outputs = self._outputs(every.flatten(0, 1), first.rest)
        counted = itertools.islice(outputs, self._first_counted, None)
        found: Tensor = sum(self.measure(h, size) for h, size in counted)  # type: ignore[assignment]
        return found.view(len(x), self.classes)

    def measure(self, h: Tensor, size: Tensor | None = None) -> Tensor:
        """Return the goodness of a block's output, shape (batch,), in float32 at least; `size`: its samples' length."""
        squares = (_size(h) if size is None else size).square()
        return squares if self.goodness == "sum" else squares / h[0].numel()

    def direction(self, h: Tensor, size: Tensor | None = None) -> Tensor:
        """Scale each sample to a mean square of 1; `size`: the samples' lengths."""
        if not self.normalise:
            return h
        scale = h[0].numel() ** 0.5 / ((_size(h) if size is None else size) + 1e-8)
        return h * scale.to(h.dtype).view(-1, *[1] * (h.ndim - 1))

    def wrong_labels(self, x: Tensor, y: Tensor) -> Tensor:
        """Draw a wrong class for every sample, shape (batch,)."""
        if self.negatives == "uniform":
            return (y + torch.randint_like(y, 1, self.classes)) % self.classes
        with finished(self):
            goodness = self.scan(x)
            if not goodness.isfinite().all():
                self._name_broken_block(x)
        likely = goodness.sqrt() + 1e-12  # where all is quiet, all wrong classes are alike
        return torch.multinomial(likely.scatter(1, y[:, None], 0.0), 1).squeeze(1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network, learned class patterns, and the classifier."""
        parts = {"network": self.network, "label": self.label, "readout": self.classifier}
        found = {name: [p for p in m.parameters() if p.requires_grad] for name, m in parts.items() if m is not None}
        return [{"name": name, "params": parameters} for name, parameters in found.items() if parameters]

    def _outputs(self, x: Tensor, first: nn.Module | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The blocks' outputs and their lengths, for a direction x; `first` is run in place of the first block."""
        for block in (self.blocks[0] if first is None else first, *self.blocks[1:]):
            x = block(x)
            size = _size(x)
            yield x, size
            x = self.direction(x, size)

    def _linear_place(self, x: Tensor) -> int | None:
        """Where the linear layer that reads the flat input stands, if the label is one of those known here."""
        flat = x.ndim == 2
        for place, child in enumerate(self.blocks[0] if type(self.label) in (Overlay, ClassPattern) else ()):
            if type(child) is nn.Linear and not child._forward_hooks and not child._forward_pre_hooks:
                return place if flat else None
            if type(child) is not nn.Flatten or (child.start_dim, child.end_dim) != (1, -1):
                return None
            flat = True
        return None

    def _first_products(self, x: Tensor) -> _FirstProducts | None:
        """What the first layer makes of samples and of classes, each once; None where it has to see whole inputs."""
        place = self._linear_place(x)
        parts = None if place is None else self.label.side_by_side(x)
        if place is None or parts is None:
            return None
        samples, classes, classes_first = parts
        layer = self.blocks[0][place]
        assert isinstance(layer, nn.Linear)
        product, class_product = linear_of_parts(samples, classes, layer.weight, classes_first=classes_first)
        if self.normalise:
            size = torch.hypot(_size(samples)[:, None], _size(classes))
            scale = (layer.in_features**0.5 / (size + 1e-8)).to(product.dtype)
        else:
            scale = product.new_ones(len(samples), self.classes)
        bias = product.new_zeros(1) if layer.bias is None else layer.bias.to(product.dtype)
        return _FirstProducts(product, class_product, scale, bias, self.blocks[0][place + 1 :])

    def _entered(self, x: Tensor, y: Tensor, wrong: Tensor) -> tuple[Tensor, nn.Module | None]:
        """Both passes as one batch: a direction, or what the first layer makes of it and what then is left to run."""
        first = self._first_products(x)
        if first is None:
            return self.direction(torch.cat([self.label(x, y), self.label(x, wrong)])), None
        passes = [
            torch.addcmul(first.bias, first.samples + first.classes[labels], first.scale.gather(1, labels[:, None]))
            for labels in (y, wrong)
        ]
        return torch.cat(passes), first.rest

    def _unnamed(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The blocks' outputs and their lengths where no class is named."""
        return list(self._outputs(self.direction(self.label.neutral(x))))

    def _features(self, outputs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """What the classifier reads: directions of the blocks' outputs where no class is named."""
        return torch.cat([self.direction(h, size).flatten(1) for h, size in outputs[self._first_read :]], dim=1)

    def _train_readout(self, outputs: list[tuple[Tensor, Tensor]], y: Tensor) -> Tensor:
        assert self.classifier is not None
        loss = F.cross_entropy(self.classifier(self._features(outputs)), y)
        descend(loss, "the classifier")
        return loss.detach()

    def _tell_what_is_overlaid(self, x: Tensor) -> None:
        """Say once that a table loses its first columns, where these are not empty as a picture's first pixels are."""
        if self._overlaid_told or len(x) == 1:
            return
        self._overlaid_told = True
        if type(self.label) is Overlay and x.ndim == 2 and (x[:, : self.classes] != x[0, : self.classes]).any():
            logger.warning(
                "the class takes the place of the first %d of a sample's %d numbers, and what they say is lost: put as "
                "many empty columns before them, or give label=ClassPattern(%d, (%d,))",
                *(self.classes, x.shape[1]) * 2,
            )

    def _inequality(self, k: int, h: Tensor) -> Tensor:
        """How unequally a block's units are active; their moving averages take in this batch if it is finite."""
        average: Tensor = getattr(self, f"activity_{k}")
        activity = h.mean(dim=[0, *range(2, h.ndim)]).to(average.dtype)
        present = 0.9 * average + 0.1 * activity
        unequal = (present.mean() - present).square().mean()
        if unequal.isfinite():
            average.copy_(present.detach())
        return unequal

    def _name_broken_block(self, x: Tensor) -> None:
        """Raise the error that says in which block goodness is not finite."""
        outputs = self._outputs(self.direction(self.label.every_class(x[:1])))
        number = next((k for k, (h, _) in enumerate(outputs, start=1) if not h.isfinite().all()), len(self.blocks))
        raise NonFiniteError(
            f"the goodness of block {number} is NaN or infinite: check the data for NaN, or lower the learning rate"
        )

    def _output_shapes(self, example: Tensor) -> list[torch.Size]:
        labelled = self.label(example, torch.zeros(len(example), dtype=torch.long, device=example.device))
        try:
            return output_shapes(self.blocks, self.network, labelled)
        except UserError as error:
            if labelled.shape == example.shape:
                raise
            raise UserError(
                f"{error} (of a sample of {tuple(example.shape[1:])} the label makes {tuple(labelled.shape[1:])}: "
                'the first layer has to take that; how="added" leaves the shape as it is)'
            ) from error

    def _threshold(self, k: int, threshold: float | None) -> float:
        if threshold is None:
            last = [m for m in self.blocks[k].modules() if type(m).__module__ == nn.ReLU.__module__]  # activations
            threshold = 0.25 if last and isinstance(last[-1], BOUNDED) else 1.0
        return threshold * (self.shapes[k].numel() if self.goodness == "sum" else 1)


def _size(h: Tensor) -> Tensor:
    """Lengths of the samples, shape (batch,), in float32 at least."""
    return torch.linalg.vector_norm(h.flatten(1), dim=1, dtype=torch.promote_types(h.dtype, torch.float32))
