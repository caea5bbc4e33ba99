"""What the sides of `signals_step.py` share: the networks and the optimizer."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from _common import parser
from torch import nn
from torch.optim import SGD

NETWORKS = ("perceptron", "convolutional")
DEPTH = 2
HIDDEN = 1000
CHANNELS, KERNEL = 32, 5  # of the convolution


def signals_parser(doc: str | None) -> argparse.ArgumentParser:
    """Make the command line that all sides have."""
    made = parser(doc)
    made.add_argument("--network", choices=NETWORKS, default=NETWORKS[0])
    made.add_argument("--hidden", type=int, default=HIDDEN, help="width of the hidden layers")
    return made


def optimizer_of(parameters: Any, *, fused: bool) -> SGD:
    """Make the optimizer that all sides have; the peer whose rules these are has it by default."""
    return SGD(parameters, lr=1e-4, momentum=0.9, nesterov=True, fused=fused or None)


def convolutions_last(module: nn.Module) -> None:
    """Put a peer's convolutions in channels_last; feedback weights of its own must stay as they are for its views."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=torch.channels_last)
