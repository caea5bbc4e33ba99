"""How numbers become amplitudes of light, and what detectors make of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from beyondprop.errors import UserError


class Amplitudes(nn.Module):
    """Numbers as amplitudes of light: every sample has the same power, shared out as its numbers are.

        Ψ = sqrt(power) (x/|x|, reference, 0, ...) / length

    Args:
        modes: Ψ modes, at least one more than x has numbers.
        power: Σ|Ψ|².
        reference: Amplitude of one mode that carries no number, beside |x| = 1: without it x and -x look alike.
        features: How many numbers x has; by default any that have a mode each.

    Raises:
        UserError: In `forward`, when x has another number of them, or they are not real.
    """

    def __init__(self, modes: int, power: float, reference: float = 0.5, features: int | None = None) -> None:
        super().__init__()
        self.modes, self.power, self.reference, self.features = modes, power, reference, features

    def forward(self, x: Tensor) -> Tensor:
        """Return Ψ, real, shape (batch, modes)."""
        count = math.prod(x.shape[1:])
        fits = count < self.modes if self.features is None else count == self.features
        _check_input(x, fits, f"{self.features or f'at most {self.modes - 1}'} numbers a sample")
        flat = x.flatten(1)
        shares = flat / (flat.norm(dim=1, keepdim=True) + 1e-12)
        beside = torch.full_like(flat[:, :1], self.reference)
        psi = nn.functional.pad(torch.cat([shares, beside], dim=1), (0, self.modes - flat.shape[1] - 1))
        return psi * (math.sqrt(self.power) / psi.norm(dim=1, keepdim=True))


class Planes(nn.Module):
    """An image as amplitudes of light in the middle of a plane, beside a plane wave that carries nothing.

    Args:
        image: Channels (one), height and width.
        side: Of the square plane, at least that of the image.
        channels: Planes beside each other, all alike.
        reference: Length of the plane wave, beside an image of length 1.

    Raises:
        UserError: The image has several channels, or does not fit; in `forward`, when x is none of such images.
    """

    def __init__(self, image: Sequence[int], side: int, channels: int, reference: float = 0.5) -> None:
        super().__init__()
        colours, height, width = image
        if colours != 1 or max(height, width) > side:
            raise UserError(f"a plane of {side}x{side} takes grey images up to its size, not {tuple(image)}")
        self.image, self.side, self.channels, self.reference = tuple(image), side, channels, reference

    def forward(self, x: Tensor) -> Tensor:
        """Return Ψ, real, shape (batch, channels · side²), with an intensity of 1 on average."""
        _check_input(x, x.shape[1:] == self.image, f"images of shape {self.image}")
        high, wide = (self.side - size for size in x.shape[2:])
        plane = nn.functional.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)).flatten(1)
        plane = plane / (plane.norm(dim=1, keepdim=True) + 1e-12) + self.reference / self.side
        return (plane * (self.side / plane.norm(dim=1, keepdim=True))).repeat(1, self.channels)


class Intensities(nn.Module):
    """Class scores from detectors: a class's score is the share of the power that its detectors see, times the gain.

    Args:
        classes: The modes are dealt out to them in turn; what is left over sees nothing.
        gain: Score of all the power.
    """

    def __init__(self, classes: int, gain: float) -> None:
        super().__init__()
        self.classes, self.gain = classes, gain

    def forward(self, psi: Tensor) -> Tensor:
        """Return scores, shape (..., classes)."""
        power = intensity(psi)
        each = psi.shape[-1] // self.classes
        seen = power[..., : each * self.classes].unflatten(-1, (each, self.classes)).sum(dim=-2)
        return seen * (self.gain / power.sum(dim=-1, keepdim=True))


class Bits(nn.Module):
    """Numbers as amplitudes of the first Ψ modes, at an intensity for each replica; the other modes begin dark.

    Args:
        modes: Ψ modes.
        amplitudes: By which a number is multiplied, shape (replicas,).

    Raises:
        UserError: In `forward`, when x has more numbers than there are modes, or they are not real.
    """

    amplitudes: Tensor

    def __init__(self, modes: int, amplitudes: Tensor) -> None:
        super().__init__()
        self.modes = modes
        self.register_buffer("amplitudes", amplitudes.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return Ψ, real, shape (batch, replicas, modes)."""
        count = math.prod(x.shape[1:])
        _check_input(x, count <= self.modes, f"at most {self.modes} numbers a sample")
        flat = nn.functional.pad(x.flatten(1), (0, self.modes - count))
        return flat[:, None] * self.amplitudes[:, None]


class OneMode(nn.Module):
    """The complex amplitude of one mode.

    Args:
        mode: Its number among Ψ.
    """

    def __init__(self, mode: int) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, psi: Tensor) -> Tensor:
        """Return it, shape (...)."""
        return psi[..., self.mode]


def intensity(phi: Tensor) -> Tensor:
    """Compute |φ|², differentiable also where φ is 0, without a sum over a dimension as short as two."""
    re, im = torch.view_as_real(phi.resolve_conj()).unbind(dim=-1)
    return torch.addcmul(re * re, im, im)


def _check_input(x: Tensor, fits: bool, wanted: str) -> None:
    if not (fits and x.ndim > 1 and x.is_floating_point()):
        raise UserError(f"light is written from {wanted}, of a floating-point type, not {x.dtype} of {tuple(x.shape)}")
