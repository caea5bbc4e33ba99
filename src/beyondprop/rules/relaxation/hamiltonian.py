"""Hamiltonian systems that run forward and, after a phase conjugation, back to where they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.rules.relaxation.parts import Part, Stepper

Integrator = Callable[[Sequence[Part], Tensor, float], Tensor]
Stretch = tuple[tuple[int, ...], float, int]  # a segment, its parts by their numbers
ROUNDING = 1e-11  # relative, in double precision: what a few exact steps and their way back may differ by
CHECKED_STEPS = 8
LONGER = (1, 4, 16)  # times the step, for single ones


class Segment(NamedTuple):
    """A stretch of time under one Hamiltonian, the sum of its parts.

    Attributes:
        parts: From the outermost to the innermost of the splitting. A single part is solved exactly, in any step.
        time: Of one step.
        steps: How many.
    """

    parts: Sequence[Part]
    time: float = 1.0
    steps: int = 1


class HamiltonianSystem(nn.Module):
    r"""A system of complex modes Φ = (Ψ, Θ), as arXiv 2103.04992 trains it, whose time can be reversed.

    Ψ are the evaluation modes: x is written into them at the start, and the output is read from them at the end. Θ are
    the learning modes: what is learned is their start θ, which is real. H itself is fixed.

        dΦ/dt = -i ∂H/∂Φ*,    H(Φ) = H(Φ*)

    Time runs in steps that split H into parts, each with a flow that is known exactly (Strang): half a step of each,
    from the outermost to the innermost, a whole one of the innermost, and back. Of the outermost part, the halves of
    neighbouring steps are one. Every step is reversible to rounding whatever its length; its error in the energy, which
    is of second order in the step, disturbs no gradient.

    Args:
        segments: H in the order in which a wave meets it. On its way back it meets the last one first.
        encode: Maps a batch x to Ψ at the start, real or complex, (batch, Ψ modes), or (batch, replicas, Ψ modes).
        read: Maps Ψ at the end, complex, to outputs, such as class scores: real, or complex where the loss takes that.
        theta: θ, the real start of the learning modes, (Θ modes), or (replicas, Θ modes) for replicas that learn side
            by side, each for itself. They are the last of a state's modes; the module keeps a copy as its parameter.
        modes: How many modes Ψ has.
        integrator: Called as `integrator(parts, phi, time)` in place of the splitting. It must be reversible.

    Raises:
        UserError: θ is not real, a segment is empty, or a part, or the integrator, does not lead back to the start.

    >>> from beyondprop.networks.hamiltonian_echo import coupled_modes
    >>> system = coupled_modes(features=6, classes=3, layers=2)
    >>> system(torch.rand(5, 6)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        encode: nn.Module,
        read: nn.Module,
        theta: Tensor,
        *,
        modes: int,
        integrator: Integrator | None = None,
    ) -> None:
        super().__init__()
        if not theta.is_floating_point() or theta.ndim not in (1, 2):
            raise UserError("theta must be real, of shape (modes,) or (replicas, modes): learning begins at rest")
        check_whole(1, modes=modes)
        if not segments or not all(segment.parts for segment in segments):
            raise UserError("a Hamiltonian system needs segments, and each of them at least one part")
        for segment in segments:
            check_whole(1, steps=segment.steps)
            check_number(time=segment.time, above=True)
        self.encode, self.read = encode, read
        self.theta = nn.Parameter(theta.detach().clone())
        self.psi_modes, self.integrator = modes, integrator
        distinct = list(dict.fromkeys(part for segment in segments for part in segment.parts))
        self.parts = nn.ModuleList(distinct)
        numbers = {part: number for number, part in enumerate(distinct)}
        self.plan = [(tuple(numbers[part] for part in parts), float(time), steps) for parts, time, steps in segments]
        self._check_reversible()

    @property
    def replicas(self) -> int | None:
        """How many learn side by side; None where θ has no such dimension."""
        return len(self.theta) if self.theta.ndim == 2 else None

    def start(self, x: Tensor) -> Tensor:
        """Write x into Ψ beside θ at rest: a complex state (batch, [replicas,] modes)."""
        psi = self.encode(x)
        kind = torch.promote_types(self.theta.dtype, torch.complex64)
        psi = psi.to(kind)
        lead = torch.broadcast_shapes(psi.shape[:-1], self.theta.shape[:-1])
        return torch.cat([psi.expand(*lead, -1), self.theta.to(kind).expand(*lead, -1)], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is read from Ψ at the end; where gradients are enabled, as `unrolled`."""
        if torch.is_grad_enabled():
            return self.unrolled(x)
        with torch.autocast(x.device.type, enabled=False):
            outputs: Tensor = self.read(self.evolve(self.start(x))[..., : self.psi_modes])
        return outputs

    def unrolled(self, x: Tensor) -> Tensor:
        """Return what is read, with autograd's graph over all steps: what back-propagation through time trains."""
        with torch.autocast(x.device.type, enabled=False):
            phi = self.start(x)
            if self.integrator is not None:
                phi = self._integrated(phi, self.plan)
            else:
                for part, time in self._flows(self.plan):
                    phi = self._part(part).flow(phi, time)
            outputs: Tensor = self.read(phi[..., : self.psi_modes])
        return outputs

    def energy(self, phi: Tensor, segment: int = 0) -> Tensor:
        """Return H of a segment for each state, shape (...)."""
        parts, _, _ = self.plan[segment]
        return torch.stack([self._part(number).energy(phi) for number in parts]).sum(dim=0)

    @torch.no_grad()
    def evolve(self, phi: Tensor, *, back: bool = False) -> Tensor:
        """Return the state after all segments, without a graph.

        Args:
            phi: Complex, (..., modes); any leading dimensions, the last of them the replicas where there are any.
            back: Whether the segments are met from the last to the first. With one segment it is the same map.
        """
        plan = self.plan[::-1] if back else self.plan
        if self.integrator is not None:
            return self._integrated(phi, plan)
        flows = self._flows(plan)
        with torch.inference_mode():  # small operations take less time in it
            state = phi.resolve_conj().clone(memory_format=torch.contiguous_format)
            states = (state, torch.zeros_like(state))
            steppers: dict[tuple[int, float], Stepper] = {
                flow: self._part(flow[0]).stepper(states, flow[1]) for flow in set(flows)
            }
            place = 0
            for step in [steppers[flow] for flow in flows]:
                place = step(place)
        return states[place].clone()

    def _integrated(self, phi: Tensor, plan: list[Stretch]) -> Tensor:
        """The state after some segments, by the user's integrator."""
        assert self.integrator is not None
        for numbers, time, steps in plan:
            parts = [self._part(number) for number in numbers]
            for _ in range(steps):
                phi = self.integrator(parts, phi, time)
        return phi

    def _part(self, number: int) -> Part:
        part = self.parts[number]
        assert isinstance(part, Part)
        return part

    def _flows(self, plan: list[Stretch]) -> list[tuple[int, float]]:
        """All flows of some segments in order, each a part's number and a time."""
        return [flow for segment in plan for flow in self._strang(*segment)]

    @staticmethod
    def _strang(parts: tuple[int, ...], time: float, steps: int) -> list[tuple[int, float]]:
        """The flows of a segment: parts with their times, halves of the outermost joined."""
        *outer, inner = parts
        if not outer:
            return [(inner, time)] * steps
        first, *between = outer
        within = [
            *((part, time / 2) for part in between),
            (inner, time),
            *((part, time / 2) for part in reversed(between)),
        ]
        joined = [*within, (first, time)] * (steps - 1)
        return [(first, time / 2), *joined, *within, (first, time / 2)]

    def _check_reversible(self) -> None:
        """Run every part, and the integrator, on random states and back."""
        generator = torch.Generator().manual_seed(0)
        shape = (*self.theta.shape[:-1], self.psi_modes + self.theta.shape[-1])
        planes = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
        start = torch.view_as_complex(planes).to(self.theta.device)
        start /= start.abs().square().sum(dim=-1, keepdim=True).sqrt()
        for parts, time, _ in self.plan:
            for number in parts:
                self._check_return(type(self._part(number)).__name__, self._part(number).flow, start, time)
            if self.integrator is not None:
                chosen, integrator = [self._part(number) for number in parts], self.integrator
                name = getattr(integrator, "__name__", type(integrator).__name__)
                self._check_return(f"the integrator {name}", lambda p, t: integrator(chosen, p, t), start, time)  # noqa: B023  # called at once

    @staticmethod
    @torch.no_grad()
    def _check_return(name: str, step: Callable[[Tensor, float], Tensor], start: Tensor, time: float) -> None:
        """Take some steps and the way back; and single ones that are longer, of a state with an intensity of 1 a mode.

        What an integrator of high order is off by in a short step, and in faint light, can be less than rounding.
        """
        bright = start * start.shape[-1] ** 0.5
        for phi, steps, longer in ((start, CHECKED_STEPS, 1), *((bright, 1, longer) for longer in LONGER)):
            back = phi
            for _ in range(2):
                for _ in range(steps):
                    back = step(back, longer * time)
                back = back.conj().resolve_conj()
            error = float((back - phi).norm() / phi.norm())
            if not error < ROUNDING * longer:
                raise UserError(
                    f"{name} is not reversible: after a conjugation and as many steps back ({steps} of {longer} times "
                    f"{time:g}) the state is off by {error:.1e} of its length, and an echo would not return"
                )
