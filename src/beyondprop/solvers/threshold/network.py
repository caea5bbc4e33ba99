"""A classifier of threshold activations, fitted by its convex program."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.rule import check_labels
from beyondprop.solver import Solver
from beyondprop.solvers.threshold.lasso import fit_arrangements
from beyondprop.solvers.threshold.reconstruction import by_margin, by_pseudo_inverse, by_staircase, with_width
from beyondprop.solvers.threshold.shattered import fit_shattered

Method = Literal["margin", "pseudo-inverse", "staircase", "lasso", "exact"]
METHODS = ("margin", "pseudo-inverse", "staircase", "lasso", "exact")
AT_A_TIME = 2**24  # neurons of all samples of which outputs are made: 128 MiB
Array = NDArray[np.float64]


class ThresholdNetwork(Solver):
    r"""Threshold networks trained to the global optimum (Ergen, Gulluk, Lacotte, Pilanci, arXiv 2303.03382).

        f(x) = Σ_j w_j s_j 1{(last hidden layer)_j >= 0},    min ½ ‖f(X) - y‖² + β/2 Σ_j (s_j² + w_j²)

    for targets y of ±1, β = beta · n. Three layers, where a first layer of random directions tells all samples apart:
    the program has a closed form, `fit_shattered`, and the method says by which second-layer weights its patterns are
    made, `by_margin` (the paper's Convex-SVM), `by_pseudo_inverse` (Convex-PI) or `by_staircase`. Two layers: the
    Lasso over hyperplane arrangements, `fit_arrangements`, sampled and priced (`lasso`), or all of them (`exact`, for
    small ranks). s_j = ±w_j share each weight evenly, as the optimum does, so that `objective` is the convex program's.

    More than two classes are as many networks, each one class against the rest. The data are held in memory whole, and
    all is computed in float64 on the CPU: a sample on a hyperplane's edge must not change its side.

    Args:
        features: Numbers of a sample; inputs of more dimensions are flattened. A bias is added.
        classes: Number of classes, at least 2.
        method: As above.
        hidden: Random directions: neurons of the first of three layers, at least as many as samples, and up to 16 times
            as many where these do not tell all samples apart; or patterns that are sampled first.
        beta: Weight decay of a sample.
        seed: Of the random directions and of pricing; None draws it from torch's generator.

    Attributes:
        optimum: The convex program's optimal value over the training samples, summed over outputs; NaN before `fit`.
        gap: Duality gap of it, proven: that of rounding for the closed form, else the sum of
            `ArrangementFit.certified_gap`.
        searched_gap: Gap to the optimum over all patterns that were looked at: the sum of `ArrangementFit.gap`; for the
            closed form `gap`.

    Raises:
        UserError: An option is out of range; in `fit`, the first layer cannot tell all samples apart, or there are
            too many patterns.

    >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> network = ThresholdNetwork(2, 2, hidden=50, seed=0).fit(x, torch.tensor([0, 1, 1, 0]))
    >>> network(x).argmax(dim=1).tolist()
    [0, 1, 1, 0]
    """

    optimum: Tensor
    gap: Tensor
    searched_gap: Tensor
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    amplitude: Tensor
    output: Tensor

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        method: Method = "margin",
        hidden: int = 2000,
        beta: float = 1e-3,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_whole(1, features=features, hidden=hidden)
        check_whole(2, classes=classes)
        check_number(beta=beta, above=True)
        if method not in METHODS:
            raise UserError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
        self.method, self.hidden, self.beta = method, hidden, beta
        self.features, self.classes = features, classes
        self.seed = int(torch.randint(2**31, ())) if seed is None else seed
        outputs = 1 if classes == 2 else classes
        for name, shape in (
            *(("optimum", ()), ("gap", ()), ("searched_gap", ())),
            *(("first", (features, 0)), ("first_bias", (0,)), ("second", (0, 0)), ("second_bias", (0,))),
            *(("amplitude", (0,)), ("output", (outputs, 0))),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        for figure in (self.optimum, self.gap, self.searched_gap):
            figure.fill_(torch.nan)  # until there is one
        self._batches: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Fit the inputs themselves; of the classifier nothing is used."""
        del network
        return cls(example[0].numel(), classes, **options)

    def begin(self, part: str) -> None:
        """Forget batches of an unfinished pass."""
        del part
        self._batches = []

    def absorb(self, x: Tensor, y: Tensor, part: str) -> None:
        """Keep a batch.

        Args:
            x: Inputs, shape (batch, ...).
            y: Class indices, shape (batch,).
            part: The pass.
        """
        del part
        if x[0].numel() != self.features:
            raise UserError(f"a sample must have {self.features} features, got {x[0].numel()}")
        self._batches.append((x.flatten(1).double().cpu(), check_labels(y, self.classes).cpu()))

    def conclude(self, part: str) -> None:
        """Solve the convex program of each output, and write down a network that attains it."""
        del part
        x, labels = (torch.cat(parts) for parts in zip(*self._batches, strict=True))
        self._batches = []
        samples = np.hstack([x.numpy(), np.ones((len(x), 1))])
        targets = [_signs(labels, 1 if self.classes == 2 else c) for c in range(len(self.output))]
        if self.method in {"lasso", "exact"}:
            found = self._two_layers(samples, targets)
        else:
            found = self._three_layers(samples, targets)
        for name, value in found.items():
            setattr(self, name, torch.from_numpy(np.ascontiguousarray(value)).to(self.output.device))

    def _two_layers(self, samples: Array, targets: list[Array]) -> dict[str, Array]:
        exact, beta = self.method == "exact", self.beta * len(samples)
        fits = [
            fit_arrangements(samples, y, beta, patterns=self.hidden, exact=exact, seed=self.seed + number)
            for number, y in enumerate(targets)
        ]
        first = np.hstack([fit.arrangements.directions for fit in fits])
        amplitude, output = _shared([fit.weights for fit in fits])
        return {
            "optimum": np.array(sum(fit.objective for fit in fits)),
            "gap": np.array(sum(fit.certified_gap for fit in fits)),
            "searched_gap": np.array(sum(fit.gap for fit in fits)),
            "first": first[:-1],
            "first_bias": first[-1] + np.concatenate([fit.arrangements.biases for fit in fits]),
            "second": np.zeros((first.shape[1], 0)),
            "second_bias": np.zeros(0),
            "amplitude": amplitude,
            "output": output,
        }

    def _three_layers(self, samples: Array, targets: list[Array]) -> dict[str, Array]:
        fits = [fit_shattered(y, self.beta * len(samples)) for y in targets]
        patterns = np.hstack([fit.patterns for fit in fits])
        if self.method == "staircase":
            layers = by_staircase(
                samples, patterns, np.random.default_rng(self.seed).standard_normal(samples.shape[1:])
            )
        else:
            make = by_margin if self.method == "margin" else by_pseudo_inverse
            layers = with_width(make, samples, patterns, self.hidden, self.seed)
        amplitude, output = _shared([fit.weights for fit in fits])
        return {
            "optimum": np.array(sum(fit.objective for fit in fits)),
            "gap": np.array(sum(fit.gap for fit in fits)),
            "searched_gap": np.array(sum(fit.gap for fit in fits)),
            "first": layers.first[:-1],
            "first_bias": layers.first[-1] + layers.first_bias,
            "second": layers.second,
            "second_bias": layers.second_bias,
            "amplitude": amplitude,
            "output": output,
        }

    def outputs(self, x: Tensor) -> Tensor:
        """What the networks say, f(x), shape (batch, outputs), float64; two classes have one output."""
        rows = max(AT_A_TIME // max(len(self.first_bias), 1), 1)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([self._outputs(some) for some in x.flatten(1).double().split(rows)])

    def _outputs(self, x: Tensor) -> Tensor:
        neurons = (x @ self.first + self.first_bias >= 0).double()
        if self.second.shape[1] == len(self.amplitude):  # three layers
            neurons = (neurons @ self.second + self.second_bias >= 0).double()
        return (neurons * self.amplitude) @ self.output.T

    def forward(self, x: Tensor) -> Tensor:
        """Class scores, shape (batch, classes)."""
        outputs = self.outputs(x)
        if self.classes == 2:
            outputs = torch.cat([-outputs, outputs], dim=1)
        return outputs.to(torch.promote_types(x.dtype, torch.float32))

    def objective(self, x: Tensor, y: Tensor) -> float:
        """The weight-decayed objective that the network itself has on samples, which on those of `fit` is `optimum`.

        Args:
            x: Inputs, shape (n, ...).
            y: Class indices, shape (n,).
        """
        labels = check_labels(y, self.classes)
        columns = [_signs(labels, 1 if self.classes == 2 else c) for c in range(len(self.output))]
        misses = self.outputs(x) - torch.from_numpy(np.stack(columns, axis=1)).to(x.device)
        decay = self.amplitude.square().sum() + self.output.square().sum()
        return float(misses.square().sum() / 2 + self.beta * len(x) / 2 * decay)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take the shapes of what was fitted, which depend on the data."""
        for name, buffer in list(self.named_buffers(recurse=False)):
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor) and saved.ndim == buffer.ndim:
                setattr(self, name, buffer.new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _signs(labels: Tensor, positive: int) -> Array:
    signs: Array = np.where(labels.cpu().numpy() == positive, 1.0, -1.0)
    return signs


def _shared(weights: list[Array]) -> tuple[Array, Array]:
    """Amplitudes s and output weights w, shape (outputs, neurons), with s_j w_j the given weights and |s_j| = |w_j|."""
    flat = np.concatenate(weights)
    root = np.sqrt(np.abs(flat))
    output = np.zeros((len(weights), len(flat)))
    output[np.repeat(np.arange(len(weights)), [len(w) for w in weights]), np.arange(len(flat))] = np.sign(flat) * root
    return root, output
