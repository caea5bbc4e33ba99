"""Gauss-Newton steps by Hamiltonian echoes: an echo of each residual brings its row of the Jacobian back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.rule import add_gradient, check_labels
from beyondprop.rules.relaxation.noting_echo import NotingEcho, SignCost

TRIED = (0.2, 1.0, 5.0)  # dampings that are tried at once, in units of the replica's own
WORSE = 25.0  # by which the damping grows where none of them helped
RANGE = (1e-9, 1e6)


class GaussNewtonEcho(NotingEcho):
    r"""Levenberg and Marquardt's steps for replicas that learn a table of yes and no.

    The residuals r of a replica are real and imaginary parts of (Ψ - target)/|target|, for all patterns. An echo that
    is pushed by ∂r_k/∂Ψ* in place of the cost's derivative comes back with ∂r_k/∂θ: two pushes with both signs of ε,
    all patterns and all replicas are one batch after one forward run. With J of these rows

        θ ← θ - Jᵀ (J Jᵀ + λ s)⁻¹ r,    s the mean of J Jᵀ's diagonal

    where J Jᵀ is small however many learning modes there are. Three λ are run forward at once, and the one with the
    lowest cost is taken, where that is below the present one. `.grad` is the way from the new θ to the old: SGD with a
    learning rate of 1 takes the step.

    There are intensities at which most starts end in a valley that leads nowhere. A replica whose cost is above
    `enough` after `patience` steps begins anew.

    Args:
        *args: Of `NotingEcho`.
        draw: Makes so many new starts, shape (count, learning modes); None never begins anew.
        patience: Steps until then.
        enough: Cost, in units of the squared target.
        longest: The longest step, in units of θ.
        steps: How many will be taken in all, so that none begins anew with fewer than `patience` left; None if unknown.
        every: Of `NotingEcho`.
        points: Of `NotingEcho`.
        epsilon: Of `NotingEcho`.

    Raises:
        UserError: An option is out of range; in `backward`, a label is neither 0 nor 1, or the batch lacks a pattern of
            the table.
        NonFiniteError: In `backward`, when an echo is NaN or infinite.
    """

    ridge: Tensor
    age: Tensor

    def __init__(
        self,
        *args: Any,
        draw: Callable[[int], Tensor] | None = None,
        patience: int = 40,
        enough: float = 1e-8,
        longest: float = 0.5,
        steps: int | None = None,
        every: int = 50,
        points: int = 0,
        epsilon: float | None = None,
    ) -> None:
        super().__init__(*args, every=every, points=points, epsilon=epsilon)
        check_whole(1, patience=patience)
        check_number(enough=enough, longest=longest, above=True)
        self.draw, self.patience, self.enough, self.longest, self.steps = draw, patience, enough, longest, steps
        theta = self.network.theta.detach()
        self.register_buffer("ridge", torch.full_like(theta[:, 0], 1e-2))
        self.register_buffer("age", torch.zeros(len(theta), dtype=torch.long, device=theta.device))

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Take the patterns of the batch, each once and weighed by how often it comes, and find the next θ."""
        del phase
        self.note()
        theta = self.network.theta
        rows = torch.cat([x.flatten(1), check_labels(y, 2).to(x)[:, None]], dim=1)
        rows, counts = rows.unique(dim=0, return_counts=True)
        if len(rows) < len(self.patterns):
            raise UserError(
                f"a Gauss-Newton step takes all {len(self.patterns)} patterns, and the batch has {len(rows)} of them: "
                "take the whole set as a batch"
            )
        x, y, weights = rows[:, :-1].unflatten(1, x.shape[1:]), rows[:, -1].long(), counts.to(theta) / len(y)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            residuals, jacobian = self.linearised(x, y, weights)
            cost = residuals.square().sum(dim=1)
            products = jacobian @ jacobian.mT
            scale = products.diagonal(dim1=1, dim2=2).mean(dim=1)
            tried = theta.new_tensor(TRIED)[:, None] * self.ridge
            damped = products + torch.diag_embed((tried * scale)[..., None].expand(*tried.shape, len(residuals[0])))
            steps = -(jacobian.mT @ torch.linalg.solve(damped, residuals[..., None]))[..., 0]
            steps *= (self.longest / steps.norm(dim=-1, keepdim=True)).clamp(max=1)
            costs = self._costs_of(theta + steps, x, y, weights).nan_to_num(math.inf)
            lowest, which = costs.min(dim=0)
            better = lowest < cost
            self.ridge.copy_(torch.where(better, tried.gather(0, which[None])[0], WORSE * self.ridge).clamp(*RANGE))
            chosen = steps.gather(0, which[None, :, None].expand(1, *theta.shape))[0]
            following = torch.where(better[:, None], theta + chosen, theta)
            self._begin_anew(following, cost)
            add_gradient(theta, theta - following)
        assert isinstance(self.loss, SignCost)
        return (cost * self.loss.targets.square()).mean()

    def linearised(self, x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return residuals, shape (replicas, 2 · patterns), and their Jacobian by echoes, (..., learning modes).

        Args:
            x: Patterns.
            y: Their labels.
            weights: By how much each counts in the cost, the sum of the residuals' squares.
        """
        system, epsilon = self.network, self._signed_epsilon(None)
        end = system.evolve(system.start(x))
        free = end[..., : system.psi_modes].clone().requires_grad_()
        with torch.enable_grad():
            parts = self._residuals(system.read(free), y, weights)  # (2, patterns, replicas)
            # Torch gives ∂r/∂Re + i ∂r/∂Im.
            pushes = torch.stack([torch.autograd.grad(part.sum(), free, retain_graph=True)[0] / 2 for part in parts])
        returned = self._echoes(end, pushes, (epsilon, -epsilon))
        rows = (returned[1].imag - returned[0].imag) / epsilon  # (2, patterns, replicas, modes)
        return parts.detach().flatten(0, 1).T, rows.flatten(0, 1).transpose(0, 1)

    def _residuals(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Real and imaginary parts, shape (..., patterns, replicas) with 2 before them."""
        assert isinstance(self.loss, SignCost)
        wanted = (1 - 2 * y.to(weights))[:, None]
        shares = (outputs / self.loss.targets - wanted) * weights.sqrt()[:, None]
        return torch.stack([shares.real, shares.imag])

    def _costs_of(self, thetas: Tensor, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Costs of several θ of each replica, (tries, replicas)."""
        system = self.network
        start = system.start(x)
        states = start.expand(len(thetas), *start.shape).clone()
        states[..., system.psi_modes :] = thetas[:, None].to(states.dtype)
        outputs = system.read(system.evolve(states)[..., : system.psi_modes])
        return self._residuals(outputs, y, weights).square().sum(dim=(0, 2))

    def _begin_anew(self, following: Tensor, cost: Tensor) -> None:
        """Give replicas that have come to nothing another start."""
        stuck = (self.age >= self.patience) & ~(cost <= self.enough)
        self.age += 1
        late = self.steps is not None and self.steps - int(self.taken) < self.patience
        if self.draw is None or late or not bool(stuck.any()):
            return
        following[stuck] = self.draw(int(stuck.sum())).to(following)
        self.age[stuck], self.ridge[stuck] = 0, 1e-2
