"""The augmentation of the CIFAR literature: pad by 4, crop at random, flip every other image."""

import torch
import torch.nn.functional as F
from torch import Tensor

PAD = 4  # pixels on every side


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
    return torch.where(flip.bool()[:, None, None, None], cropped.flip(3), cropped)
