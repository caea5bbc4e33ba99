"""The contract of a solver, which is fitted in passes over its data instead of stepped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.inputs import check_what_is_given, refuse_double


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
        classifies: As of a `Rule`.
        fitted: Whether the last pass has come to its end; before that nothing is predicted.
    """

    passes: tuple[str, ...] = ("solve",)
    classifies: ClassVar[bool] = True
    fitted: Tensor

    def __init_subclass__(cls, **options: Any) -> None:
        """Let `for_classifier` of every solver check what it is given."""
        super().__init_subclass__(**options)
        check_what_is_given(cls)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.tensor(False))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Predict, as `forward` says.

        Raises:
            UserError: There is nothing yet to predict by.
        """
        if not self.fitted:
            raise UserError(
                f"{type(self).__name__} has been fitted to nothing yet: call fit first, or load what was fitted"
            )
        return super().__call__(*args, **kwargs)

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

    def figures(self, part: str) -> dict[str, float]:
        """What a pass that has ended came to: training stores it in metrics.jsonl, and progress shows accuracies.

        Args:
            part: The pass.

        Returns:
            Finite numbers by name, such as `held_out_accuracy`; by default none.
        """
        del part
        return {}

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

    def fit_batches(
        self,
        batches: Iterable[tuple[Tensor, Tensor]] | Callable[[], Iterable[Any]],
        *,
        watch: Callable[[str], object] = lambda _part: None,
    ) -> Self:
        """Fit to a data set that is given batch by batch, as often as there are passes.

        Args:
            batches: Pairs (x, y) on the solver's device: a list, a DataLoader, `data.Batches`, or a function that
                returns an iterator (a generator function), called once a pass.
            watch: Called with the name of each of `passes` before it, such as `print`.

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
            watch(part)
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
            self.fitted.fill_(False)
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
            self.fitted.fill_(part == self.passes[-1])

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
