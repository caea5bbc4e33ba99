"""Multiplexed gradient descent as one would first write it: a loop over steps, one network, one perturbation at a time.

It stands for the authors' code (amccaugh/multiplexed-gradient-descent-paper and bakhromtjk/mgd_scaling), which needs
Julia, the second one CUDA too, and logs no times.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def signs_like(tensor: Tensor) -> Tensor:
    """Draw ±1."""
    return 2.0 * torch.randint(2, tensor.shape) - 1.0


@torch.no_grad()
def step(network: nn.Module, loss: Loss, x: Tensor, y: Tensor, *, norm: float, steps: int, rate: float) -> None:
    """Perturb all parameters for some steps, then move them."""
    parameters = list(network.parameters())
    amplitude = norm / math.sqrt(sum(p.numel() for p in parameters))
    gradients = [torch.zeros_like(p) for p in parameters]
    baseline = loss(network(x), y)
    for _ in range(steps):
        wiggles = [amplitude * signs_like(p) for p in parameters]
        for p, wiggle in zip(parameters, wiggles, strict=True):
            p.add_(wiggle)
        change = (loss(network(x), y) - baseline) / norm**2
        for p, wiggle, gradient in zip(parameters, wiggles, gradients, strict=True):
            p.sub_(wiggle)
            gradient.add_(change * wiggle)
    for p, gradient in zip(parameters, gradients, strict=True):
        p.sub_(rate * gradient)


@torch.no_grad()
def weights_step(network: nn.Sequential, loss: Loss, x: Tensor, y: Tensor, *, norm: float, steps: int) -> None:
    """Perturb the weights of one layer after another for some steps; gradients go to `.grad`."""
    baseline = loss(network(x), y)
    for layer in network:
        parameters = list(layer.parameters())
        if not parameters:
            continue
        amplitude = norm / math.sqrt(sum(p.numel() for p in parameters))
        gradients = [torch.zeros_like(p) for p in parameters]
        for _ in range(steps):
            wiggles = [signs_like(p) for p in parameters]
            for p, wiggle in zip(parameters, wiggles, strict=True):
                p.add_(amplitude * wiggle)
            change = (loss(network(x), y) - baseline).mean() / (norm * steps)
            for p, wiggle, gradient in zip(parameters, wiggles, gradients, strict=True):
                p.sub_(amplitude * wiggle)
                gradient.add_(change * wiggle)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient


def nodes_step(network: nn.Sequential, loss: Loss, x: Tensor, y: Tensor, *, norm: float, steps: int) -> None:
    """Perturb the nodes of one layer after another for some steps; gradients go to `.grad`."""
    with torch.no_grad():
        values = [x]
        for layer in network:
            values.append(layer(values[-1]))
        baseline = loss(values[-1], y)
    for place, layer in enumerate(network):
        if not any(True for _ in layer.parameters()):
            continue
        node, signal = values[place + 1][0], torch.zeros_like(values[place + 1])
        amplitude = norm / math.sqrt(node.numel())
        with torch.no_grad():
            for _ in range(steps):
                wiggle = signs_like(node)
                handle = layer.register_forward_hook(lambda _m, _i, z, w=amplitude * wiggle: z + w)
                change = (loss(network(x), y) - baseline) / (norm * steps * len(x))
                handle.remove()
                signal += change.view(-1, *[1] * node.ndim) * wiggle
        gradients = torch.autograd.grad(layer(values[place]), list(layer.parameters()), signal)
        for p, gradient in zip(layer.parameters(), gradients, strict=True):
            p.grad = gradient
