"""Small recurrent networks and sequences in float64 on which node perturbation is tested."""

import torch
from torch import nn

from beyondprop.networks.recurrent import VanillaRNN

SQUARES = nn.MSELoss(reduction="none")


def vanilla(hidden=2, **options):
    torch.manual_seed(0)
    return VanillaRNN(2, hidden, 1, **options).double()


def sequences(batch=3, time=3, inputs=2, outputs=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, time, inputs, generator=generator, dtype=torch.float64)
    return x, torch.randn(batch, time, outputs, generator=generator, dtype=torch.float64)


def gradients(rule):
    return {name: p.grad.clone() for name, p in rule.network.named_parameters() if p.grad is not None}
