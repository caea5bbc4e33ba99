"""The contract of a rule, which an optimizer steps, and what rules have to check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.generators import cuda_devices
from beyondprop.inputs import check_what_is_given, refuse_double


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
        classifies: Whether it can train a classifier; else `for_classifier` refuses, and it measures itself
            (`own_figures`, see `beyondprop.training.evaluation.evaluate`).
        stage_span: How long a stage lasts: `"training"` gives each stage its epochs before the next one begins,
            `"epoch"` walks through all stages in every epoch, one pass over the data for each.
    """

    phases: tuple[str | None, ...] = (None,)
    stages: tuple[str | None, ...] = (None,)
    follows_gradient: ClassVar[bool] = True
    classifies: ClassVar[bool] = True
    stage_span: ClassVar[Literal["training", "epoch"]] = "training"

    def __init_subclass__(cls, **options: Any) -> None:
        """Let `for_classifier` of every rule check what it is given."""
        super().__init_subclass__(**options)
        check_what_is_given(cls)

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

    def passes(self, epochs: int) -> list[tuple[int, str | None]]:
        """List the passes over the data that a training takes.

        Args:
            epochs: As many for each stage where `stage_span` is "training", one for all where it is "epoch".

        Returns:
            For each pass its epoch, counted from 1, and its stage.
        """
        if self.stage_span == "epoch":
            return [(epoch, stage) for epoch in range(1, epochs + 1) for stage in self.stages]
        return list(enumerate((stage for stage in self.stages for _ in range(epochs)), start=1))

    def teaches_network(self, phase: str | None = None) -> bool:
        """Whether `backward` of a phase, in the present stage, moves more than feedback.

        Else no update is compared, and the loss that `backward` returns is that of the feedback.
        """
        del phase
        return True

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

        Raises:
            UserError: The network is no module, the example no input batch, or the number of classes none.
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
            The batch's loss, detached, a scalar; the feedback's own where `teaches_network` says that it learns alone.

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
        torch.clear_autocast_cache()  # of weights before a step, where one autocast stands around several
        try:
            with torch.enable_grad():
                return self.assign_credit(x, y, phase).detach()
        except RuntimeError as error:  # such as torch's of shapes and types, whose own numbers are those of a layer
            error.add_note(f"{name} was given {_described(x)} as x and {_described(y)} as y{_way_out(x, self)}")
            raise

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Name the groups of parameters that want settings of their own, ready for an optimizer."""
        return [{"name": "network", "params": [p for p in self.parameters() if p.requires_grad]}]


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
        wrong = low if low < 0 else high
        mend = "they count from 0, so subtract 1, or " if wrong == classes and low > 0 else ""
        raise UserError(f"labels must lie in 0..{classes - 1}, got {wrong}: {mend}check the data or `classes`")
    return y.long()


def _described(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"


def _way_out(x: Tensor, module: nn.Module) -> str:
    """Say what integers can be made of; layers such as `nn.Embedding` are right to take them as they are."""
    weights = next(module.parameters(), None)
    whole = weights is not None and weights.is_floating_point() and not (x.is_floating_point() or x.is_complex())
    return ": images of whole numbers become x.float() / 255" if whole else ""


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


def add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Add to a parameter's `.grad`, unless it is frozen."""
    if parameter.requires_grad:
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def is_finite(value: Tensor) -> bool:
    """Whether all numbers are finite.

    A finite sum tells the same for a fraction of the cost; that of large finite numbers may overflow.
    """
    return bool(value.sum().isfinite() or value.isfinite().all())


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
def batched_by_vmap(made: str) -> Iterator[None]:
    """Within it `torch.vmap` evaluates a network; what it cannot run is told with the way out.

    Args:
        made: What can be made with `at_once=1` instead: "rule" or "device".

    Raises:
        UnsupportedNetworkError: vmap cannot run it. Other errors of torch, of wrong shapes or types, pass as they are.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_of_vmap(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise UnsupportedNetworkError(
            f"torch.vmap cannot evaluate the network ({reason}): make the {made} with at_once=1"
        ) from error


def is_of_vmap(error: RuntimeError) -> bool:
    """Whether an error tells what `torch.vmap` cannot run, and not what would fail without it as well."""
    return any(word in str(error).lower() for word in ("vmap", "batching rule", "batchedtensor"))


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, with every module's own mode restored at the end."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, with every module's own mode and the generators' state restored at the end."""
    with eval_mode(network), torch.random.fork_rng(devices=cuda_devices(network)):
        yield


@contextmanager
def without_trace(network: nn.Module) -> Iterator[None]:
    """Run a network without a trace: no graph, no moved statistics, no generator advanced, same train/eval mode."""
    with evaluating(network), torch.no_grad():
        yield
