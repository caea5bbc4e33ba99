"""Small hidden layers, a batch for them, and a rule that trains them."""

import torch
from torch import nn

from beyondprop.rules.local.forward_forward import ForwardForward

CLASSES = 4


def hidden(width=6, inputs=12, depth=2):
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers).double()


def batch(count=9, inputs=12):
    torch.manual_seed(1)
    return torch.randn(count, inputs).double(), torch.arange(count) % CLASSES


def make(rule_class=ForwardForward, network=None, **options):
    return rule_class(network or hidden(), batch()[0], CLASSES, **options)
