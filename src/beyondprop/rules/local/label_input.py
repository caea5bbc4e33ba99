"""Ways to give a class to a network together with its input."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from beyondprop.errors import UserError


class LabelInput(nn.Module):
    """Joins inputs and classes; called with x of shape (batch, ...) and class indices y of shape (batch,).

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise UserError(f"classes must be at least 2, so that there is a wrong one: got {classes}")
        self.classes = classes

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the network's input, first dimension the batch."""
        raise NotImplementedError

    def neutral(self, x: Tensor) -> Tensor:
        """Return the network's input where no class is named."""
        raise NotImplementedError

    def every_class(self, x: Tensor) -> Tensor:
        """Return every sample with every class, shape (batch · classes, ...); a sample's classes stand together."""
        classes = torch.arange(self.classes, device=x.device).repeat(len(x))
        return self(x.repeat_interleave(self.classes, dim=0), classes)

    def side_by_side(self, x: Tensor) -> tuple[Tensor, Tensor, bool] | None:
        """Take the flat input apart, where some of its numbers are the sample's alone and the others the class's alone.

        Returns:
            The samples' numbers, shape (batch, n), the classes', (classes, m), and whether the classes' come first; or
            None where the input is not of this kind.
        """
        del x
        return None


class Overlay(LabelInput):
    """The first numbers of a sample are replaced by the one-hot class (Hinton, arXiv 2212.13345, Section 3.3).

    For images these are the first pixels of the first row, which are black in MNIST.

    Args:
        classes: Number of classes, at most as many as a sample has numbers.
        amplitude: What stands for one; zero stands for zero.

    >>> Overlay(3, amplitude=2.0)(torch.ones(1, 1, 2, 3), torch.tensor([1]))
    tensor([[[[0., 2., 0.],
              [1., 1., 1.]]]])
    """

    def __init__(self, classes: int, *, amplitude: float = 1.0) -> None:
        super().__init__(classes)
        self.amplitude = amplitude

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        marked = self._replaced(x, 0.0)
        places: Any = torch.unravel_index(y, x.shape[1:])
        marked[torch.arange(len(x), device=x.device), *places] = self.amplitude
        return marked

    def neutral(self, x: Tensor) -> Tensor:
        """All classes alike, 1/classes of the amplitude each."""
        return self._replaced(x, self.amplitude / self.classes)

    def side_by_side(self, x: Tensor) -> tuple[Tensor, Tensor, bool]:  # noqa: D102
        self._check(x)
        marks = self.amplitude * torch.eye(self.classes, dtype=x.dtype, device=x.device)
        return x.flatten(1)[:, self.classes :], marks, True

    def _check(self, x: Tensor) -> None:
        if x[0].numel() < self.classes:
            raise UserError(f"a sample of {x[0].numel()} numbers has no room for {self.classes} classes")

    def _replaced(self, x: Tensor, value: float) -> Tensor:
        self._check(x)
        places: Any = torch.unravel_index(torch.arange(self.classes, device=x.device), x.shape[1:])
        changed = x.clone()
        changed[:, *places] = value
        return changed


class ClassPattern(LabelInput):
    """Every class has a pattern of numbers, drawn from N(0, 1), that goes into the network with the sample.

    This is our reading of the intrinsic class pattern of SymBa (Lee and Song, arXiv 2303.08418), whose construction is
    not public.

    Args:
        classes: Number of classes.
        shape: Of a sample: (features,) or (channels, height, width).
        how: `"beside"`: as one more channel of an image, or as many more numbers as a sample has; the network's first
            layer must take so many. `"added"`: to every channel of the sample, whose shape stays.
        learned: Whether the first block's objective trains the patterns; else they stay as they were drawn.
        scale: Of the patterns.

    >>> ClassPattern(3, (1, 8, 8))(torch.zeros(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([5, 2, 8, 8])
    """

    def __init__(
        self,
        classes: int,
        shape: int | tuple[int, ...],
        *,
        how: Literal["beside", "added"] = "beside",
        learned: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__(classes)
        if how not in ("beside", "added"):
            raise UserError(f"how must be 'beside' or 'added', got {how!r}")
        self.how = how
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        one_channel = (1, *self.shape[1:]) if len(self.shape) > 1 else self.shape
        self.patterns = nn.Parameter(scale * torch.randn(classes, *one_channel), requires_grad=learned)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return self._joined(x, self.patterns[y])

    def neutral(self, x: Tensor) -> Tensor:
        """The mean of all patterns."""
        return self._joined(x, self.patterns.mean(dim=0).expand(len(x), *self.patterns.shape[1:]))

    def side_by_side(self, x: Tensor) -> tuple[Tensor, Tensor, bool] | None:  # noqa: D102
        self._check(x)
        return None if self.how == "added" else (x.flatten(1), self.patterns.flatten(1).to(x.dtype), False)

    def _check(self, x: Tensor) -> None:
        if x.shape[1:] != self.shape:
            raise UserError(f"the patterns are made for samples of shape {self.shape}, got {tuple(x.shape[1:])}")

    def _joined(self, x: Tensor, pattern: Tensor) -> Tensor:
        self._check(x)
        if self.how == "added":
            return x + pattern
        joined = torch.cat([x, pattern.to(x.dtype)], dim=1)
        return joined.contiguous(memory_format=torch.channels_last) if _is_channels_last(x) else joined


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
