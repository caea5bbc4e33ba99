"""Cascaded Forward in closed form: the predictors of random blocks by least squares."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rule import check_labels, without_trace
from beyondprop.rules.local.blockwise import finished, hidden_layers, outputs_in_turn
from beyondprop.rules.local.cascaded_forward import CascadedForward
from beyondprop.rules.local.linear_predictor import LinearPredictor
from beyondprop.solver import Solver
from beyondprop.solvers.least_squares import NormalEquations, checked_ridge, targets


class CascadedLeastSquares(Solver):
    r"""Cascaded Forward with random blocks and the squared error, CaFo-Rand MSE (Zhao et al., arXiv 2303.09728).

        h_k = block_k(h_{k-1}),    W_k = argmin Σ_n ‖W h_k,n - onehot(y_n)‖² + λ_k ‖W‖²,
        prediction: Σ_k softmax(h_k W_kᵀ)

    The first passes over the data, one for each batch norm in the order of the forward pass, set its statistics: mean
    and variance of what reaches it from training samples, however they are cut into batches. The passes
    after them solve for the predictors (see `LeastSquares`), of as many blocks at a time as `memory` holds. Blocks run
    in evaluation mode throughout, so what is predicted for a sample does not depend on others beside it. (The authors'
    code normalises test samples by the whole test split's statistics, and has no ridge.)

    Autocast reaches the blocks alone: predictors are solved for and predict in float32.

    Args:
        network: As `CascadedForward`: an `nn.Sequential` of hidden blocks, which are frozen.
        example: One input batch, run without a trace, to see the shapes of the blocks' outputs.
        classes: Number of classes.
        ridge: λ_k in units of the mean squared norm of a feature over the data; see `LeastSquares`.
        statistics_samples: So many training samples, the first that come, set the statistics of batch norms; None
            takes all. 0 leaves statistics as the network has them. Each of these passes costs the blocks' forward,
            and a mean over ten thousand samples is within a hundredth of a deviation of the mean over all.
        memory: Bytes for the sums of one pass, of 8 D² each. A block of more has a pass to itself.
        blocks: As `CascadedForward`.

    Raises:
        UnsupportedNetworkError: The network is no `nn.Sequential`, blocks share a parameter, or a batch norm has no
            statistics of its own and would use the test batch's.
        UserError: An option is out of range; in `fit`, a label is no class index, or the ridge is too small.
        NonFiniteError: In `fit`, when features are NaN or infinite; the message names the block.

    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3), nn.ReLU())
    >>> solver = CascadedLeastSquares(network, torch.zeros(2, 1, 8, 8), classes=3)
    >>> solver.passes
    ('statistics 1', 'predictors 1-2')
    >>> solver.fit(torch.randn(50, 1, 8, 8), torch.randint(3, (50,)))(torch.randn(5, 1, 8, 8)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        classes: int,
        *,
        ridge: float = 1e-5,
        statistics_samples: int | None = 10_000,
        memory: int = 2**30,
        blocks: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if reason := self.supports_classifier(network, example):
            raise UnsupportedNetworkError(reason)
        if statistics_samples is not None and statistics_samples < 0:
            raise UserError(f"statistics_samples must be at least 0, not {statistics_samples}")
        self.ridge, self.statistics_samples = checked_ridge(ridge), statistics_samples
        self.cascade = CascadedForward(network, example, classes, loss="squared", blocks=blocks).requires_grad_(False)
        self._norms = [] if statistics_samples == 0 else _norms_in_order(self.cascade, example)
        self._groups = _groups([8 * shape.numel() ** 2 for shape in self.cascade.shapes], memory)
        statistics = [f"statistics {number}" for number in range(1, len(self._norms) + 1)]
        self.passes = (*statistics, *(_name(group) for group in self._groups))
        self._pooled: PooledStatistics | None = None
        self._sums: dict[int, NormalEquations] = {}

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """A sequence whose batch norms keep statistics."""
        del example
        return CascadedForward.supports(network)

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier's hidden layers; the output layer, where its last block begins, is left out.

        Raises:
            UnsupportedNetworkError: There is no hidden layer; and as the constructor.
        """
        if reason := CascadedForward.supports_classifier(network, example):
            raise UnsupportedNetworkError(reason)
        return cls(hidden_layers(network), example, classes, **options)

    def begin(self, part: str) -> None:
        """Make empty sums: of a batch norm's input, or of the normal equations of some blocks."""
        self._pooled, self._sums = None, {}
        number = self.passes.index(part)
        if number < len(self._norms):
            self._pooled = PooledStatistics(self._norms[number][1], self.statistics_samples)
        else:
            group = self._groups[number - len(self._norms)]
            self._sums = {index: NormalEquations(self._predictor(index).linear.weight) for index in group}

    def absorb(self, x: Tensor, y: Tensor, part: str) -> bool:
        """Take in a batch.

        Args:
            x: Inputs, shape (batch, ...).
            y: Class indices, shape (batch,).
            part: The pass.
        """
        check_labels(y, self.cascade.classes)
        if self._pooled is not None:
            wanted = x[: self._pooled.missing]
            with self._pooled.noting(len(wanted)), finished(self.cascade.network):
                for block in self.cascade.blocks[: self._norms[self.passes.index(part)][0] + 1]:
                    wanted = block(wanted)
            return self._pooled.missing == 0
        one_hot = targets(y, self.cascade.classes)
        with finished(self.cascade.network):  # whatever mode the user has left it in
            for index, output in enumerate(outputs_in_turn(self.cascade.blocks[: max(self._sums) + 1], x)):
                if index in self._sums:
                    with _of_block(index):
                        self._sums[index].add(output, one_hot)
        return False

    def conclude(self, part: str) -> None:
        """Set the batch norm's statistics, or solve for the predictors."""
        if self._pooled is not None:
            with _of_block(self._norms[self.passes.index(part)][0]):
                self._pooled.write()
            self._pooled = None
        while self._sums:
            index, sums = self._sums.popitem()
            with _of_block(index):
                self._predictor(index).linear.weight.copy_(sums.solve(self.ridge))

    def forward(self, x: Tensor) -> Tensor:
        """Predict.

        Args:
            x: Input batch.

        Returns:
            Logarithms of the mean of the predictors' probabilities, shape (batch, classes).
        """
        said = []
        with finished(self.cascade.network):
            for index, output in enumerate(outputs_in_turn(self.cascade.blocks, x)):
                predictor = self._predictor(index)
                with torch.autocast(x.device.type, enabled=False):
                    said.append(predictor.probabilities(predictor(output.to(predictor.linear.weight.dtype))))
        return torch.stack(said).mean(dim=0).clamp(min=1e-30).log()

    def _predictor(self, index: int) -> LinearPredictor:
        return cast(LinearPredictor, self.cascade.predictors[index])


class PooledStatistics:
    """Mean and variance, by channel, of what reaches a batch norm; pooled in float64 over batches of any size.

    Args:
        norm: Whose running statistics are to be set.
        samples: How many are wanted; None for any number.

    Attributes:
        missing: Samples that are still wanted.
    """

    def __init__(self, norm: _BatchNorm, samples: int | None) -> None:
        self.norm, self.missing = norm, sys.maxsize if samples is None else samples
        mean = cast(Tensor, norm.running_mean)
        self._count = 0
        self._mean, self._squares = (torch.zeros_like(mean, dtype=torch.float64) for _ in range(2))

    @contextmanager
    def noting(self, samples: int) -> Iterator[None]:
        """Within it, so many samples run through the network, and their statistics are taken in."""
        handle = self.norm.register_forward_pre_hook(self._note)
        try:
            yield
        finally:
            handle.remove()
        self.missing -= samples

    def write(self) -> None:
        """Set the running mean, and the running variance, which is the unbiased one as everywhere in torch.

        Raises:
            NonFiniteError: They are NaN or infinite.
        """
        variance = self._squares / max(self._count - 1, 1)
        if not (self._mean.isfinite().all() and variance.isfinite().all()):
            raise NonFiniteError("what reaches the batch norm is NaN or infinite: check the weights and the inputs")
        cast(Tensor, self.norm.running_mean).copy_(self._mean)
        cast(Tensor, self.norm.running_var).copy_(variance)

    def _note(self, _norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        """Join the batch's moments to those so far (Chan, Golub and LeVeque, 1979)."""
        x = given[0].to(torch.promote_types(given[0].dtype, torch.float32))
        count = x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x, dim=[0, *range(2, x.ndim)], correction=0)
        total = self._count + count
        apart = mean.double() - self._mean
        self._squares += variance.double() * count + apart.square() * (self._count * count / total)
        self._mean += apart * (count / total)
        self._count = total


def _norms_in_order(cascade: CascadedForward, example: Tensor) -> list[tuple[int, _BatchNorm]]:
    """Batch norms in the order in which the example reaches them, each with the index of its block."""
    found: dict[_BatchNorm, int] = {}

    def note(index: int, norm: _BatchNorm, _given: Any) -> None:
        found.setdefault(norm, index)

    norms = [
        (index, module)
        for index, block in enumerate(cascade.blocks)
        for module in block.modules()
        if isinstance(module, _BatchNorm)
    ]
    handles = [norm.register_forward_pre_hook(partial(note, index)) for index, norm in norms]
    try:
        with without_trace(cascade.network):
            cascade.features(example)
    finally:
        for handle in handles:
            handle.remove()
    return [(index, norm) for norm, index in found.items()]


def _groups(sizes: Sequence[int], memory: int) -> list[list[int]]:
    """Indices in order, as many to a group as their sizes allow, and at least one.

    >>> _groups([3, 3, 3, 9, 1], 6)
    [[0, 1], [2], [3], [4]]
    """
    groups: list[list[int]] = []
    for index, size in enumerate(sizes):
        if groups and sum(sizes[other] for other in groups[-1]) + size <= memory:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _name(group: list[int]) -> str:
    first, last = group[0] + 1, group[-1] + 1
    return f"predictor {first}" if first == last else f"predictors {first}-{last}"


@contextmanager
def _of_block(index: int) -> Iterator[None]:
    """Say in errors which block they are about."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"block {index + 1}: {error}") from None
