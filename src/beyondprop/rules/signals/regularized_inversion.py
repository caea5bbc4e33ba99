"""Target propagation through time by regularized inversion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from beyondprop.errors import UserError
from beyondprop.rules.signals.recurrent_layers import Layer, Linearised, kind_of, recurrent_layer
from beyondprop.rules.signals.recurrent_targets import CLIP, Mode, RecurrentTargets
from beyondprop.rules.signals.ridge_inverse import ridge_inverse, unsquashed
from beyondprop.rules.signals.time_recursion import pull_back

Targets = Literal["linearised", "difference", "plain"]
STEEPEST = 0.75  # the slope of a state that is clipped to half of its range


def steady_clip(regularisation: float) -> float:
    """How near to ±1 a tanh unit's state may count as, so that displacements do not grow on their way back in time.

    No singular value of (WᵀW + r I)⁻¹ Wᵀ, which is σ / (σ² + r), is above 1 / (2 √r), whatever W is. Divided by slopes
    of that size or more, a displacement stays as long as it was or becomes shorter. The slope of a clipped state is
    1 - (1 - clip)². For r below 4/9 states would be clipped to less than half of their range, and are not: W alone
    decides then. (A derivation of ours.)

    >>> round(steady_clip(10.0), 4), round(steady_clip(1.0), 4), steady_clip(0.0), steady_clip(1e12)
    (0.0825, 0.2929, 0.5, 0.001)
    """
    slope = min(0.5 / math.sqrt(regularisation), STEEPEST) if regularisation else STEEPEST
    return max(1 - math.sqrt(1 - slope), CLIP)


class TPRI(RecurrentTargets):
    r"""Target propagation via regularized inversion (Roulet and Harchaoui, arXiv 2112.01453).

        h_t = φ(W h_{t-1} + U x_t + b),    f⁻¹_t(v) = argmin_h ‖W h + U x_t + b - φ⁻¹(v)‖² + r ‖h‖²
                                                    = (WᵀW + r I)⁻¹ Wᵀ (φ⁻¹(v) - U x_t - b)
        d_T = -g ∂L/∂h_T,    d_{t-1} = -g ∂L/∂h_{t-1} + ∂f⁻¹_t(h_t) d_t,    v_t = h_t + d_t

    ∂L/∂h_t is the readout's own derivative at step t: of a network that reads the last state alone, only that of T is
    not zero. Where back-propagation multiplies by the slope of φ and by Wᵀ, the inverse divides by the slope and
    multiplies by (WᵀW + r I)⁻¹ Wᵀ, which is computed once a batch. The recurrent layer learns by Σ ½‖h_t - v_t‖² with
    fixed v, everything else by the gradient of L.

    The recurrent layer's `.grad` has the factor g in it (exactly so for linearised targets), that of the readout has
    not. `parameter_groups` keeps the two apart: with SGD, the recurrent layer moves by (learning rate) g.

    Args:
        network, loss, target_step, mode: As of `RecurrentTargets`.
        clip: Likewise. None takes for linearised targets of tanh units the smallest by which no target is further from
            its state than the one after it (`steady_clip`), and 0.001 elsewhere; the released code has 0.001.
        regularisation: r, at least 0. Orthogonal W gives Wᵀ / (1 + r).
        targets: How a displacement goes back. `"linearised"`: d_{t-1} = ∂f⁻¹(h_t) d_t, as above. `"difference"`:
            f⁻¹(h_t + d_t) - f⁻¹(h_t), whose first order this is. `"plain"`: v_{t-1} = f⁻¹(v_t), also where h is not its
            own preimage. A GRU has linearised ones alone, a stack none that are plain.

    Raises:
        UnsupportedNetworkError: The network has no nn.RNN or nn.GRU, or one that cannot be inverted; see `supports`.
        UserError: An option is out of range; in `backward`, when WᵀW + r I has no inverse to its precision.
        NonFiniteError: In `backward`, when the loss or a weight is NaN or infinite.

    >>> class Reader(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.rnn, self.readout = nn.RNN(3, 8, batch_first=True), nn.Linear(8, 2)
    ...     def forward(self, x):
    ...         return self.readout(self.rnn(x)[0][:, -1])
    >>> rule = TPRI(Reader(), regularisation=1.0)
    >>> loss = rule.backward(torch.randn(5, 7, 3), torch.tensor([0, 1, 1, 0, 1]))
    >>> rule.network.rnn.weight_hh_l0.grad.shape, [group["name"] for group in rule.parameter_groups()]
    (torch.Size([8, 8]), ['recurrent', 'readout'])
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        target_step: float = 1e-2,
        regularisation: float = 1.0,
        targets: Targets = "linearised",
        mode: Mode = "through_time",
        clip: float | None = None,
    ) -> None:
        super().__init__(network, loss, target_step=target_step, mode=mode, clip=CLIP if clip is None else clip)
        if not regularisation >= 0:
            raise UserError(f"regularisation must be at least 0, not {regularisation}")
        if targets not in get_args(Targets):
            raise UserError(f"targets must be one of {', '.join(get_args(Targets))}, not {targets!r}")
        name, module = recurrent_layer(network)
        if kind_of(module) == "gru" and targets != "linearised":
            raise UserError(f"targets={targets!r} needs an nn.RNN: layer {name} (GRU) has linearised ones alone")
        if targets == "plain" and module.num_layers > 1:
            raise UserError(f"targets='plain' needs one layer: layer {name} has {module.num_layers}")
        if clip is None and targets == "linearised" and kind_of(module) == "tanh":
            self.clip = steady_clip(regularisation)
        self.regularisation, self.how = regularisation, targets

    def prepare(self, layer: Layer, number: int) -> Any:
        """Invert W, and U where a layer stands below: W (WᵀW + r I)⁻¹ of every gate, one above the other."""
        name, _ = recurrent_layer(self.network)
        gates = 3 if layer.kind == "gru" else 1

        def inverse(weight: Tensor, which: str) -> Tensor:
            stacked = weight.unflatten(0, (gates, -1))
            return ridge_inverse(stacked, self.regularisation, f"{name}.{which}_l{number}").flatten(0, 1)

        below = inverse(layer.weights.of_input, "weight_ih") if number else None
        return inverse(layer.weights.of_state, "weight_hh"), below

    def displacements(
        self, layer: Layer, linear: Linearised, shared: Any, seeds: Tensor, *, below: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Go back in time by the inverse, and down to the layer below at every step."""
        of_state, of_input = shared
        if self.how == "linearised":
            d = pull_back(seeds, linear.back_to_state, of_state, linear.keep)
            return d, (d.unsqueeze(2) * linear.back_to_input).flatten(2) @ of_input if below else None
        if self.how == "plain":
            return self._plain(layer, of_state, seeds), None
        h, kind = layer.states, layer.kind
        base = unsquashed(h, kind, self.clip)
        moved = torch.empty_like(h)
        for t in range(len(h) - 1, -1, -1):
            moved[t] = unsquashed(h[t] + seeds[t], kind, self.clip) - base[t]
            if t:
                seeds[t - 1].addmm_(moved[t], of_state)
        return seeds, moved @ of_input if below else None

    def _plain(self, layer: Layer, of_state: Tensor, seeds: Tensor) -> Tensor:
        h, weights = layer.states, layer.weights
        offsets = nn.functional.linear(layer.inputs, weights.of_input, weights.bias)
        for t in range(len(h) - 1, 0, -1):
            wanted = unsquashed(h[t] + seeds[t], layer.kind, self.clip) - offsets[t]
            seeds[t - 1] += wanted @ of_state - h[t - 1]
        return seeds
