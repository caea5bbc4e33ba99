"""Driven Hamiltonian systems as recurrent layers: your own energy, and the two units of arXiv 2506.05259."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError

State = tuple[Tensor, Tensor]
Kick = Callable[[Tensor, Tensor, int], Tensor]


class Hamiltonian(nn.Module):
    r"""A system of energy H = T(π) + V(φ, u_t), which inputs drive, in steps of the leapfrog.

        φ' = φ_t + (δ/2) ∂T/∂π(π_t),    π_{t+1} = π_t - δ ∂V/∂φ(φ', u_t),    φ_{t+1} = φ' + (δ/2) ∂T/∂π(π_{t+1})

    From (φ_{t+1}, -π_{t+1}) the same step with the same u_t leads to (φ_t, -π_t), for any V and any even T. Subclasses
    write `potential`, and `kinetic` where it is not that of unit masses; autograd finds the forces. Those of
    `LinearHRU` and `NonlinearHRU` are written out.

    Args:
        inputs: Length of u_t.
        size: Length of φ and of π.
        step: δ. Oscillations of frequency ω need δ ω < 2.

    >>> class Pendulums(Hamiltonian):
    ...     def potential(self, phi, u):
    ...         return (1 - phi.cos()).sum(-1) - (phi * u).sum(-1)
    >>> Pendulums(3, 3, step=0.1)(torch.zeros(50, 2, 3)).shape
    torch.Size([50, 2, 3])
    """

    def __init__(self, inputs: int, size: int, *, step: float = 1.0) -> None:
        super().__init__()
        check_whole(1, inputs=inputs, size=size)
        check_number(step=step, above=True)
        self.inputs, self.size, self.step = inputs, size, step

    def potential(self, phi: Tensor, u: Tensor) -> Tensor:
        """Compute V of every sample.

        Args:
            phi: Positions, shape (..., size).
            u: Inputs, shape (..., inputs).

        Returns:
            Shape (...).
        """
        raise NotImplementedError(f"{type(self).__name__} needs potential(phi, u), the energy of each sample")

    def kinetic(self, pi: Tensor) -> Tensor:
        """Compute T of every sample, shape (...), of momenta of shape (..., size); it must be even."""
        return 0.5 * pi.square().sum(-1)

    @property
    def plain(self) -> bool:
        """Whether T is that of unit masses, so that velocities are momenta."""
        return type(self).kinetic is Hamiltonian.kinetic

    def kicks(self, u: Tensor) -> Kick:
        """Prepare what the potential does in some steps.

        Args:
            u: Inputs, shape (time, batch, inputs).

        Returns:
            Maps positions, momenta (both of shape (..., batch, size)) and the number of a step to π - δ ∂V/∂φ.
        """

        def kick(phi: Tensor, pi: Tensor, t: int) -> Tensor:
            slope = _slope(lambda at: self.potential(at, u[t].expand(*at.shape[:-1], -1)), phi)
            return torch.add(pi, slope, alpha=-self.step)

        return kick

    def velocity(self, pi: Tensor) -> Tensor:
        """Compute ∂T/∂π."""
        return pi if self.plain else _slope(self.kinetic, pi)

    def rest(self, u: Tensor) -> State:
        """Zero positions and momenta for inputs of shape (time, batch, inputs)."""
        phi = torch.zeros(u.shape[1], self.size, dtype=u.dtype, device=u.device)
        return phi, phi

    def run(self, u: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run over steps. The half drifts of neighbouring steps are taken as one.

        Args:
            u: Inputs, shape (time, batch, inputs).
            state: Positions and momenta before the first step, each of shape (batch, size); at rest by default.

        Returns:
            The positions after every step, shape (time, batch, size), and the state after the last.
        """
        if torch.is_inference_mode_enabled():  # forces may come by autograd, which refuses inference tensors
            with torch.inference_mode(False), torch.no_grad():
                return self.run(u.clone(), None if state is None else (state[0].clone(), state[1].clone()))
        (phi, pi), kick, step = state or self.rest(u), self.kicks(u), self.step
        between = [torch.add(phi, self.velocity(pi), alpha=step / 2)]
        for t in range(len(u)):
            pi = kick(between[-1], pi, t)
            between.append(torch.add(between[-1], self.velocity(pi), alpha=step))
        middle = torch.stack(between)
        phi = (middle[:-1] + middle[1:]) / 2
        return phi, (phi[-1], pi)

    def forward(self, u: Tensor) -> Tensor:
        """Return the positions after every step, shape (time, batch, size), from rest."""
        return self.run(u)[0]

    def energy_gradients(
        self, phi: Tensor, pi: Tensor | None, u: Tensor, weight: Tensor
    ) -> tuple[list[Tensor | None], Tensor]:
        """Differentiate the weighted differences of H between pairs of trajectories.

        Args:
            phi: Positions at the kicks, shape (time, 2, batch, size).
            pi: Momenta before and after the kicks, shape (2, time, 2, batch, size); None where T is plain.
            u: Inputs, shape (time, batch, inputs).
            weight: Of each sample, shape (batch, 1).

        Returns:
            ∂/∂θ and ∂/∂u of Σ weight (H₂ - H₁), over steps and samples: a tensor for each parameter, in their order, or
            None where H does not depend on it; and one of the shape of u.
        """
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            energy = self.potential(phi, u.unsqueeze(1).expand(-1, 2, -1, -1))
            if pi is not None:
                energy = energy + self.kinetic(pi).mean(0)
            total = ((energy[:, 1] - energy[:, 0]) * weight[:, 0]).sum()
        wanted = [p for p in self.parameters() if p.requires_grad]
        *of_wanted, of_u = torch.autograd.grad(total, [*wanted, u], allow_unused=True)
        found = dict(zip(map(id, wanted), of_wanted, strict=True))
        return [found.get(id(p)) for p in self.parameters()], torch.zeros_like(u) if of_u is None else of_u


class LinearHRU(Hamiltonian):
    r"""The linear Hamiltonian recurrent unit of arXiv 2506.05259: oscillators that inputs push.

        H = ½|π|² + ½ φᵀAφ - φᵀB u

    Args:
        inputs: Length of u_t.
        size: Oscillators.
        step: δ.

    A is diagonal, A = (4/δ²) σ(a), and so between 0 and where the leapfrog is no longer stable. δ²A starts uniform in
    0.05..1 (periods of 6 to 28 steps), B uniform within ±1/√inputs.

    >>> LinearHRU(3, 8)(torch.zeros(5, 2, 3)).shape
    torch.Size([5, 2, 8])
    """

    def __init__(self, inputs: int, size: int, *, step: float = 1.0) -> None:
        super().__init__(inputs, size, step=step)
        self.a = nn.Parameter(torch.empty(size).uniform_(0.05, 1).div_(4).logit_())
        self.B = nn.Parameter(torch.empty(size, inputs).uniform_(-1, 1).div_(math.sqrt(inputs)))

    @property
    def A(self) -> Tensor:  # noqa: N802
        """Stiffness of each oscillator."""
        return 4 / self.step**2 * torch.sigmoid(self.a)

    def potential(self, phi: Tensor, u: Tensor) -> Tensor:
        """See `Hamiltonian`."""
        return (0.5 * self.A * phi.square() - phi * F.linear(u, self.B)).sum(-1)

    def kicks(self, u: Tensor) -> Kick:
        """See `Hamiltonian`."""
        pushes, A, step = F.linear(u, self.B).unbind(), self.A, self.step
        return lambda phi, pi, t: torch.add(pi, pushes[t], alpha=step).addcmul_(A, phi, value=-step)

    def energy_gradients(
        self, phi: Tensor, pi: Tensor | None, u: Tensor, weight: Tensor
    ) -> tuple[list[Tensor | None], Tensor]:
        """See `Hamiltonian`."""
        del pi
        first, second = phi.unbind(1)
        moved = (second - first) * weight
        of_A = 0.5 * (moved * (first + second)).sum((0, 1))
        return [_chained(self, "A", self.a, of_A), -_outer(moved, u)], -moved @ self.B


class NonlinearHRU(Hamiltonian):
    r"""The nonlinear Hamiltonian recurrent unit of arXiv 2506.05259.

        H = ½|π|² + (α/2)|φ|² + (1/A)ᵀ log cosh(Aφ + B u + b),    -∂H/∂φ = -αφ - tanh(Aφ + B u + b)

    Args:
        inputs: Length of u_t.
        size: Units.
        step: δ.

    A (diagonal) and α (one number) are each (2/δ²) σ(·), so that α + A stays where the leapfrog is stable. δ²A starts
    uniform in 0.5..1 and δ²α at 0.5, B uniform within ±1/√inputs, b at 0.

    >>> NonlinearHRU(3, 8)(torch.zeros(5, 2, 3)).shape
    torch.Size([5, 2, 8])
    """

    def __init__(self, inputs: int, size: int, *, step: float = 1.0) -> None:
        super().__init__(inputs, size, step=step)
        self.a = nn.Parameter(torch.empty(size).uniform_(0.5, 1).div_(2).logit_())
        self.spring = nn.Parameter(torch.tensor(0.25).logit())
        self.B = nn.Parameter(torch.empty(size, inputs).uniform_(-1, 1).div_(math.sqrt(inputs)))
        self.b = nn.Parameter(torch.zeros(size))

    @property
    def A(self) -> Tensor:  # noqa: N802
        """Gain of each unit's own position."""
        return 2 / self.step**2 * torch.sigmoid(self.a)

    @property
    def alpha(self) -> Tensor:
        """Stiffness that all units share."""
        return 2 / self.step**2 * torch.sigmoid(self.spring)

    def potential(self, phi: Tensor, u: Tensor) -> Tensor:
        """See `Hamiltonian`."""
        A = self.A
        return (self.alpha / 2 * phi.square() + _log_cosh(A * phi + F.linear(u, self.B, self.b)) / A).sum(-1)

    def kicks(self, u: Tensor) -> Kick:
        """See `Hamiltonian`."""
        pushes, A, alpha, step = F.linear(u, self.B, self.b).unbind(), self.A, self.alpha, self.step

        def kick(phi: Tensor, pi: Tensor, t: int) -> Tensor:
            slope = torch.addcmul(pushes[t], A, phi).tanh_()
            return torch.add(pi, slope, alpha=-step).addcmul_(alpha, phi, value=-step)

        return kick

    def energy_gradients(
        self, phi: Tensor, pi: Tensor | None, u: Tensor, weight: Tensor
    ) -> tuple[list[Tensor | None], Tensor]:
        """See `Hamiltonian`."""
        del pi
        A = self.A
        argument = torch.addcmul(F.linear(u, self.B, self.b).unsqueeze(1), A, phi)
        first, second = phi.unbind(1)
        slope_first, slope_second = argument.tanh().unbind(1)
        gap, slope_gap = second - first, slope_second - slope_first
        energy_gap = torch.sub(*_log_cosh(argument).unbind(1)).neg_()
        of_A = (slope_second * second).sub_(slope_first * first).sub_(energy_gap.div_(A)).mul_(weight).sum((0, 1)) / A
        of_alpha = 0.5 * (gap * (first + second)).mul_(weight).sum()
        moved = slope_gap.mul_(weight / A)
        return [
            _chained(self, "A", self.a, of_A),
            _chained(self, "alpha", self.spring, of_alpha),
            _outer(moved, u),
            moved.sum((0, 1)),
        ], moved @ self.B


def _slope(energy: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Differentiate energies of samples by their own coordinates; with a graph where one is being made."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        at = at if graph and at.requires_grad else at.detach().requires_grad_()
        total = energy(at).sum()
        if not total.requires_grad:
            raise UserError("an energy must depend on positions, or momenta, by torch's own operations")
        return torch.autograd.grad(total, at, create_graph=graph)[0]


def _log_cosh(z: Tensor) -> Tensor:
    return F.softplus(2 * z, threshold=40).sub(z).sub(math.log(2))  # beyond 40 the rest is nothing in float64


def _outer(moved: Tensor, u: Tensor) -> Tensor:
    return moved.flatten(0, 1).T @ u.flatten(0, 1)


def _chained(unit: nn.Module, name: str, raw: Tensor, gradient: Tensor) -> Tensor | None:
    """Pass a gradient on to the parameter that a bounded coefficient is made of."""
    if not raw.requires_grad:
        return None
    with torch.enable_grad():
        return torch.autograd.grad(getattr(unit, name), raw, gradient)[0]
