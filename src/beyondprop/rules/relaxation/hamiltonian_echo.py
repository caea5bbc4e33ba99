"""Hamiltonian echo backpropagation: the system's own way back in time carries the gradient into its learning modes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number
from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.networks.hamiltonian_echo import coupled_modes
from beyondprop.rule import add_gradient, is_finite
from beyondprop.rules.network_rule import NetworkRule, Terms, count_terms
from beyondprop.rules.relaxation.hamiltonian import HamiltonianSystem

Echo = Literal["averaged", "simple", "alternating", "autograd"]


class HamiltonianEcho(NetworkRule):
    r"""Hamiltonian echo backpropagation (López-Pastor and Marquardt, arXiv 2103.04992).

        (Ψ, Θ) at 0 = U (Ψ in, θ),    Ψ ← Ψ - iε ∂C/∂Ψ*,    (Ψ, Θ) ← (Ψ*, Θ*),    (Ψ, Θ) ← U (Ψ, Θ),    conjugate

    The output is pushed by the error, time is reversed, and the same dynamics run once more. The learning modes come
    back as θ + δ with

        δ = -iε ∂C/∂Θ* + O(ε²):    Im δ = -ε/2 ∂C/∂θ,    Re δ = ε/2 ∂C/∂π

    where π is their momentum: they have been kicked against the gradient. Nothing is differentiated but the cost by the
    output. Friction then turns momentum into displacement (the decay step), θ ← θ + Im δ (1 - e^-γ)/m, which is SGD.

    With ∂C/∂Ψ* = 1/2 (∂C/∂Re Ψ + i ∂C/∂Im Ψ). Every sample of a batch has its own copy of Θ during its echo, and the
    kicks are averaged; a batch of one is the paper's.

    Args:
        system: What is trained, its start θ. Any `HamiltonianSystem`.
        loss: Maps (what the system reads, y) to a scalar, or with replicas to (replicas,), a cost for each. Default:
            mean cross-entropy over class scores.
        echo: `"averaged"`: `.grad` is what the kicks of echoes with ε and -ε differ by, ∂C/∂θ + O(ε²), and both come
            back as one batch after one forward pass. `"simple"`: one echo and the decay step, with both of its flaws,
            an error O(ε) and the displacement Re δ, which stays: SGD with learning rate ε/(2m) does what the machine
            does by itself. `"alternating"`: as the paper trains, a simple step with (ε, m) and then one with (-ε, -m)
            that begins where the first has ended; two phases, SGD with ε/(2m) after each. `"autograd"`: no echo, but
            back-propagation through all steps, to compare with; its memory grows with them.
        epsilon: ε. Default: 1e-4 in double precision and 1e-2 in single, where rounding and O(ε²) are about equal.
        mass: m, by which `"simple"` and `"alternating"` weigh Re δ against the kick, and which `limit` refers to.
        damping: γ, of the friction. A finite one leaves momentum π e^-γ for the next step, in the `momentum` buffer
            (averaged over the batch); not with `"averaged"`.
        limit: Longest displacement of a learning mode that an echo may cause, softly: d / sqrt(1 + d²/limit²), with
            d the friction's; 0.1 in the authors' code for the cavity array. None for any.
        terms: How many terms a batch's loss is the mean of; see `count_terms`.

    Raises:
        UnsupportedNetworkError: The system is none.
        UserError: An option is out of range; in `backward`, with the default loss, a label is no class index.
        NonFiniteError: In `backward`, when the loss or an echo is NaN or infinite.

    >>> from beyondprop.networks.hamiltonian_echo import coupled_modes
    >>> rule = HamiltonianEcho(coupled_modes(features=6, classes=3))
    >>> rule.backward(torch.rand(5, 6), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    network: HamiltonianSystem
    momentum: Tensor | None

    def __init__(
        self,
        system: HamiltonianSystem,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        echo: Echo = "averaged",
        epsilon: float | None = None,
        mass: float = 1 / 300,
        damping: float = math.inf,
        limit: float | None = None,
        terms: Terms | None = None,
    ) -> None:
        super().__init__(system, loss)
        if echo not in get_args(Echo):
            raise UserError(f"echo must be one of {', '.join(get_args(Echo))}, got {echo!r}")
        check_number(mass=mass, above=True)
        for name, value in (("epsilon", epsilon), ("limit", limit)):
            if value is not None:
                check_number(**{name: value}, above=True)
        if not isinstance(damping, float | int) or not damping > 0:
            raise UserError(f"damping must be a number above 0, or infinity, got {damping!r}")
        if echo in ("averaged", "autograd") and damping < math.inf:
            raise UserError("a finite damping leaves momentum for the next echo: take echo='simple' or 'alternating'")
        self.echo, self.epsilon, self.mass, self.damping, self.limit = echo, epsilon, mass, damping, limit
        self.terms = terms
        if echo == "alternating":
            self.phases = ("+", "-")
        self.register_buffer("momentum", torch.zeros_like(system.theta) if damping < math.inf else None)

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Only a Hamiltonian system echoes; and H, and how x is written, are fixed."""
        if not isinstance(network, HamiltonianSystem):
            return (
                f"{type(network).__name__} is no HamiltonianSystem; HamiltonianEcho.for_classifier builds one for a "
                "classifier's task"
            )
        free = [name for name, p in network.named_parameters() if p.requires_grad]
        fixed = [name for name in free if name.partition(".")[0] in ("parts", "encode")]
        return f"no echo trains {fixed[0]}: freeze it; what is learned is theta" if fixed else None

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """Any classifier of numbers: the network itself is not used."""
        del network
        return None if example.is_floating_point() else f"inputs are written as amplitudes, not {example.dtype}"

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Build coupled modes for the same task: one for each number of an input, and class scores from intensities.

        Args:
            network: Not used: an ordinary network dissipates, and no echo of it returns.
            example: One input batch.
            classes: Number of classes.
            **options: Of the constructor, and of `beyondprop.networks.hamiltonian_echo.coupled_modes`.

        Raises:
            UnsupportedNetworkError: Inputs are no floating-point numbers.
        """
        if reason := cls.supports_classifier(network, example):
            raise UnsupportedNetworkError(reason)
        own = {name: options.pop(name) for name in ("layers", "modes", "strength", "own", "gain") if name in options}
        system = coupled_modes(example[0].numel(), classes, **own)
        return cls(system.to(device=example.device, dtype=example.dtype), **options)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Run forward, push the output, reverse time, and read what has come back in the learning modes."""
        if self.echo == "autograd":
            return self._unrolled(x, y)
        system = self.network
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            start = self._start(x)
            end = system.evolve(start)
            loss, error, terms = self._error(end[..., : system.psi_modes], x, y)
            epsilon = self._signed_epsilon(phase)
            signs = (epsilon, -epsilon) if self.echo == "averaged" else (epsilon,)
            returned = self._echoes(end, error, signs)
            gradient = self._gradient(returned, start[..., system.psi_modes :], signs)
            add_gradient(system.theta, gradient.sum(dim=0).div_(terms).to(system.theta.dtype))
        return loss.detach().mean()

    def _echoes(self, end: Tensor, pushes: Tensor, signs: tuple[float, ...]) -> Tensor:
        """What comes back in the learning modes, conjugated, from states that are pushed with each ε of `signs`.

        Args:
            end: Where the forward run has come to, (batch, ..., modes).
            pushes: In units of -iε, (..., batch, ..., Ψ modes); every one is an echo of its own.
            signs: ε of the echoes.

        Returns:
            Shape (signs, ..., batch, ..., Θ modes).
        """
        psi_modes = self.network.psi_modes
        pushed = end.expand(len(signs), *pushes.shape[:-1], -1).clone()
        for state, sign in zip(pushed, signs, strict=True):
            state[..., :psi_modes] -= 1j * sign * pushes
        returned = self.network.evolve(pushed.conj().resolve_conj(), back=True)[..., psi_modes:].conj()
        if not is_finite(torch.view_as_real(returned.resolve_conj())):
            raise NonFiniteError("an echo came back NaN or infinite to the learning field: lower epsilon")
        return returned

    def _start(self, x: Tensor) -> Tensor:
        start = self.network.start(x)
        if self.momentum is not None:
            start[..., self.network.psi_modes :] += 1j * self.momentum
        return start

    def _signed_epsilon(self, phase: str | None) -> float:
        chosen = self.epsilon or (1e-4 if self.network.theta.dtype == torch.float64 else 1e-2)
        return -chosen if phase == "-" else chosen

    def _error(self, psi: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Any]:
        """The loss, ∂C/∂Ψ* of every sample's own cost, and how many the loss is the mean of."""
        free = psi.detach().clone().requires_grad_()
        with torch.enable_grad():
            outputs = self.network.read(free)
            losses = self.measured(outputs, x, y)
            losses.sum().backward()
        assert free.grad is not None
        terms = count_terms(self.terms, self.loss, outputs, y)
        return losses, free.grad * (terms / 2), terms  # torch gives ∂C/∂Re + i ∂C/∂Im

    def _unrolled(self, x: Tensor, y: Tensor) -> Tensor:
        losses = self.measured(self.network.unrolled(x), x, y)
        if losses.requires_grad:
            losses.sum().backward()
        return losses.detach().mean()

    def _gradient(self, returned: Tensor, start: Tensor, signs: tuple[float, ...]) -> Tensor:
        """What the optimizer subtracts for each sample.

        Args:
            returned: Θ at the end, (echoes, batch, ..., Θ modes).
            start: Θ at the start.
            signs: ε of the echoes.
        """
        if self.echo == "averaged" and self.limit is None:
            gained = returned[1].imag - returned[0].imag
            return gained / signs[0]
        displaced = torch.zeros_like(start.real)
        for theta, sign in zip(returned, signs, strict=True):
            mass = math.copysign(self.mass, sign)
            displaced += self._friction(theta.imag, mass)
            if self.echo != "averaged":
                displaced += theta.real - start.real
        if self.momentum is not None:
            self.momentum.copy_(returned[0].imag.mean(dim=0) * math.exp(-self.damping))
        return displaced * (-2 * self.mass / (len(signs) * abs(signs[0])))

    def _friction(self, momentum: Tensor, mass: float) -> Tensor:
        """How far friction lets momentum carry the learning modes before it stops them."""
        distance = momentum * ((1 - math.exp(-self.damping)) / mass)
        return distance if self.limit is None else distance / (1 + (distance / self.limit) ** 2).sqrt()
