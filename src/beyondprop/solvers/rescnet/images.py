"""Checks of the images that networks of principal components are fitted to."""

from __future__ import annotations

from torch import Tensor

from beyondprop.errors import UserError


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
