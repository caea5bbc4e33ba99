"""What is common to networks of principal components: their images, and tensors made of a few of them at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from beyondprop.errors import UserError

CHUNK = 50  # samples: maps of 200 are new memory every time, which takes as long as the rest


def image_shape(example: Tensor, network: str) -> tuple[int, int, int]:
    """Channels, height and width of a batch of images.

    Raises:
        UserError: The example is no batch of images; the message names the network.
    """
    if example.ndim != 4:
        raise UserError(f"{network} needs images of shape (batch, channels, height, width), got {tuple(example.shape)}")
    _, channels, height, width = example.shape
    return channels, height, width


def check_images(x: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse images of another shape than (batch, *shape).

    Raises:
        UserError: They are.
    """
    if tuple(x.shape[1:]) != shape:
        raise UserError(f"images must have shape (batch, {', '.join(map(str, shape))}), got {tuple(x.shape)}")


def wide(dtype: torch.dtype) -> torch.dtype:
    """In which numbers are summed: float32 at least.

    >>> wide(torch.bfloat16), wide(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def widened(numbers: Tensor) -> Tensor:
    """Numbers as they are summed."""
    return numbers.to(wide(numbers.dtype))
