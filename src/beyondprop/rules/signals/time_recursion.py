"""Recursions backwards in time: one small matrix product a step, and all weights' gradients at once at the end."""

from __future__ import annotations

import torch
from torch import Tensor

from beyondprop.rules.signals.recurrent_layers import Layer, Linearised


def pull_back(seeds: Tensor, slopes: Tensor, matrix: Tensor, keep: Tensor | None = None) -> Tensor:
    """Carry row vectors from every step to those before it.

        y_T = s_T,    y_{t-1} = s_{t-1} + Σ_gates (y_t ⊙ slopes_t) K + y_t ⊙ keep_t

    With a layer's slopes and its W for K this is back-propagation through time; with the inverse's, targets.

    Args:
        seeds: s, shape (time, batch, hidden); overwritten by y.
        slopes: Shape (time, batch, gates, hidden).
        matrix: K, shape (gates * hidden, hidden).
        keep: Shape (time, batch, hidden).

    Returns:
        y, in the memory of the seeds.

    >>> ones = torch.ones(3, 1, 1)
    >>> pull_back(ones.clone(), 2 * ones.unsqueeze(2), torch.ones(1, 1)).flatten().tolist()
    [7.0, 3.0, 1.0]
    """
    product = slopes.new_empty(slopes.shape[1:])
    flat = product.flatten(1)
    kept = (None,) * len(seeds) if keep is None else keep.unbind(0)
    # Views of all steps are made before the loop: in it only kernels are launched.
    steps = list(zip(seeds.unbind(0), seeds.unsqueeze(2).unbind(0), slopes.unbind(0), kept, strict=True))
    for (y, wide, slope, share), (earlier, *_) in zip(steps[:0:-1], steps[-2::-1], strict=True):
        torch.mul(wide, slope, out=product)
        earlier.addmm_(flat, matrix)
        if share is not None:
            earlier.addcmul_(y, share)
    return seeds


def weight_gradients(layer: Layer, linear: Linearised, errors: Tensor) -> tuple[list[Tensor | None], Tensor, Tensor]:
    """Differentiate a step's state by its weights, for all steps in one product each.

    Args:
        layer: Its run.
        linear: Its steps' slopes.
        errors: What each state is to be moved against, shape (time, batch, hidden).

    Returns:
        Gradients in the order of `Weights`, that of the inputs, shape (time, batch, inputs), and that of h_0.
    """
    wide = errors.unsqueeze(2)
    of_state = (wide * linear.of_state).flatten(2)
    same = linear.of_input is linear.of_state
    of_input = of_state if same else (wide * linear.of_input).flatten(2)
    weights = layer.weights
    recurrent = of_state[1:].flatten(0, 1).mT @ layer.states[:-1].flatten(0, 1)
    recurrent.addmm_(of_state[0].mT, layer.before)
    biases: list[Tensor | None] = [None, None]
    if weights.input_bias is not None:
        biases[0] = of_input.sum(dim=(0, 1))
        biases[1] = biases[0] if same else of_state.sum(dim=(0, 1))
    inputs = of_input.flatten(0, 1)
    first = of_state[0] @ weights.of_state
    if linear.keep is not None:
        first = first + errors[0] * linear.keep[0]
    gradients = [inputs.mT @ layer.inputs.flatten(0, 1), recurrent, *biases]
    return gradients, of_input @ weights.of_input, first
