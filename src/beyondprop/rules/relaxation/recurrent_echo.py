"""Recurrent Hamiltonian echo learning: gradients from a system that runs backwards in time, twice, nudged both ways."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any, Self

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import NonFiniteError
from beyondprop.layers.batch_norms import BATCH_NORMS
from beyondprop.layers.hamiltonian import Hamiltonian, State
from beyondprop.networks.hamiltonian import HamiltonianNetwork, hamiltonian_classifier
from beyondprop.rule import add_gradient, is_finite
from beyondprop.rules.network_rule import NetworkRule

PROBED = 16  # steps, after which friction of a millionth is seen in float64
RETURNED = 1e-9


class RecurrentEcho(NetworkRule):
    r"""Recurrent Hamiltonian echo learning (Pourcel and Ernoult, arXiv 2506.05259).

        Φᵉ(0) = Φ̄(end),    Φᵉ ← leapfrog of Φᵉ + ε Σ ∂ℓ/∂Φ with u backwards in time,    for ε and for -ε
        ∂L/∂θ = -(δ/2ε) Σ_t [∂H/∂θ(Φᵉ(+ε)) - ∂H/∂θ(Φᵉ(-ε))]      at the substeps of the leapfrog
        ∂L/∂u_t = -(δ/2ε) [∂H/∂u(Φᵉ(+ε)) - ∂H/∂u(Φᵉ(-ε))]         what nudges the block below

    Φ̄ = (φ, -π), and Σ exchanges positions and momenta: a loss on positions kicks momenta. As ε tends to 0 this is
    back-propagation through time of the same leapfrog (Theorem 3.2), with an error of order ε² (of order ε where one
    echo is nudged and the other is not). No state is stored: the states of the forward pass come back as the systems
    run backwards, all blocks together, some steps at a time, so that memory does not grow with the sequence's length.
    Both echoes are one batch of twice the size.

    Args:
        network: A `HamiltonianNetwork`, of the paper's units or of systems of your own.
        loss: Maps (network(x), y) to a scalar. Default: mean cross-entropy over class scores.
        eps: ε of each sample, in units in which the derivative of its loss by the outputs of all steps that are read
            has length 1: so rounding counts the same for samples that are hard or learned, and in batches of any size.
            The default suits float32; in float64 take 1e-4.
        two_sided: Whether both echoes are nudged.
        chunk: Time steps whose states are held at once.

    Raises:
        UnsupportedNetworkError: The network is none of Hamiltonian systems that return when time is reversed; see
            `supports`.
        UserError: An option is out of range, or the batch is none of sequences.
        NonFiniteError: In `backward`, when the loss is NaN or infinite, or a block's echo.

    >>> from beyondprop.layers.hamiltonian import LinearHRU
    >>> rule = RecurrentEcho(HamiltonianNetwork([LinearHRU(3, 8)], nn.Linear(8, 2)))
    >>> rule.backward(torch.randn(5, 7, 3), torch.tensor([0, 1, 1, 0, 1])).shape
    torch.Size([])
    >>> rule.network.units[0].B.grad.shape
    torch.Size([8, 3])
    """

    network: HamiltonianNetwork

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        eps: float = 0.1,
        two_sided: bool = True,
        chunk: int = 32,
    ) -> None:
        check_number(eps=eps, above=True)
        check_whole(1, chunk=chunk)
        super().__init__(network, loss)
        self.eps, self.chunk = eps, chunk
        self.signs = (1.0, -1.0) if two_sided else (1.0, 0.0)

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """A `HamiltonianNetwork` will do if its systems return when they are run backwards in time.

        That is tried out, in double precision: friction, a kinetic energy that is not even and an integrator that is
        not the leapfrog are all noticed.
        """
        if not isinstance(network, HamiltonianNetwork):
            return (
                f"{type(network).__name__} is no HamiltonianNetwork: RHEL trains systems that have an energy; "
                "RecurrentEcho.for_classifier builds one for the inputs of a plain classifier"
            )
        for name, module in network.named_modules():
            if isinstance(module, BATCH_NORMS) or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p):
                return f"layer {name} ({type(module).__name__}) would not give the same again when time runs backwards"
        for number, (unit, behind) in enumerate(network.blocks()):
            if not echo_error(unit) < RETURNED:
                return (
                    f"units.{number} ({type(unit).__name__}) does not return when time is reversed: RHEL needs a "
                    "system without friction, of an even kinetic energy, in steps of the leapfrog"
                )
            if not _acts_stepwise(behind, unit):
                return f"between.{number} ({type(behind).__name__}) does not act on each time step by itself"
        return None

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """Any classifier will do: see `for_classifier`."""
        del example
        return cls.supports(network) if isinstance(network, HamiltonianNetwork) else None

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Build a classifier of Hamiltonian units, unless the network is one.

        A plain classifier is no Hamiltonian system. One block of linear units whose last state is read takes its place,
        64 of them or as many as its last linear layer has inputs, if they are more. The sequence is that of the rows of
        an image, or of pieces of a vector (of its longest divisor up to the square root).
        """
        if isinstance(network, HamiltonianNetwork):
            return cls(network, **options)
        widths = [module.in_features for module in network.modules() if isinstance(module, nn.Linear)]
        numbers = example[0].numel()
        piece = (
            example.shape[-1] if example.ndim > 2 else max(d for d in range(1, isqrt(numbers) + 1) if not numbers % d)
        )
        size = max([64, *widths[-1:]])
        made = hamiltonian_classifier(piece, classes, size=size, unit="linear", pooling="last", piece=piece)
        return cls(made.to(example.device), **options)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's own output for x, in full precision under autocast as well."""
        with torch.autocast(x.device.type, enabled=False):
            return self.network(x)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Run forwards, and back again nudged by the loss."""
        del phase
        with torch.autocast(x.device.type, enabled=False):  # the echo is a difference of what is nearly equal
            parts = self.network.sequence(x).split(self.chunk)
            with torch.no_grad():
                read, states = self._ahead(parts)
            loss, seeds, size = self._seeds(read, x, y, sum(map(len, parts)))
            with torch.no_grad():
                of_x = self._back(parts, states, seeds, size)
            if of_x:
                torch.autograd.backward(x, torch.cat(of_x).transpose(0, 1).reshape(x.shape))
        return loss

    def _ahead(self, parts: Sequence[Tensor]) -> tuple[Tensor, list[State]]:
        """Run forwards, keeping the states at the end, and what is read: of every step its outputs, time first."""
        network = self.network
        states: list[Any] = [None] * len(network.units)
        total, every = None, []
        for part in parts:
            h, states = network.advance(part, states)
            if network.pooling == "every":
                every.append(network.readout(h))
            elif network.pooling == "mean":
                total = h.sum(0) if total is None else total + h.sum(0)
        if network.pooling == "every":
            return torch.cat(every), states
        return h[-1] if total is None else total / sum(map(len, parts)), states

    def _seeds(self, read: Tensor, x: Tensor, y: Tensor, steps: int) -> tuple[Tensor, list[Tensor | None], Tensor]:
        """Differentiate the loss by what is read.

        Returns:
            The loss, what goes into the top block for each part (None for nothing), and the length of each sample's
            derivative.
        """
        network, seeds = self.network, list[Tensor | None]()
        if network.pooling == "every":
            loss, error = self.output_derivative(read.transpose(0, 1), x, y)
            seeds += error.transpose(0, 1).split(self.chunk)
        else:
            read = read.requires_grad_()
            scores = network.readout(read)
            loss, error = self.output_derivative(scores, x, y)
            torch.autograd.backward(scores, error)
            assert read.grad is not None
            earlier, rest = (steps - 1) // self.chunk, (steps - 1) % self.chunk + 1
            if network.pooling == "mean":
                seed = read.grad / steps
                seeds += [seed.expand(length, *seed.shape) for length in [self.chunk] * earlier + [rest]]
            else:
                seeds += [None] * earlier
                seeds.append(torch.cat([read.new_zeros(rest - 1, *read.shape), read.grad.unsqueeze(0)]))
        size = error.flatten(1).norm(dim=1, keepdim=True)
        if network.pooling == "mean":
            size = size / steps**0.5  # of as many derivatives, each smaller by the number of steps
        return loss, seeds, torch.where(size > 0, size, 1)

    def _back(
        self, parts: Sequence[Tensor], states: Sequence[State], seeds: Sequence[Tensor | None], size: Tensor
    ) -> list[Tensor]:
        """Let all blocks run backwards in time together, some steps at a time, their echoes from above to below.

        Returns:
            The gradient by each part, where it is wanted.
        """
        network, of_x = self.network, list[Tensor]()
        backwards = [(phi, -pi) for phi, pi in states]
        echoes = [(phi.expand(2, *phi.shape), pi.expand(2, *pi.shape)) for phi, pi in backwards]
        for part, given in zip(reversed(parts), reversed(seeds), strict=True):
            driving, positions, top = self._recall(part, backwards)
            seed = given if network.pooling != "every" or given is None else _pull(network.readout, top, given)
            for number, behind in reversed(list(enumerate(network.between))):
                nudge = None if seed is None else _pull(behind, positions[number], seed)
                echoes[number], below = self._echo(number, driving[number], echoes[number], nudge, size)
                seed = below + seed if network.residual and seed is not None else below
            assert seed is not None
            of_part = _pull(network.encoder, part, seed)
            if part.requires_grad:
                of_x.insert(0, of_part)
        return of_x

    def _recall(self, part: Tensor, backwards: list[State]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Run backwards without nudges, from below to above, and find what drove each unit, where it was, and h."""
        network, driving, positions = self.network, list[Tensor](), list[Tensor]()
        h = network.encoder(part)
        for number, (unit, behind) in enumerate(network.blocks()):
            driving.append(h)
            end = backwards[number]
            if number + 1 == len(network.units) and isinstance(behind, nn.Identity) and network.pooling != "every":
                positions.append(end[0])  # nothing asks for more of the last one
                break
            earlier, backwards[number] = unit.run(h.flip(0), end)
            positions.append(torch.cat([end[0].unsqueeze(0), earlier[:-1]]).flip(0))
            h = network.behind(behind, positions[-1], h)
        return driving, positions, h

    def _echo(self, number: int, u: Tensor, state: State, nudge: Tensor | None, size: Tensor) -> tuple[State, Tensor]:
        """Run both echoes of a unit over some steps; its parameters receive their gradients.

        Returns:
            The states reached, and the gradient by u.
        """
        unit: Any = self.network.units[number]
        signs = torch.tensor(self.signs, dtype=u.dtype, device=u.device).view(2, 1, 1)
        kicks = None if nudge is None else signs * (nudge * (self.eps / size)).unsqueeze(1)
        state, phi, pi = leapfrog_back(unit, u, state, kicks)
        weight = unit.step / (self.signs[0] - self.signs[1]) / self.eps * size
        gradients, below = unit.energy_gradients(phi, pi, u, weight)
        if not (is_finite(below) and is_finite(state[1])):
            raise NonFiniteError(f"the echo of block units.{number} holds NaN or infinity: lower its step, or eps")
        for parameter, gradient in zip(unit.parameters(), gradients, strict=True):
            if gradient is not None:
                add_gradient(parameter, gradient)
        return state, below


def leapfrog_back(
    unit: Hamiltonian, u: Tensor, state: State, kicks: Tensor | None
) -> tuple[State, Tensor, Tensor | None]:
    """Run time-reversed trajectories, step by step from the last to the first.

    Args:
        unit: Their system.
        u: Inputs in the order of the forward run, shape (time, batch, inputs).
        state: Positions, and momenta with their signs turned, each of shape (copies, batch, size).
        kicks: Added to the momenta before each step, shape (time, copies, batch, size).

    Returns:
        The state that is reached; the positions at which ∂V/∂φ acted, shape (time, copies, batch, size); unless T is
        plain the momenta before and after, shape (2, time, copies, batch, size).
    """
    (phi, pi), kick, half = state, unit.kicks(u), unit.step / 2
    at = phi.new_empty(len(u), *phi.shape)
    momenta = None if unit.plain else phi.new_empty(2, len(u), *phi.shape)
    for t in range(len(u) - 1, -1, -1):
        if kicks is not None:
            pi = pi + kicks[t]
        middle = torch.add(phi, unit.velocity(pi), alpha=half, out=at[t])
        before, pi = pi, kick(middle, pi, t)
        phi = torch.add(middle, unit.velocity(pi), alpha=half)
        if momenta is not None:
            momenta[0, t], momenta[1, t] = before, pi
    return (phi, pi), at, momenta


def echo_error(unit: Hamiltonian, u: Tensor | None = None) -> float:
    """Run a system forwards and back again without a nudge, in double precision.

    Args:
        unit: Any, left as it is.
        u: Inputs, shape (time, batch, inputs); a few steps of waves where there are none.

    Returns:
        How far from where it started it ends, relative to how far away it was.
    """
    twin = copy.deepcopy(unit).double()
    device = next((p.device for p in twin.parameters()), torch.device("cpu"))
    if u is None:
        u = torch.arange(PROBED * 2 * twin.inputs, device=device).sin().view(PROBED, 2, -1)
    u = u.double()
    start = torch.arange(2 * u.shape[1] * twin.size, device=device, dtype=u.dtype).cos().view(2, u.shape[1], -1)
    with torch.no_grad():
        _, (phi, pi) = twin.run(u, (start[0], start[1]))
        (again, turned), _, _ = leapfrog_back(twin, u, (phi.unsqueeze(0), -pi.unsqueeze(0)), None)
    gap = torch.stack([again[0], -turned[0]]) - start
    return float(gap.norm() / (start.norm() + phi.norm() + pi.norm()))


def _pull(module: nn.Module, h: Any, seed: Tensor) -> Any:
    """Send a gradient through a module by its own vector-Jacobian product; its parameters receive theirs."""
    if isinstance(module, nn.Identity):
        return seed
    with torch.enable_grad():
        h = h.detach()
        if h.is_floating_point():
            h.requires_grad_()
        out = module(h)
    if out.requires_grad:
        torch.autograd.backward(out, seed)
    return h.grad


def _acts_stepwise(module: nn.Module, unit: Hamiltonian) -> bool:
    """Whether a module gives the same for steps together as for each alone."""
    if isinstance(module, nn.Identity):
        return True
    twin = copy.deepcopy(module).double()
    device = next((p.device for p in twin.parameters()), torch.device("cpu"))
    h = torch.arange(6 * unit.size, device=device).double().sin().view(3, 2, -1)
    with torch.no_grad():
        whole = twin(h)
        return torch.allclose(whole, torch.cat([twin(step.unsqueeze(0)) for step in h]))
