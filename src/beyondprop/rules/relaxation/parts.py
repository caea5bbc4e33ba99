"""Parts of a Hamiltonian of complex modes, each with a flow that is known exactly.

A state is a complex tensor φ of shape (..., modes) with φ = (q + ip)/√2, so that dφ/dt = -i ∂H/∂φ*. Every part keeps
Σ|φ|², and is the same seen backwards in time: to flow, conjugate, flow and conjugate leads back to the start.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beyondprop.errors import UserError
from beyondprop.layers.light import intensity

Stepper = Callable[[int], int]
ALL = slice(None)


class Part(nn.Module, ABC):
    """One term of H. Subclasses write `energy` and `flow`; `stepper` is for those that are called often.

    What a part precomputes from its buffers is kept in `prepared`, which is emptied where buffers change.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prepared: dict[Any, Any] = {}

    @abstractmethod
    def energy(self, phi: Tensor) -> Tensor:
        """Return the term's value for each state, shape (...)."""

    @abstractmethod
    def flow(self, phi: Tensor, time: float) -> Tensor:
        """Return the state after some time under this term alone. Differentiable; phi stays as it is."""

    def stepper(self, states: tuple[Tensor, Tensor], time: float) -> Stepper:
        """Make what advances a state in place.

        Args:
            states: Two buffers of one shape, contiguous; the second is only for intermediate results.
            time: Of a step.

        Returns:
            A function of the number, 0 or 1, of the buffer that holds the state; it returns that which holds it now.
        """

        def step(i: int) -> int:
            states[i].copy_(self.flow(states[i], time))
            return i

        return step

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.prepared.clear()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.prepared.clear()
        super()._load_from_state_dict(*args, **kwargs)


class Couplings(Part):
    """Linear couplings and detunings: H = Σ K_jk φ_j* φ_k, solved by the exact propagator exp(-iKt).

    Args:
        matrix: K, real and symmetric, in units of 1/time.
        modes: Which modes of the state it is of; by default all.

    Raises:
        UserError: K is not a real symmetric matrix: it would not look the same backwards in time.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor, modes: slice = ALL) -> None:
        super().__init__()
        if matrix.is_complex() or matrix.ndim != 2 or not torch.equal(matrix, matrix.mT):
            raise UserError("couplings must be a real symmetric matrix: with any other the echo would not return")
        self.modes = modes
        self.register_buffer("matrix", matrix.clone())

    def energy(self, phi: Tensor) -> Tensor:
        """Return Σ K_jk φ_j* φ_k."""
        part = phi[..., self.modes]
        return (part.conj() * (part @ self.matrix.to(part.dtype))).sum(dim=-1).real

    def flow(self, phi: Tensor, time: float) -> Tensor:
        """Return exp(-iKt) φ."""
        return _with(phi, self.modes, phi[..., self.modes] @ self.propagator(time, phi))

    def propagator(self, time: float, like: Tensor) -> Tensor:
        """Compute exp(-iKt), which is symmetric, in the type and on the device of a state."""
        key = (time, like.dtype, like.device)
        if key not in self.prepared:
            with torch.inference_mode(False), torch.no_grad():
                values, vectors = torch.linalg.eigh(self.matrix.double())
                turned = torch.polar(torch.ones_like(values), -time * values)
                made = (vectors * turned) @ vectors.mT.to(turned.dtype)
                # One step of Newton's: what rounding takes of unitarity would add up over thousands of steps.
                made = 1.5 * made - 0.5 * made @ (made.mH @ made)
                self.prepared[key] = made.to(like.dtype)
        found: Tensor = self.prepared[key]
        return found

    def stepper(self, states: tuple[Tensor, Tensor], time: float) -> Stepper:
        """Multiply all states by the propagator: from one buffer into the other."""
        propagator = self.propagator(time, states[0])
        flat = tuple(state.view(-1, state.shape[-1]) for state in states)
        parts = tuple(state[:, self.modes] for state in flat)
        whole = parts[0].shape == flat[0].shape

        def step(i: int) -> int:
            torch.mm(parts[i], propagator, out=parts[1 - i])
            if whole:
                return 1 - i
            parts[i].copy_(parts[1 - i])
            return i

        return step


class Kerr(Part):
    """Every mode turns by its own intensity: H = Σ ω_j |φ_j|² + g/2 |φ_j|⁴.

    Args:
        strength: g, in units of 1/(time · intensity).
        detuning: ω, real, of a shape that broadcasts against states: (modes,), or (replicas, modes). Disorder is one
            that was drawn once and stays.
        modes: Which modes of the state it is of; by default all.
    """

    detuning: Tensor | None

    def __init__(self, strength: float, detuning: Tensor | None = None, modes: slice = ALL) -> None:
        super().__init__()
        self.strength, self.modes = float(strength), modes
        self.register_buffer("detuning", None if detuning is None else detuning.clone())

    def energy(self, phi: Tensor) -> Tensor:
        """Return Σ ω_j |φ_j|² + g/2 |φ_j|⁴."""
        power = intensity(phi[..., self.modes])
        terms = self.strength / 2 * power**2
        return (terms if self.detuning is None else terms + self.detuning * power).sum(dim=-1)

    def flow(self, phi: Tensor, time: float) -> Tensor:
        """Return φ_j exp(-i(ω_j + g|φ_j|²)t): the intensity does not change."""
        part = phi[..., self.modes]
        rate = self.strength * intensity(part)
        if self.detuning is not None:
            rate = rate + self.detuning
        return _with(phi, self.modes, _turned(part, -time * rate))

    def stepper(self, states: tuple[Tensor, Tensor], time: float) -> Stepper:
        """Turn in place."""
        parts = tuple(state[..., self.modes] for state in states)
        planes = [torch.view_as_real(part).unbind(dim=-1) for part in parts]
        angle = torch.empty(parts[0].shape, dtype=planes[0][0].dtype, device=parts[0].device)
        base, one = torch.zeros_like(angle), torch.ones_like(angle)
        if self.detuning is not None:
            base.sub_(time * self.detuning)
        turn = torch.empty(parts[0].shape, dtype=parts[0].dtype, device=parts[0].device)
        scale = -time * self.strength

        def step(i: int) -> int:
            re, im = planes[i]
            torch.addcmul(base, re, re, value=scale, out=angle)
            angle.addcmul_(im, im, value=scale)
            torch.polar(one, angle, out=turn)
            parts[i].mul_(turn)
            return i

        return step


class CrossKerr(Part):
    """Two fields that turn each other by their intensities: H = χ Σ |ψ_j|² |θ_j|² + g/2 Σ |ψ_j|⁴.

    Where ψ has m times as many modes as θ, each θ_j meets m of them, as a filter meets all places of an image:
    ψ_j, ψ_(n+j), ψ_(2n+j) and so on, with n the number of modes of θ.

    Args:
        strength: χ, in units of 1/(time · intensity).
        first: The modes ψ.
        second: The modes θ.
        own: g, the Kerr effect of ψ on itself, which commutes with the other.
    """

    def __init__(self, strength: float, first: slice, second: slice, own: float = 0.0) -> None:
        super().__init__()
        self.strength, self.first, self.second, self.own = float(strength), first, second, float(own)

    def energy(self, phi: Tensor) -> Tensor:
        """Return χ Σ |ψ_j|² |θ_j|² + g/2 Σ |ψ_j|⁴."""
        psi, theta = self._fields(phi)
        met, meets = intensity(psi), intensity(theta)
        return (self.strength * met * meets[..., None, :] + self.own / 2 * met**2).sum(dim=(-2, -1))

    def flow(self, phi: Tensor, time: float) -> Tensor:
        """Return both fields, turned; no intensity changes."""
        psi, theta = self._turned(phi, time)
        return _with(_with(phi, self.first, psi.flatten(-2)), self.second, theta)

    def stepper(self, states: tuple[Tensor, Tensor], time: float) -> Stepper:
        """Turn in place."""

        def step(i: int) -> int:
            state = states[i]
            psi, theta = self._turned(state, time)
            state[..., self.first] = psi.flatten(-2)
            state[..., self.second] = theta
            return i

        return step

    def _fields(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """ψ of shape (..., m, n), and θ of shape (..., n)."""
        theta = phi[..., self.second]
        return phi[..., self.first].unflatten(-1, (-1, theta.shape[-1])), theta

    def _turned(self, phi: Tensor, time: float) -> tuple[Tensor, Tensor]:
        psi, theta = self._fields(phi)
        met, meets = intensity(psi), intensity(theta)
        rate = self.strength * meets[..., None, :]
        if self.own:
            rate = rate + self.own * met
        return _turned(psi, -time * rate), _turned(theta, -time * self.strength * met.sum(dim=-2))


class Mixing(Part):
    """Pairs of modes that beat with each other: H = 2κ Σ Re(a_j* b_j), a rotation of each pair by the angle κt.

    Args:
        strength: κ, in units of 1/time.
        first: The modes a.
        second: The modes b, as many.
    """

    def __init__(self, strength: float, first: slice, second: slice) -> None:
        super().__init__()
        self.strength, self.first, self.second = float(strength), first, second

    def energy(self, phi: Tensor) -> Tensor:
        """Return 2κ Σ Re(a_j* b_j)."""
        return 2 * self.strength * (phi[..., self.first].conj() * phi[..., self.second]).real.sum(dim=-1)

    def flow(self, phi: Tensor, time: float) -> Tensor:
        """Return cos(κt) a - i sin(κt) b, and the same with a and b exchanged."""
        a, b = phi[..., self.first], phi[..., self.second]
        cos, sin = math.cos(self.strength * time), 1j * math.sin(self.strength * time)
        return _with(_with(phi, self.first, cos * a - sin * b), self.second, cos * b - sin * a)


class Propagation(Part):
    """A field on a periodic grid that disperses: H = Σ_k ω_k |φ_k|², solved in Fourier space.

    Args:
        frequencies: ω, of the grid's shape, in the order of `torch.fft.fftfreq`; ω(-k) = ω(k).
        modes: The field's modes; channels, if there are several, come before the grid. By default all.
    """

    frequencies: Tensor

    def __init__(self, frequencies: Tensor, modes: slice = ALL) -> None:
        super().__init__()
        self.modes = modes
        self.register_buffer("frequencies", frequencies.clone())

    @classmethod
    def diffraction(cls, grid: Sequence[int], strength: float = 1.0, modes: slice = ALL) -> Propagation:
        """Make that of a paraxial wave: ω = strength · k²/2, k in radians a mode, at most π on each axis."""
        sides = [(2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64)) ** 2 for side in grid]
        total = torch.zeros(tuple(grid), dtype=torch.float64)
        for number, side in enumerate(sides):
            total += side.view(-1, *[1] * (len(grid) - number - 1))
        return cls((strength / 2 * total).to(torch.get_default_dtype()), modes)

    def energy(self, phi: Tensor) -> Tensor:
        """Return Σ_k ω_k |φ_k|²."""
        waves = torch.fft.fftn(self._field(phi), dim=self._sides, norm="ortho")
        return (self.frequencies * intensity(waves)).flatten(phi.ndim - 1).sum(dim=-1)

    def flow(self, phi: Tensor, time: float) -> Tensor:
        """Return the field with every wave turned by exp(-iω_k t)."""
        waves = torch.fft.fftn(self._field(phi), dim=self._sides) * self._turn(time, phi)
        return _with(phi, self.modes, torch.fft.ifftn(waves, dim=self._sides).flatten(phi.ndim - 1))

    def stepper(self, states: tuple[Tensor, Tensor], time: float) -> Stepper:
        """Turn the waves in place."""
        turn, fields = self._turn(time, states[0]), tuple(self._field(state) for state in states)

        def step(i: int) -> int:
            waves = torch.fft.fftn(fields[i], dim=self._sides).mul_(turn)
            fields[i].copy_(torch.fft.ifftn(waves, dim=self._sides))
            return i

        return step

    @property
    def _sides(self) -> tuple[int, ...]:
        return tuple(range(-self.frequencies.ndim, 0))

    def _field(self, phi: Tensor) -> Tensor:
        """The field as (..., channels, *grid)."""
        return phi[..., self.modes].unflatten(-1, (-1, *self.frequencies.shape))

    def _turn(self, time: float, like: Tensor) -> Tensor:
        key = (time, like.dtype, like.device)
        if key not in self.prepared:
            with torch.inference_mode(False), torch.no_grad():
                angle = -time * self.frequencies.double()
                self.prepared[key] = torch.polar(torch.ones_like(angle), angle).to(like.dtype)
        found: Tensor = self.prepared[key]
        return found


def _turned(phi: Tensor, angle: Tensor) -> Tensor:
    return phi * torch.complex(angle.cos(), angle.sin())  # on the CPU cos and sin are vectorized, torch.polar is not


def _with(phi: Tensor, modes: slice, part: Tensor) -> Tensor:
    """The state with some of its modes replaced."""
    if part.shape == phi.shape:
        return part
    changed = phi.clone()
    changed[..., modes] = part
    return changed
