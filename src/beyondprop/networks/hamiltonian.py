"""Networks of Hamiltonian systems over sequences: a stack of them with whatever lies between, and a readout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from beyondprop.errors import UserError
from beyondprop.layers.hamiltonian import Hamiltonian, LinearHRU, NonlinearHRU, State

Pooling = Literal["mean", "last", "every"]
Unit = Literal["linear", "nonlinear"]


class HamiltonianNetwork(nn.Module):
    r"""A stack of Hamiltonian systems over a sequence, each driven by the positions of the one below.

        h⁰_t = encoder(x_t),    φˡ = unitˡ(hˡ⁻¹),    hˡ_t = betweenˡ(φˡ_t)  [+ hˡ⁻¹_t]
        y = readout(mean of h_t)   or   readout(h at the last step)   or   y_t = readout(h_t)

    All but the units acts on each step by itself. The systems start at rest.

    Args:
        units: From below to above.
        readout: Maps h of the last unit to outputs.
        between: What stands behind each unit; `nn.Identity` where there is none.
        encoder: What stands below the first unit.
        pooling: What is read: the mean over steps, the last one, or every one.
        residual: Whether what drives a unit is added to what comes out of it, which has then to be of the same shape.
        piece: Where it is given, a sample of any shape is flattened, and cut into steps of as many numbers; else inputs
            are of shape (batch, time, ...).

    Raises:
        UserError: There is no unit, or not as much between them as there are units.

    >>> network = HamiltonianNetwork([NonlinearHRU(8, 16)], nn.Linear(16, 10), piece=8)
    >>> network(torch.zeros(5, 64)).shape, network(torch.zeros(5, 1, 8, 8)).shape
    (torch.Size([5, 10]), torch.Size([5, 10]))
    """

    def __init__(
        self,
        units: Iterable[Hamiltonian],
        readout: nn.Module,
        *,
        between: Sequence[nn.Module] | None = None,
        encoder: nn.Module | None = None,
        pooling: Pooling = "mean",
        residual: bool = False,
        piece: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder or nn.Identity()
        self.units = nn.ModuleList(units)
        self.between = nn.ModuleList(between if between is not None else [nn.Identity() for _ in self.units])
        self.readout = readout
        if not self.units or len(self.between) != len(self.units):
            raise UserError(
                f"a network needs a unit at least, and `between` a module behind each: got {len(self.units)} units and "
                f"{len(self.between)} modules"
            )
        if pooling not in get_args(Pooling):
            raise UserError(f"pooling must be one of {', '.join(get_args(Pooling))}, not {pooling!r}")
        self.pooling, self.residual, self.piece = pooling, residual, piece

    def sequence(self, x: Tensor) -> Tensor:
        """View a batch as steps, shape (time, batch, ...).

        Raises:
            UserError: It is no batch of sequences, or cannot be cut into pieces.
        """
        if self.piece is not None:
            numbers = math.prod(x.shape[1:])
            if numbers % self.piece or not numbers:
                raise UserError(f"samples of {numbers} numbers cannot be cut into pieces of {self.piece}")
            x = x.reshape(len(x), -1, self.piece)
        if x.ndim < 2 or not x.shape[1]:
            raise UserError(f"sequences must be of shape (batch, time, ...) with a step at least, not {tuple(x.shape)}")
        return x.transpose(0, 1)

    def driving(self, u: Tensor) -> Tensor:
        """Encode steps into what drives the first unit, shape (time, batch, inputs).

        Raises:
            UserError: It is of another width, or of no floating-point type.
        """
        h: Tensor = self.encoder(u)
        inputs = self.units[0].inputs
        if h.ndim != 3 or h.shape[-1] != inputs or not h.is_floating_point():
            raise UserError(
                f"the first unit takes sequences of shape (batch, time, {inputs}) of a floating-point type, behind the "
                f"encoder: got {h.dtype} of {tuple(h.transpose(0, 1).shape)}"
            )
        return h

    def blocks(self) -> Iterator[tuple[Hamiltonian, nn.Module]]:
        """Each unit with what stands behind it, from below to above."""
        yield from zip(self.units, self.between, strict=True)

    def advance(self, u: Tensor, states: Sequence[State | None]) -> tuple[Tensor, list[State]]:
        """Run all units over some steps.

        Args:
            u: Shape (time, batch, ...), as `sequence` gives it.
            states: Of each unit before them; None at rest.

        Returns:
            h of the last unit after every step, and each unit's state after the last.
        """
        h, reached = self.driving(u), []
        for (unit, behind), state in zip(self.blocks(), states, strict=True):
            phi, after = unit.run(h, state)
            h = self.behind(behind, phi, h)
            reached.append(after)
        return h, reached

    def behind(self, module: nn.Module, phi: Tensor, h: Tensor) -> Tensor:
        """Pass a unit's positions on; h is what drove it."""
        out: Tensor = module(phi)
        return out + h if self.residual else out

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs of shape (batch, ...), or (batch, time, ...) where every step is read."""
        h = self.driving(self.sequence(x))
        for unit, behind in self.blocks():
            h = self.behind(behind, unit(h), h)
        if self.pooling == "every":
            return self.readout(h).transpose(0, 1)
        return self.readout(h.mean(0) if self.pooling == "mean" else h[-1])


def hamiltonian_classifier(
    inputs: int,
    classes: int,
    *,
    size: int = 64,
    blocks: int = 1,
    unit: Unit = "nonlinear",
    step: float = 1.0,
    pooling: Pooling = "mean",
    piece: int | None = None,
) -> HamiltonianNetwork:
    """Make a stack of units of arXiv 2506.05259 with gated linear layers between them, and a linear readout.

    Args:
        inputs: Numbers of a step.
        classes: Scores a sample.
        size: Of each unit.
        blocks: Units.
        unit: Of which kind.
        step: δ.
        pooling: As of `HamiltonianNetwork`.
        piece: As of `HamiltonianNetwork`.

    >>> hamiltonian_classifier(8, 10, blocks=2, piece=8)(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """
    kind = LinearHRU if unit == "linear" else NonlinearHRU
    units = [kind(size if number else inputs, size, step=step) for number in range(blocks)]
    gates = [nn.Sequential(nn.Linear(size, 2 * size), nn.GLU()) for _ in range(blocks)]
    return HamiltonianNetwork(units, nn.Linear(size, classes), between=gates, pooling=pooling, piece=piece)


class CoupledOscillators(Hamiltonian):
    r"""Masses on springs, each coupled with each, as in the toy problem of arXiv 2506.05259; an input pushes the first.

        H = Σ_i π_i² / 2m_i + ½ Σ_i k_i φ_i² + ½ Σ_{i<j} k_ij (φ_j - φ_i)² + u φ_1

    Args:
        size: Oscillators.
        step: δ.

    Masses and springs start at 1, couplings at 0.1; all are learned.

    >>> CoupledOscillators(6, step=0.5)(torch.zeros(5, 2, 1)).shape
    torch.Size([5, 2, 6])
    """

    def __init__(self, size: int = 6, *, step: float = 0.5) -> None:
        super().__init__(1, size, step=step)
        self.mass = nn.Parameter(torch.ones(size))
        self.spring = nn.Parameter(torch.ones(size))
        self.coupling = nn.Parameter(torch.full((size * (size - 1) // 2,), 0.1))
        self.first, self.second = torch.triu_indices(size, size, 1).tolist()

    def potential(self, phi: Tensor, u: Tensor) -> Tensor:
        """See `Hamiltonian`."""
        apart = phi[..., self.second] - phi[..., self.first]
        springs = (self.spring * phi.square()).sum(-1) + (self.coupling * apart.square()).sum(-1)
        return 0.5 * springs + u[..., 0] * phi[..., 0]

    def kinetic(self, pi: Tensor) -> Tensor:
        """See `Hamiltonian`."""
        return (pi.square() / (2 * self.mass)).sum(-1)


class Component(nn.Module):
    """A readout that picks one number, and learns nothing.

    Args:
        index: Which.

    >>> Component(2)(torch.arange(4.0)).tolist()
    [2.0]
    """

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, h: Tensor) -> Tensor:
        """Return shape (..., 1)."""
        return h[..., self.index : self.index + 1]
