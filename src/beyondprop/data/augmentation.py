"""The augmentation of the CIFAR literature: pad by 4, crop at random, flip every other image, cut a square out."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PAD = 4  # pixels on every side


def mirror(images: Tensor, flips: Tensor) -> Tensor:
    """Mirrors some images, left for right.

    Args:
        images: `(B, C, H, W)`, any type.
        flips: `(B,)` on the same device, 0 or 1.

    Returns:
        New tensor of the same shape and type.
    """
    return torch.where(flips.bool()[:, None, None, None], images.flip(3), images)


def draw_crop_flip(count: int, generator: torch.Generator) -> Tensor:
    """Draws what `crop_flip` needs: int64 `(3, count)` with top and left offset (`0..2*PAD`) and flip (0 or 1)."""
    offsets = torch.randint(2 * PAD + 1, (2, count), generator=generator)
    return torch.cat([offsets, torch.randint(2, (1, count), generator=generator)])


def crop_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Crops every image from its zero-padded self and mirrors some, all at once on the images' device.

    Args:
        images: `(B, C, H, W)`, any type.
        draws: `(3, B)` on the same device, from `draw_crop_flip`: top, left, flip. Offset `PAD` leaves the place.

    Returns:
        New tensor of the same shape and type.
    """
    height, width = images.shape[2:]
    # Every crop is a window of the padded images; indexing the view of all windows copies the chosen ones alone.
    windows = F.pad(images, (PAD, PAD, PAD, PAD)).unfold(2, height, 1).unfold(3, width, 1)
    top, left, flip = draws
    cropped = windows[torch.arange(len(images), device=images.device), :, top, left]
    return mirror(cropped, flip)


def draw_cutout(count: int, sides: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draws what `cutout` needs: int64 `(2, count)`, a pixel of an image with these sides (height, width)."""
    return torch.cat([torch.randint(side, (1, count), generator=generator) for side in sides])


def cutout(images: Tensor, draws: Tensor) -> Tensor:
    """Blackens a rectangle in every image, a quarter as high and as wide as the image (8x8 pixels in one of 32x32).

    Where its middle lies near the border, less of it falls into the image, as in DeVries and Taylor, arXiv 1708.04552.

    Args:
        images: `(B, C, H, W)`, any type.
        draws: `(2, B)` on the same device, from `draw_cutout`: row and column of the middle.

    Returns:
        New tensor of the same shape and type.
    """
    outside = []
    for side, middle in zip(images.shape[2:], draws, strict=True):
        offset = torch.arange(side, device=images.device) - middle[:, None] + side // 8
        outside.append((offset < 0) | (offset >= side // 4))
    rows, columns = outside
    return images * (rows[:, None, :, None] | columns[:, None, None, :])
