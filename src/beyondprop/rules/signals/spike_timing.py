"""Back-propagation through exact spike times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

from torch import Tensor, nn

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.inputs import refuse_double
from beyondprop.layers.spiking.encoders import LatencyEncoder
from beyondprop.layers.spiking.linear import SpikingLinear
from beyondprop.layers.spiking.readouts import FirstSpike, FirstSpikeLoss, SpikeCount, SpikeCountLoss
from beyondprop.networks.spiking import spiking_perceptron
from beyondprop.rule import check_labels
from beyondprop.rules.signals.backprop import Backprop

REPLACED = (
    *(nn.Flatten, nn.Identity, nn.Dropout, nn.BatchNorm1d, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU),
    *(nn.Tanh, nn.Sigmoid, nn.Hardtanh),
)


class SpikeTiming(Backprop):
    """Timing-based back-propagation through neurons that spike several times (arXiv 2211.16113).

        ∂t_k/∂w_j = -Σ_m κ(t_k - t_j^m) / V'(t_k),    ∂t_k/∂t_j^m = w_j κ'(t_k - t_j^m) / V'(t_k)
        ∂t_k/∂t_z = θ/tau_m e^(-(t_k - t_z)/tau_m) / V'(t_k)    for the neuron's own earlier spikes

    The layers know these derivatives themselves (`SpikingLinear`); the rule is back-propagation with a loss that fits
    the readout: `FirstSpikeLoss`, or `SpikeCountLoss` where the network ends with `SpikeCount`.

    Args:
        network: Maps a batch of inputs to class scores, with at least one `SpikingLinear`: an encoder, spiking layers
            and a readout. It is used as it is.
        loss: Maps (scores, class indices) to a scalar. Default: see above.

    Raises:
        UnsupportedNetworkError: The network has no spiking layer.
        UserError: In `backward`, when a label is no class index.
        NonFiniteError: In `backward`, when the loss is NaN or infinite; nothing is added to any `.grad`.

    >>> import torch
    >>> rule = SpikeTiming.for_classifier(nn.Linear(4, 3), torch.rand(2, 4), 3)
    >>> loss = rule.backward(torch.rand(2, 4), torch.tensor([0, 2]))
    >>> rule(torch.rand(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        counts = any(isinstance(module, SpikeCount) for module in network.modules())
        super().__init__(network, loss or (SpikeCountLoss() if counts else FirstSpikeLoss()))

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """Ask for a spiking layer."""
        if any(isinstance(module, SpikingLinear) for module in network.modules()):
            return None
        return "the network has no SpikingLinear layer: use Backprop, or make a spiking network by for_classifier"

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """Tell whether `for_classifier` can read the layers' widths."""
        del example
        leaves = [(name, module) for name, module in network.named_modules() if not any(module.children())]
        for name, module in leaves:
            if not isinstance(module, (nn.Linear, *REPLACED)):
                return f"layer {name or 'network'} ({type(module).__name__}) has no counterpart among spiking layers"
        if not any(isinstance(module, nn.Linear) for _, module in leaves):
            return "the network has no nn.Linear layer to take widths from"
        return None

    @classmethod
    def for_classifier(
        cls,
        network: nn.Module,
        example: Tensor,
        classes: int,
        *,
        code: Literal["first-spike", "count"] = "first-spike",
        window: float = 2.0,
        low: float | Sequence[float] | Tensor = 0.0,
        high: float | Sequence[float] | Tensor = 1.0,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        **options: Any,
    ) -> Self:
        """Make a spiking network of the widths of a classifier's linear layers, which itself is not used further.

        Its activations, batch norm and dropout have no counterpart: a neuron's threshold is its nonlinearity. Initial
        weights are drawn anew.

        Args:
            network: A chain of linear layers and activations.
            example: One input batch, of which only the shape is used.
            classes: Number of classes.
            code: What the output says: which neuron spikes first, or which spikes most often.
            window: Time of the latest input spike; the input is encoded by `LatencyEncoder`, with one more input that
                always spikes at 0.
            low: Inputs from here down do not spike.
            high: Inputs from here up spike at 0.
            loss: As of the class.
            **options: Of `spiking_perceptron`: `spikes`, `tau_m`, `tau_s`, `bump`, ...

        Raises:
            UnsupportedNetworkError: The network has a layer of another kind.
            UserError: Its last layer has another number of outputs than there are classes.
        """
        if reason := cls.supports_classifier(network, example):
            raise UnsupportedNetworkError(reason)
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
        refuse_double(example, linear[0])
        if linear[-1].out_features != classes:
            raise UserError(f"the network has {linear[-1].out_features} outputs for {classes} classes")
        counting = code == "count"
        settings: dict[str, Any] = {"spikes": 20, "output_spikes": 20} if counting else {"spikes": 4}
        spiking = spiking_perceptron(
            LatencyEncoder(window, low=low, high=high, bias=0.0),
            linear[0].in_features + 1,
            classes,
            SpikeCount() if counting else FirstSpike(latest=5 * window),
            hidden=[layer.out_features for layer in linear[:-1]],
            **{"active": 0.5, "drive": 4.0, "lift": 0.5, "least_slope": 0.1, **settings, **options},
        )
        return cls(spiking, loss).to(linear[0].weight.device, linear[0].weight.dtype)

    def checked_targets(self, y: Tensor, scores: Any) -> Tensor:
        """Refuse labels that are no class indices."""
        return check_labels(y, scores[1])
