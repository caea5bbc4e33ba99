"""Analog multiplexed gradient descent: filters in the place of counters, and no baseline to remember."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.rules.perturbation.codes import Kind
from beyondprop.rules.perturbation.perturbed import PerturbedNetwork


class AnalogMultiplexedGradientDescent(PerturbedNetwork):
    r"""Analog multiplexed gradient descent (McCaughan et al., arXiv 2303.03986, Section II), in steps of dt = 1.

        C̃(t) = a (C̃(t-1) + C(t) - C(t-1)),    a = τ_hp / (τ_hp + 1)                     high-pass
        G(t) = (P C̃(t) θ̃(t) / norm² + τ_θ G(t-1)) / (τ_θ + 1)                           low-pass

    C(t) is read at the perturbed parameters alone, once a step: the high-pass takes the baseline away, and the
    low-pass averages. The parameters move at every step, along a G that is never reset. Where the input changes,
    C(t-1) is set to C(t), so that the change of input is not heard as an answer to the perturbation. With the random
    code and τ_p = 1 the expected G is a (1 - 1/τ_x) times the gradient. The paper's e has no factor P: a learning rate
    here is its η over P.

    A batch is presented for τ_x steps, each of which is a phase: the optimizer steps after every one.

    Args:
        network: Any module; it is never changed.
        loss: As `MultiplexedGradientDescent`.
        code: `"random"` or `"sinusoidal"`, whose gain lies between a third and all of it, by frequency. Of the others a
            parameter would hear its neighbours in time, which are always the same.
        norm: As `MultiplexedGradientDescent`.
        tau_x: Steps for which a batch is presented, at least 2: nothing is heard in the first of them.
        tau_p: Steps for which a perturbation is held.
        tau_theta: Time constant of the low-pass, in steps; 0 for none.
        tau_hp: Time constant of the high-pass, in steps.
        cost_noise: As `MultiplexedGradientDescent`.
        copies: As `MultiplexedGradientDescent`.

    Raises:
        UserError: An option is out of range; in `backward`, with the default loss, a label is no class index.
        UnsupportedNetworkError: The network has nothing to train.
        NonFiniteError: In `backward`, when the cost is NaN or infinite. Nothing is added, and no filter moves.

    >>> rule = AnalogMultiplexedGradientDescent(nn.Linear(4, 3), tau_x=2)
    >>> [rule.backward(torch.ones(1, 4), torch.tensor([0]), phase).ndim for phase in rule.phases]
    [0, 0]
    """

    change: Tensor
    last: Tensor
    gradient: Tensor

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        code: Kind = "random",
        norm: float = 0.1,
        tau_x: int = 100,
        tau_p: int = 1,
        tau_theta: float = 100.0,
        tau_hp: float = 1.6,
        cost_noise: float = 0.0,
        copies: int = 1,
    ) -> None:
        super().__init__(
            network, loss, code=code, norm=norm, tau_p=tau_p, cost_noise=cost_noise, at_once=1, copies=copies
        )
        if code not in ("random", "sinusoidal"):
            raise UserError(f"code must be 'random' or 'sinusoidal' where filters listen, got {code!r}")
        check_whole(2, tau_x=tau_x)
        check_number(tau_theta=tau_theta)
        check_number(tau_hp=tau_hp, above=True)
        self.tau_theta, self.tau_hp = tau_theta, tau_hp
        self.phases = tuple(f"step {number}" for number in range(1, tau_x + 1))
        like = next(p for p in network.parameters() if p.requires_grad)
        for name, shape in {"change": (copies,), "last": (copies,), "gradient": (copies, self.size)}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=like.dtype, device=like.device))

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Use the classifier itself."""
        del example, classes
        return cls(network, **options)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Read one cost, and let the filters hear it."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):  # wiggles are below bfloat16's rounding
            perturbation = self.perturbations(1)
            read = self._read(perturbation, x, y)[0]
            cost = self._noisy(read)
            if phase == self.phases[0]:
                self.last.copy_(cost)
            self.change.add_(cost - self.last).mul_(self.tau_hp / (self.tau_hp + 1))
            self.last.copy_(cost)
            heard = self.change[:, None] * perturbation[0] * (self.size / self.norm**2)
            self.gradient.mul_(self.tau_theta).add_(heard).div_(self.tau_theta + 1)
            self._write(self.gradient.clone())
        return read.mean()
