"""What estimators around a network share: the network made to measure, its device, its random numbers, its scores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from beyondprop.catalogue import find_system
from beyondprop.checks import check_whole
from beyondprop.data import Batches, ImageSet
from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.estimators.base import ScoringClassifier
from beyondprop.inputs import running_example
from beyondprop.networks.classifiers import perceptron
from beyondprop.rule import Rule, evaluating, without_trace
from beyondprop.solver import Solver
from beyondprop.training.assembly import resolve_device
from beyondprop.training.sources import device_of

HIDDEN = (64,)
EXAMPLES = 4  # samples on which a network is run to learn its shapes

Network = nn.Module | Callable[[Any, int], nn.Module] | Sequence[int] | None
"""A module, what makes one from the number of features (of images: their shape) and of classes, or hidden widths."""


class NetworkClassifier(ScoringClassifier):
    """A classifier around a module that has `for_classifier`; see `RuleClassifier` for the parameters."""

    network: Network
    options: Mapping[str, Any] | None
    batch_size: int
    random_state: Any
    device: str

    def _make(self, kind: type[Rule] | type[Solver], X: NDArray[np.float32]) -> Any:
        """Make the rule or solver, on its device, for samples of this shape.

        Raises:
            UnsupportedNetworkError: It cannot train the network; the message names the layer.
            UserError: The network is none, or an option is unknown or out of range.
        """
        self._shape = X.shape[1:]
        network, example = self._make_network(), torch.from_numpy(X[:EXAMPLES])
        self._refuse_other_outputs(network, example)
        options = dict(self.options or {})
        if not options and (reason := kind.supports_classifier(network, example)):  # options may change what it can
            raise UnsupportedNetworkError(reason)
        try:
            made = kind.for_classifier(network, example, len(self.classes_), **options)
        except TypeError as error:
            raise UserError(f"{kind.__name__} cannot be made with options {options}: {error}") from error
        return made.to(resolve_device(self.device))

    def _make_network(self) -> nn.Module:
        given, classes = self.network, len(self.classes_)
        if isinstance(given, nn.Module):
            return copy.deepcopy(given)  # a parameter of the estimator stays as it is
        if callable(given):
            made = given(self._shape[0] if len(self._shape) == 1 else self._shape, classes)
            if not isinstance(made, nn.Module):
                raise UserError(f"network must make an nn.Module, not {type(made).__name__}")
            return made
        widths = HIDDEN if given is None else given
        if not isinstance(widths, Sequence) or isinstance(widths, str):
            raise UserError(f"network must be a module, a function that makes one, or hidden widths, not {given!r}")
        for width in widths:
            check_whole(1, network=width)
        return perceptron(self._shape, classes, hidden=widths)

    def _refuse_other_outputs(self, network: nn.Module, example: Tensor) -> None:
        with running_example(example), without_trace(network):
            scores = network(example.to(device_of(network)))
        expected = (len(example), len(self.classes_))
        if isinstance(scores, Tensor) and tuple(scores.shape) != expected:
            raise UserError(
                f"network gives scores of shape {tuple(scores.shape)} for {len(example)} samples, and y has "
                f"{expected[1]} classes: give it as many outputs"
            )

    def _batches(self, X: NDArray[np.float32], labels: NDArray[np.int64], *, shuffle: bool) -> Batches:
        """Batches on the device; the order comes from torch's generator."""
        check_whole(1, batch_size=self.batch_size)
        return Batches(
            ImageSet(torch.from_numpy(X), torch.from_numpy(labels), len(self.classes_), "X", None),
            self.batch_size,
            shuffle=shuffle,
            seed=int(torch.randint(2**31, ())) if shuffle else 0,
            normalise=False,
            device=resolve_device(self.device),
        )

    @contextmanager
    def _random_numbers(self) -> Iterator[int]:
        """Draw from torch's generators as `random_state` says, and leave them as they were; gives the seed."""
        device = resolve_device(self.device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            torch.manual_seed(seed)
            yield seed

    def _features(self, X: Any) -> NDArray[np.float32]:
        """Samples to predict, checked; of the shape of those before.

        Raises:
            ValueError: They are no finite numbers or of another shape.
        """
        checked: NDArray[np.float32] = validate_data(self, X, dtype=np.float32, allow_nd=True, reset=False)
        self._refuse_other_shape(checked)
        return checked

    def _refuse_other_shape(self, X: NDArray[np.float32]) -> None:
        if X.shape[1:] != self._shape:
            raise ValueError(f"X holds samples of shape {X.shape[1:]}, and was fitted to {self._shape}")

    def _scores_of(self, module: nn.Module, X: Any) -> NDArray[Any]:
        """Scores by a fitted module, in batches of one size: what is said of a sample depends on no other."""
        x, size, found = torch.from_numpy(self._features(X)), self.batch_size, list[Tensor]()
        device = device_of(module)
        with evaluating(module), torch.inference_mode():
            for part in x.split(size):
                torch.manual_seed(0)  # for inference that draws
                filled = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
                found.append(module(filled.to(device))[: len(part)].cpu())
        scores: NDArray[Any] = torch.cat(found).numpy()
        return scores


def class_of(given: Any, contract: type[Any], other: str) -> Any:
    """The class that a user names or gives.

    Args:
        given: A class, or its identifier in the catalogue.
        contract: `Rule` or `Solver`.
        other: The estimator for the other kind.

    Raises:
        UserError: There is none of that name, or it is of the other kind.
    """
    kind = find_system(given).load() if isinstance(given, str) else given
    what = contract.__name__.lower()
    if not isinstance(kind, type) or not issubclass(kind, Rule | Solver):
        raise UserError(f"{what} must be a class of {what}s or its name in the catalogue, not {given!r}")
    if not issubclass(kind, contract):
        raise UserError(f"{kind.__name__} is no {what}: use {other}")
    return kind
