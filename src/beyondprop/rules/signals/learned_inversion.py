"""Target propagation through time by a learned inverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number
from beyondprop.rule import descend, without_trace
from beyondprop.rules.signals.recurrent_layers import Layer, Linearised, recurrent_layer, weights_of
from beyondprop.rules.signals.recurrent_targets import CLIP, Mode, RecurrentTargets


class TPTT(RecurrentTargets):
    r"""Target propagation through time (Manchev and Spratling, JMLR 21(7), 2020), as in the code of arXiv 2112.01453.

        g_t(v) = tanh(Q v + U x_t + q),    v_{t-1} = h_{t-1} - g_t(h_t) + g_t(v_t),    v_T = h_T - γ ∂L/∂h_T

    A batch takes two steps: in phase "inverse" Q and q learn that g_t(f_t(h + ε)) be h + ε, by the mean over the batch
    of Σ_t ½‖·‖², where ε ~ N(0, σ² I) and h = h_{t-1}; in phase "network" the targets teach all else. U is the
    recurrent layer's own.

    Args:
        network, loss, target_step, mode, clip: As of `RecurrentTargets`; the layer is an nn.RNN of one layer with tanh.
        noise: σ.

    Raises:
        UnsupportedNetworkError: The network has no such layer.
        UserError: An option is out of range.
        NonFiniteError: In `backward`, when the loss is NaN or infinite.

    >>> from beyondprop.networks.sequences import SequenceReader
    >>> rule = TPTT(SequenceReader(3, 2, hidden=8))
    >>> rule.phases, [group["name"] for group in rule.parameter_groups()]
    (('inverse', 'network'), ['recurrent', 'readout', 'inverse'])
    """

    phases = ("inverse", "network")

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        target_step: float = 1e-2,
        noise: float = 0.0,
        mode: Mode = "through_time",
        clip: float = CLIP,
    ) -> None:
        super().__init__(network, loss, target_step=target_step, mode=mode, clip=clip)
        check_number(noise=noise)
        self.noise = noise
        weight = weights_of(recurrent_layer(network)[1], 0).of_state
        self.inverse = nn.Linear(len(weight), len(weight), device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            nn.init.orthogonal_(self.inverse.weight)
            self.inverse.bias.zero_()

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """A network must have one nn.RNN of one layer with tanh units."""
        if reason := super().supports(network):
            return reason
        name, module = recurrent_layer(network)
        if not isinstance(module, nn.RNN) or module.nonlinearity != "tanh" or module.num_layers > 1:
            return f"layer {name} ({type(module).__name__}) is no nn.RNN of one layer with tanh units"
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The recurrent layer's, the readout's, and the inverse's."""
        theirs = [p for p in self.inverse.parameters() if p.requires_grad]
        return [*super().parameter_groups(), *([{"name": "inverse", "params": theirs}] if theirs else [])]

    def loss_parameters(self) -> list[nn.Parameter]:
        """Those of the loss alone: the inverse is none of it."""
        inverse = {id(p) for p in self.inverse.parameters()}
        return [p for p in super().loss_parameters() if id(p) not in inverse]

    def teaches_network(self, phase: str | None = None) -> bool:
        """Not where the inverse learns."""
        return phase != "inverse"

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Teach the inverse, or by targets all else.

        Returns:
            The loss of what learns.
        """
        return self._learn_inverse(x, y) if phase == "inverse" else super().assign_credit(x, y, phase)

    def _learn_inverse(self, x: Tensor, y: Tensor) -> Tensor:
        """All steps at once: a step's reconstruction needs its own state alone."""
        ran: list[Layer] = []

        def note(layers: list[Layer], output: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
            ran.extend(layers)
            return output, last

        with self._recurrence(note) as runs, without_trace(self.network):  # in training it runs once more
            self.measured(self.network(x), x, y)  # what is wrong with the data is told as ever
        self._require_one(runs)
        (layer,) = ran
        weights = layer.weights
        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                wanted = layer.earlier
                if self.noise:
                    wanted = wanted + self.noise * torch.randn_like(wanted)
                drive = nn.functional.linear(layer.inputs, weights.of_input)
                given = nn.functional.linear(wanted, weights.of_state)
                made = torch.tanh(drive + given + (0 if weights.bias is None else weights.bias))
            error = torch.tanh(self.inverse(made) + drive) - wanted
            loss = 0.5 * error.square().sum() / len(x)
            descend(loss, "the inverse")
        return loss

    def prepare(self, layer: Layer, number: int) -> Any:
        """What the inverse hears of the inputs, for all steps."""
        del number
        return nn.functional.linear(layer.inputs, layer.weights.of_input, self.inverse.bias)

    def displacements(
        self, layer: Layer, linear: Linearised, shared: Any, seeds: Tensor, *, below: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Go back in time by differences of the learned inverse."""
        del linear, below
        weight = self.inverse.weight.T
        base = torch.tanh(layer.states @ weight + shared)
        for t in range(len(seeds) - 1, 0, -1):
            moved = torch.addmm(shared[t], layer.states[t] + seeds[t], weight)
            seeds[t - 1] += moved.tanh_() - base[t]
        return seeds, None
