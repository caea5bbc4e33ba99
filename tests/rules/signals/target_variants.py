"""The variants of difference target propagation, on small perceptrons."""

import itertools

import torch
from torch import nn

from beyondprop.rules.signals.direct_target_propagation import DDTP
from beyondprop.rules.signals.target_propagation import DTP, DTPDR

SIGMA = 0.2
VARIANTS = {
    "dtp": (DTP, {}),
    "dtpdr": (DTPDR, {}),
    "linear": (DDTP, {}),
    "rhl": (DDTP, {"feedback": "rhl", "hidden": 11}),
    "control": (DDTP, {"feedback": "control"}),
}


def perceptron(*widths, activation=nn.Tanh, bias=True):
    torch.manual_seed(0)
    layers = [nn.Linear(widths[0], widths[1], bias=bias)]
    for before, after in itertools.pairwise(widths[1:]):
        layers += [activation(), nn.Linear(before, after, bias=bias)]
    return nn.Sequential(*layers).double()


def batch(count=8, width=4, classes=3):
    torch.manual_seed(1)
    return torch.randn(count, width, dtype=torch.float64), torch.arange(count) % classes


def make(variant, network=None, **options):
    torch.manual_seed(0)
    kind, own = VARIANTS[variant]
    network = perceptron(4, 7, 6, 5, 3) if network is None else network
    rule = kind(network, torch.zeros(2, 4).double(), noise=SIGMA, **own, **options)
    for p in rule.feedback.parameters():  # biases too
        p.data.normal_(std=0.3)
    return rule
