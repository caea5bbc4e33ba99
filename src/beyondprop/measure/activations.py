"""What the hidden layers of a network compute for a batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as trees

from beyondprop.rule import without_trace
from beyondprop.rules.signals.layers import Call, find_layers, intercepted


def hidden_activations(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Run a network and keep what each layer after the first one reads: activations, pooled and flattened as they come.

    Args:
        network: Any; it is run in evaluation mode without a trace.
        x: A batch.

    Returns:
        By the name of the layer behind which they stand, the one that was evaluated last before them: activations of
        shape (batch, neurons), in order. Layers are modules with weights, as in `beyondprop.rules.signals`; a tensor
        that several layers read counts once, and so does a layer that is evaluated several times.

    >>> from torch import ones
    >>> perceptron = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> {name: tuple(values.shape) for name, values in hidden_activations(perceptron, ones(2, 4)).items()}
    {'0': (2, 8)}
    """
    found: dict[str, Tensor] = {}
    seen: list[Tensor] = []
    latest = ""

    def enter(_call: Call, arguments: Any) -> Any:
        for value in trees.tree_leaves(arguments):
            if isinstance(value, Tensor) and value.is_floating_point() and not any(value is each for each in seen):
                seen.append(value)
                if latest and latest not in found:
                    found[latest] = value.flatten(1)
        return arguments

    def leave(call: Call, output: Any) -> Any:
        nonlocal latest
        latest = call.name
        return output

    with without_trace(network), intercepted(find_layers(network), enter, leave):
        network(x)
    return found
