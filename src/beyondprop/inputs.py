"""What networks and examples a rule may be made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from beyondprop.checks import check_whole
from beyondprop.errors import UserError


def check_network(network: object) -> None:
    """Refuse what is no module.

    Raises:
        UserError: It is none; the message names what was given.
    """
    if isinstance(network, nn.Module):
        return
    if isinstance(network, type):
        raise UserError(f"the network must be an nn.Module, not the class {network.__name__}: give what it makes")
    raise UserError(f"the network must be an nn.Module, not {type(network).__name__}")


def check_classifier(network: nn.Module, example: Tensor, classes: int) -> None:
    """Refuse what `for_classifier` cannot be given, whatever the rule makes of it.

    Raises:
        UserError: The network is no module, the example no input batch, or the number of classes none.
    """
    check_network(network)
    check_batch(example)
    check_whole(1, classes=classes)


def check_what_is_given(kind: type) -> None:
    """Let a class's own `for_classifier`, if it has one, begin with `check_classifier`."""
    method = vars(kind).get("for_classifier")
    if not isinstance(method, classmethod):
        return
    make, names = method.__func__, ("network", "example", "classes")

    @wraps(make)
    def checked(cls: type, *given: Any, **options: Any) -> Any:
        named = dict(zip(names, given, strict=False)) | options
        if named.keys() >= set(names):  # else Python tells what is missing
            check_classifier(*(named[name] for name in names))
        return make(cls, *given, **options)

    kind.for_classifier = classmethod(checked)  # type: ignore[attr-defined]


def check_example(example: Tensor, network: nn.Module) -> None:
    """Refuse what is no input batch.

    Raises:
        UserError: The example is no tensor, or one sample, or float64 where the network is float32.
    """
    check_batch(example)
    refuse_double(example, network)


def check_batch(example: Tensor) -> None:
    """Refuse what is no input batch, of whatever type.

    Raises:
        UserError: The example is no tensor, or one sample.
    """
    if not isinstance(example, Tensor) or example.ndim == 0:
        raise UserError(f"example must be a tensor, one input batch, not {type(example).__name__}")
    if example.ndim == 1 and example.is_floating_point():
        raise UserError(
            f"example must be one input batch, and shape {tuple(example.shape)} is that of one sample: give x[:1]"
        )


@contextmanager
def running_example(example: Tensor) -> Iterator[None]:
    """Within it a network runs on an example; what torch says of a wrong one is told as the user's own.

    Raises:
        UserError: The network cannot run on it.
    """
    try:
        yield
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the network cannot run on an example of shape {tuple(example.shape)} and {example.dtype}: {reason}"
        ) from error


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
