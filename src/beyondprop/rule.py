"""The two contracts of the library: a `Rule` is stepped by an optimizer, a `Solver` is fitted, pass by pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn

from beyondprop.errors import NonFiniteError, UserError


class Rule(nn.Module, ABC):
    """A learning rule around a network: `rule.backward(x, y)` takes the place of `loss.backward()`.

    Subclasses write `assign_credit` and `forward`; everything that users call is checked once, here.

        optimizer = torch.optim.Adam(rule.parameters(), lr=1e-3)
        for x, y in batches:
            optimizer.zero_grad()
            loss = rule.backward(x, y)
            optimizer.step()
        rule(x)

    What a rule carries between calls belongs in its `state_dict`, or a resumed training is not bit-identical. Random
    numbers come from torch's global generators, whose state the training loop saves.

    Attributes:
        phases: Names of the optimizer steps that one batch takes, in order; the loop calls `backward(x, y, phase)` and
            steps once for each. A parameter that a phase does not train keeps its `.grad` None.
        stages: Names of the parts of a training that learns piece by piece, in order; `rule.stage` holds the present
            one.
        follows_gradient: Whether a small enough step against `.grad` lowers the loss that `backward` returns. Rules
            whose direction only agrees with the gradient on average, or not at all, say False.
        stage_span: How long a stage lasts: `"training"` gives each stage its epochs before the next one begins,
            `"epoch"` walks through all stages in every epoch, one pass over the data for each.
    """

    phases: tuple[str | None, ...] = (None,)
    stages: tuple[str | None, ...] = (None,)
    follows_gradient: ClassVar[bool] = True
    stage_span: ClassVar[Literal["training", "epoch"]] = "training"

    def __init__(self) -> None:
        super().__init__()
        self._stage: str | None = None

    @property
    def stage(self) -> str | None:
        """The stage that `backward` trains now; one of `stages`."""
        return self._stage if self._stage in self.stages else self.stages[0]

    @stage.setter
    def stage(self, name: str | None) -> None:
        if name not in self.stages:
            raise UserError(f"{type(self).__name__} has no stage {name!r}: its stages are {self.stages}")
        self._stage = name

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Tell before anything is trained whether the rule can train a network.

        Args:
            network: What the rule's constructor would be given.

        Returns:
            None if it can, else the reason, with the layer's name.
        """
        return None

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """Tell whether `for_classifier` can make the rule from this classifier.

        Args:
            network: As `for_classifier` takes it.
            example: One input batch.

        Returns:
            None if it can, else the reason, with the layer's name.
        """
        del example
        return cls.supports(network)

    @classmethod
    @abstractmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Make the rule from a plain classifier: what the common tests, `compare` and the estimators use.

        Args:
            network: Maps a batch `example` to class scores of shape (batch, classes).
            example: One input batch; it is run once without a trace to learn shapes.
            classes: Number of classes.
            **options: The rule's own settings.
        """

    @abstractmethod
    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Add to each `.grad` what the optimizer is to subtract, and return the loss (a scalar)."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Predict: class scores of shape (batch, classes), of which softmax gives probabilities."""

    def backward(self, x: Tensor, y: Tensor, phase: str | None = None) -> Tensor:
        """Accumulate into each `.grad` what the optimizer is to subtract.

        Args:
            x: Inputs, first dimension the batch.
            y: Targets, first dimension the batch: class indices (int64) for a classifier.
            phase: One of `phases`.

        Returns:
            The batch's loss, detached, a scalar.

        Raises:
            UserError: The batch is empty, x and y differ in length, x is float64 where the weights are float32, the
                phase is unknown, or float16 autocast is on.
            NonFiniteError: The loss is NaN or infinite; the message names the block or layer.
        """
        name = type(self).__name__
        if phase not in self.phases:
            raise UserError(f"{name} has no phase {phase!r}: its phases are {self.phases}")
        if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim and y.ndim):
            raise UserError(f"{name} needs x and y as tensors whose first dimension is the batch")
        if len(x) == 0 or len(x) != len(y):
            raise UserError(
                f"a batch needs as many targets as inputs and at least one: got {len(x)} inputs, {len(y)} targets"
            )
        if torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type) == torch.float16:
            raise UserError(
                f"{name} calls autograd itself, so no loss scaler can reach it and float16 gradients would underflow: "
                "use torch.autocast with dtype=torch.bfloat16, or float32"
            )
        refuse_double(x, self)
        with torch.enable_grad():
            return self.assign_credit(x, y, phase).detach()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Name the groups of parameters that want settings of their own, ready for an optimizer."""
        return [{"name": "network", "params": [p for p in self.parameters() if p.requires_grad]}]


class Solver(nn.Module, ABC):
    """What is fitted rather than stepped: a closed form or a convex problem. `solver.fit(x, y)`, then `solver(x)`.

    It goes over its data in named passes, batch by batch, so that the data need never be in memory whole. Subclasses
    write `begin`, `absorb`, `conclude` and `forward`; everything that users call is checked once, here.

        solver.fit_batches(batches)
        solver(x)

    Whatever `conclude` finds belongs in the `state_dict`: a fit that was interrupted goes on with the first pass that
    it has not concluded. What `begin` makes and `absorb` fills need not.

    Attributes:
        passes: Names of the passes, in order; one for each time that the data are gone over.
    """

    passes: tuple[str, ...] = ("solve",)

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """Tell whether `for_classifier` can make the solver from this classifier.

        Args:
            network: As `for_classifier` takes it.
            example: One input batch.

        Returns:
            None if it can, else the reason, with the layer's name.
        """
        del network, example
        return None

    @classmethod
    @abstractmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Make the solver from a plain classifier, of which it may use the hidden layers, or nothing.

        Args:
            network: Maps a batch `example` to class scores of shape (batch, classes).
            example: One input batch; what is run on it is run without a trace.
            classes: Number of classes.
            **options: The solver's own settings.
        """

    @abstractmethod
    def begin(self, part: str) -> None:
        """Begin a pass, with empty accumulators: what an unfinished pass has left is forgotten."""

    @abstractmethod
    def absorb(self, x: Tensor, y: Tensor, part: str) -> bool | None:
        """Take in one batch of a pass.

        Returns:
            True where the pass has seen enough: the rest of the data is left out.
        """

    @abstractmethod
    def conclude(self, part: str) -> None:
        """End a pass: set what it was made for, and free the accumulators."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Predict: class scores of shape (batch, classes), of which the largest is the class."""

    def fit(self, x: Tensor, y: Tensor, *, batch_size: int = 1000) -> Self:
        """Fit to a data set that is in memory.

        Args:
            x: Inputs, first dimension the samples; finite.
            y: Targets, first dimension the samples.
            batch_size: Samples that are taken in at a time.

        Returns:
            The solver itself, as scikit-learn's estimators do.

        Raises:
            UserError: x is empty or of another length than y; `batch_size` is less than 1.
            NonFiniteError: x or y holds NaN or infinity.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        self._check(x, y)
        return self.fit_batches(list(zip(x.split(batch_size), y.split(batch_size), strict=True)))

    def fit_batches(self, batches: Iterable[tuple[Tensor, Tensor]] | Callable[[], Iterable[Any]]) -> Self:
        """Fit to a data set that is given batch by batch, as often as there are passes.

        Args:
            batches: Pairs (x, y) on the solver's device: a list, a DataLoader, `data.Batches`, or a function that
                returns an iterator (a generator function), called once a pass.

        Returns:
            The solver itself.

        Raises:
            UserError: There are no batches, one is empty or no pair, or x and y differ in length; several passes are
                needed and the batches can be read but once.
            NonFiniteError: A batch holds NaN or infinity.
        """
        iterable = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
        if not iterable and not callable(batches):
            raise UserError(f"batches must be an iterable of pairs (x, y), not {type(batches).__name__}")
        if isinstance(batches, Iterator) and len(self.passes) > 1:
            raise UserError(
                f"{type(self).__name__} goes over its data {len(self.passes)} times, and a generator gives its batches "
                "once: give a list, a DataLoader, or the generator function itself"
            )
        for part in self.passes:
            opened: Any = batches if iterable else cast(Callable[[], Any], batches)()
            self.run_pass(part, opened)
        return self

    def run_pass(self, part: str, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Go over the data once; for loops of one's own, that save between two passes.

        Args:
            part: One of `passes`; those before it are done.
            batches: Pairs (x, y) on the solver's device.

        Raises:
            UserError: As `fit_batches`; or there is no such pass.
            NonFiniteError: As `fit_batches`.
        """
        name = type(self).__name__
        if part not in self.passes:
            raise UserError(f"{name} has no pass {part!r}: its passes are {self.passes}")
        empty = True
        with torch.no_grad():
            self.begin(part)
            for batch in batches:
                if not isinstance(batch, tuple | list) or len(batch) != 2:
                    raise UserError(f"each batch must be a pair (x, y) of tensors, not {type(batch).__name__}")
                self._check(*batch)
                empty = False
                if self.absorb(*batch, part):
                    break
            if empty:
                raise UserError(f"pass {part!r} of {name} has nothing to fit to: the batches are empty")
            self.conclude(part)

    def _check(self, x: Tensor, y: Tensor) -> None:
        """Refuse what no solver can take in."""
        if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim and y.ndim):
            raise UserError(f"{type(self).__name__} needs x and y as tensors whose first dimension is the samples")
        if len(x) == 0 or len(x) != len(y):
            raise UserError(
                f"fit needs as many targets as inputs and at least one: got {len(x)} inputs, {len(y)} targets"
            )
        for what, tensor in (("inputs", x), ("targets", y)):
            if not tensor.isfinite().all():
                raise NonFiniteError(f"the {what} hold NaN or infinity: clean the data before fitting")
        refuse_double(x, self)


def check_labels(y: Tensor, classes: int) -> Tensor:
    """Refuse labels that are no class indices.

    Args:
        y: Labels, shape (batch,), of any integer type.
        classes: Number of classes.

    Returns:
        The labels as int64: torch takes uint8 for a mask where it indexes.

    Raises:
        UserError: y is not a vector of integers in 0..classes-1.
    """
    if y.ndim != 1 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise UserError(f"labels must be class indices of shape (batch,), got {y.dtype} of shape {tuple(y.shape)}")
    low, high = (int(bound) for bound in y.aminmax())
    if low < 0 or high >= classes:
        raise UserError(
            f"labels must lie in 0..{classes - 1}, got {low if low < 0 else high}: check the data or `classes`"
        )
    return y.long()


def refuse_double(x: Tensor, module: nn.Module) -> None:
    """Refuse float64 inputs, as NumPy's are, of a module whose first parameter is float32.

    Args:
        x: Inputs.
        module: What they are given to.

    Raises:
        UserError: x is float64 and the module is not.
    """
    if x.dtype == torch.float64 and getattr(next(module.parameters(), None), "dtype", None) == torch.float32:
        raise UserError(
            f"x is float64 and the weights of {type(module).__name__} are float32: give x.float() (NumPy's numbers are "
            "float64)"
        )


def descend(loss: Tensor, where: str) -> None:
    """Differentiate a local loss: add its gradient to the parameters below it, and free its graph.

    Args:
        loss: A scalar; nothing happens where all below it is frozen.
        where: Name of the block or layer it belongs to, for the error.

    Raises:
        NonFiniteError: The loss is NaN or infinite.
    """
    if not loss.isfinite():
        raise NonFiniteError(
            f"the loss of {where} is {loss.item()}: check the data for NaN, or lower the learning rate"
        )
    if loss.requires_grad:
        loss.backward()
        torch.clear_autocast_cache()  # or the cast weights of every block would stay until the last one has run


def first_nonfinite_layer(network: nn.Module, x: Tensor) -> str:
    """Name the first layer whose output is NaN or infinite, by one forward pass that leaves no trace.

    Args:
        network: The network that was just run.
        x: The batch on which its loss was not finite.

    Returns:
        A phrase such as "layer 2.conv1"; "the input" where x itself holds NaN; "the loss" where every layer is finite.
    """
    if x.is_floating_point() and not x.isfinite().all():
        return "the input"
    seen: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                seen.append(name)

        return hook

    leaves = [(name, module) for name, module in network.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(note(name)) for name, module in leaves]
    try:
        with without_trace(network):
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return f"layer {seen[0]}" if seen else "the loss"


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, with every module's own mode and the generators' state restored at the end."""
    modes = [(module, module.training) for module in network.modules()]
    tensors = (*network.parameters(), *network.buffers())
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    network.eval()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def without_trace(network: nn.Module) -> Iterator[None]:
    """Run a network without a trace: no graph, no moved statistics, no generator advanced, same train/eval mode."""
    with evaluating(network), torch.no_grad():
        yield
