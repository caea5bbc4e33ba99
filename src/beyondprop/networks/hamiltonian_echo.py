"""Hamiltonian systems: cavity arrays, wave fields and layers of light, for `HamiltonianEcho` to train."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from beyondprop.checks import check_whole
from beyondprop.errors import UserError
from beyondprop.layers.light import Amplitudes, Bits, Intensities, OneMode, Planes
from beyondprop.rules.relaxation.hamiltonian import HamiltonianSystem, Segment
from beyondprop.rules.relaxation.parts import Couplings, CrossKerr, Kerr, Mixing, Part, Propagation


def coupled_modes(
    features: int,
    classes: int,
    *,
    layers: int = 4,
    modes: int | None = None,
    strength: float = 15.0,
    own: float = 0.0,
    gain: float = 30.0,
) -> HamiltonianSystem:
    """Make layers of randomly coupled modes, each of which meets a learning mode of its own.

        layers times (linear couplings, cross-Kerr with θ and Kerr),  linear couplings,  intensities

    Args:
        features: Numbers of a sample; one mode each.
        classes: Scores a sample.
        layers: Times that light meets learning modes.
        modes: Ψ modes, more than features; by default twice as many, rounded up to a multiple of the classes.
        strength: χ; a learning mode of amplitude 1 turns its partner by that angle.
        own: g, the Kerr effect of light on itself; intensities are 1 on average.
        gain: Score of a class that sees all the power.

    Raises:
        UserError: There are too few modes for the features, or for the classes.
    """
    modes = _enough(features, classes, modes=modes)
    segments = []
    for layer in range(layers):
        met = slice(modes * (layer + 1), modes * (layer + 2))
        segments += [
            Segment([random_couplings(modes)]),
            Segment([CrossKerr(strength, slice(modes), met, own)]),
        ]
    segments.append(Segment([random_couplings(modes)]))
    theta = 0.5 + torch.rand(layers * modes)
    encode = Amplitudes(modes, float(modes), features=features)
    return HamiltonianSystem(segments, encode, Intensities(classes, gain), theta, modes=modes)


def wave_fields(
    features: int,
    classes: int,
    *,
    points: int | None = None,
    dispersion: float = 1.0,
    kerr: float = 0.2,
    cross: float = 1.0,
    time: float = 0.05,
    steps: int = 200,
    gain: float = 30.0,
) -> HamiltonianSystem:
    """Make two wave fields on a ring that run through each other: nonlinear Schrödinger equations, by split steps.

        i dψ/dt = -D/2 ψ'' + g |ψ|² ψ + χ |θ|² ψ,    and the same with ψ and θ exchanged

    Args:
        features: Numbers of a sample, which are amplitudes of ψ at as many points at the start.
        classes: Scores a sample, from intensities of ψ at the end.
        points: Of either field; by default twice the features, rounded up to a multiple of the classes.
        dispersion: D, with a point as the unit of length.
        kerr: g; intensities of ψ are 1 on average, those of θ begin between 1/4 and 9/4.
        cross: χ.
        time: Of a step.
        steps: How many.
        gain: Score of a class that sees all the power.

    Raises:
        UserError: There are too few points for the features, or for the classes.
    """
    points = _enough(features, classes, points=points)
    psi, theta = slice(points), slice(points, 2 * points)
    parts: list[Part] = [
        Propagation.diffraction((points,), dispersion),
        Kerr(kerr, modes=theta),
        CrossKerr(cross, psi, theta, own=kerr),
    ]
    return HamiltonianSystem(
        [Segment(parts, time, steps)],
        Amplitudes(points, float(points), features=features),
        Intensities(classes, gain),
        0.5 + torch.rand(points),
        modes=points,
    )


def _enough(features: int, classes: int, **chosen: int | None) -> int:
    """How many modes take the features and are dealt out to the classes, unless the user has chosen."""
    check_whole(1, features=features, classes=classes)
    ((name, count),) = chosen.items()
    if count is None:
        return -(-2 * (features + 1) // classes) * classes
    if count <= features or count < classes:
        raise UserError(
            f"{features} numbers need more than as many modes, and {classes} classes one each: got {name}={count}"
        )
    return count


def random_couplings(modes: int) -> Couplings:
    """Draw couplings that, in a time of 1, spread every mode over all others."""
    drawn = torch.randn(modes, modes) * (math.pi / 2 / math.sqrt(2 * modes))
    return Couplings(drawn + drawn.mT, slice(modes))


def cavity_array(
    amplitudes: Tensor,
    theta: Tensor,
    *,
    side: int = 4,
    kerr: float = -2.0,
    hopping: float = 10.0,
    coupling: float = 0.3,
    time: float = 0.04,
    steps: int = 499,
    split: bool = False,
) -> HamiltonianSystem:
    """Make the nonlinear cavity array of arXiv 2103.04992 (Fig. 8), many of them side by side.

    A square lattice of learning modes, each coupled to its neighbours, and four evaluation modes, each coupled to a
    corner; the Kerr effect is in all of them. The first Ψ modes take x, the last one is read.

        H = 2J Σ Re(θ_a* θ_b) + g/2 Σ |φ|⁴ + 2κ Σ_j Re(ψ_j* θ_corner(j)),    a and b neighbours

    Args:
        amplitudes: Of a number 1 in the input, shape (replicas,).
        theta: Start of the learning modes, (replicas, side²), real; the authors draw it from [0, 1) and divide by its
            length.
        side: Of the lattice.
        kerr: g.
        hopping: J.
        coupling: κ.
        time: Of a step.
        steps: How many; the authors' loop of 500 points takes 499.
        split: Whether corners and evaluation modes are a part of their own between two halves of the Kerr effect, as in
            the authors' code. Without it all couplings are one part: half the work, and an error of the same order.

    Raises:
        UserError: θ has another shape.
    """
    _check_rows(amplitudes, side**2, theta=theta)
    count = 4 + side**2
    hops, ports = torch.zeros(2, count, count, dtype=torch.float64)
    corners = (0, side - 1, side * (side - 1), side**2 - 1)
    for port, corner in enumerate(corners):
        ports[port, 4 + corner] = coupling
    hops[4:, 4:] = hopping * square_lattice(side, side)
    ports += ports.mT.clone()
    if split:
        parts: list[Part] = [Couplings(hops), Kerr(kerr), Couplings(ports)]
    else:
        parts = [Couplings(hops + ports), Kerr(kerr)]
    return HamiltonianSystem([Segment(parts, time, steps)], Bits(4, amplitudes), OneMode(3), theta, modes=4)


def disordered_array(
    amplitudes: Tensor,
    theta: Tensor,
    detuning: Tensor,
    *,
    side: int = 4,
    kerr: float = -1.0,
    hopping: float = 10.0,
    time: float = 0.01,
    steps: int = 1999,
) -> HamiltonianSystem:
    """Make the array with fabrication errors of arXiv 2103.04992 (Fig. 8c): the lattice's first row is Ψ.

        H = 2J Σ Re(φ_a* φ_b) + Σ ω_j |φ_j|² + g/2 Σ |φ_j|⁴,    a and b neighbours

    Args:
        amplitudes: Of a number 1 in the input, shape (replicas,).
        theta: Start of the learning modes, (replicas, side² - side), real; the authors draw normal numbers and divide
            by their length.
        detuning: ω, by which cavities differ, (replicas, side²): drawn once, and saved with the system.
        side: Of the lattice.
        kerr: g.
        hopping: J.
        time: Of a step.
        steps: How many.

    Raises:
        UserError: θ or ω has another shape.
    """
    _check_rows(amplitudes, side**2 - side, theta=theta)
    _check_rows(amplitudes, side**2, detuning=detuning)
    parts = [Couplings(hopping * square_lattice(side, side)), Kerr(kerr, detuning)]
    return HamiltonianSystem(
        [Segment(parts, time, steps)], Bits(side, amplitudes), OneMode(side - 1), theta, modes=side
    )


def _check_rows(amplitudes: Tensor, count: int, **given: Tensor) -> None:
    for name, value in given.items():
        if value.shape != (wanted := (len(amplitudes), count)):
            raise UserError(f"{name} must be of shape {wanted}, a row for each amplitude, not {tuple(value.shape)}")


def square_lattice(rows: int, columns: int) -> Tensor:
    """Return which sites are neighbours, ones and zeros in double precision, (rows · columns, rows · columns)."""
    found = torch.zeros(rows * columns, rows * columns, dtype=torch.float64)
    for row, column in itertools.product(range(rows), range(columns)):
        here = row * columns + column
        if column + 1 < columns:
            found[here, here + 1] = found[here + 1, here] = 1.0
        if row + 1 < rows:
            found[here, here + columns] = found[here + columns, here] = 1.0
    return found


def photonic_layers(
    image: Sequence[int],
    classes: int,
    *,
    layers: int = 4,
    channels: int = 1,
    side: int = 32,
    strength: float = 15.0,
    own: float = 0.0,
    spread: float = 2.0,
    gain: float = 30.0,
) -> HamiltonianSystem:
    """Make layers of light that images pass through: diffraction, and a learning field in every layer.

        layers times (diffraction, channels mix in pairs, cross-Kerr with θ and Kerr),  diffraction,  intensities

    Diffraction is a convolution, over the whole plane and the same everywhere; what is learned is the index of
    refraction, at every place of every layer and channel.

    Args:
        image: Channels (one), height and width.
        classes: Scores a sample; their detectors are dealt out over the last plane in turn.
        layers: Learning fields on light's way.
        channels: Fields of light beside each other; 1, or an even number. The image enters all of them alike.
        side: Of the square plane in which the image stands, in modes; periodic.
        strength: χ; a learning mode of amplitude 1 turns the light by that angle.
        own: g, the Kerr effect of light on itself; intensities are 1 on average.
        spread: Strength of the diffraction between two layers: the fastest wave is turned by π² times that.
        gain: Score of a class that sees all the power.

    Raises:
        UserError: The image has several channels or does not fit; there are several channels of light, but no even
            number; there are more classes than modes.
    """
    check_whole(1, classes=classes, channels=channels, side=side)
    plane = side * side
    modes = channels * plane
    if channels > 1 and channels % 2:
        raise UserError(f"channels of light mix in pairs: channels must be 1 or an even number, not {channels}")
    if classes > modes:
        raise UserError(f"{classes} classes need a mode each: {channels} planes of {side}x{side} have {modes}")
    segments = []
    for layer in range(layers):
        segments.append(Segment([Propagation.diffraction((side, side), spread, slice(modes))]))
        if channels > 1:
            half = modes // 2
            segments.append(Segment([Mixing(math.pi / 4, slice(half), slice(half, modes))]))
        met = slice(modes * (layer + 1), modes * (layer + 2))
        segments.append(Segment([CrossKerr(strength, slice(modes), met, own)]))
    segments.append(Segment([Propagation.diffraction((side, side), spread, slice(modes))]))
    theta = 0.5 + torch.rand(layers * modes)
    encode = Planes(image, side, channels)
    return HamiltonianSystem(segments, encode, Intensities(classes, gain), theta, modes=modes)
