"""The library's side of `signals_step.py`: every rule of the catalogue's family "signals", and plain autograd.

The rules come from the catalogue, and are made as a user makes them, by `for_classifier`. One that does not support the
network is left out with a line that says why. `"plain"` is back-propagation as anyone writes it, by torch alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from _common import CLASSES, serve
from _signals import DEPTH, optimizer_of, signals_parser
from _steps import Step, Tasks, random_batch
from torch import nn
from torch.nn import functional as F

from beyondprop.catalogue import SYSTEMS
from beyondprop.networks.classifiers import convolutional, perceptron
from beyondprop.rule import Rule
from beyondprop.training.evaluation import autocast

CPU = torch.device("cpu")
PLAIN = "plain"
VARIANTS: dict[str, dict[str, Any]] = {  # of systems that are several rules
    "sign-symmetry": {"uSF": {"magnitude": "uniform"}, "frSF": {"magnitude": "fixed"}, "brSF": {"magnitude": "batch"}}
}


def network_of(options: argparse.Namespace) -> nn.Sequential:
    """Build the network that the peers have too."""
    if options.network == "convolutional":
        return convolutional(options.image, CLASSES, hidden=options.hidden)
    return perceptron(options.image, CLASSES, hidden=options.hidden, depth=DEPTH)


def rules() -> dict[str, Callable[..., Any]]:
    """What makes each rule from a classifier, by name."""
    made: dict[str, Callable[..., Any]] = {}
    for system in SYSTEMS:
        if system.family == "signals" and issubclass(found := system.load(), Rule):
            for variant, settings in VARIANTS.get(system.id, {"": {}}).items():
                name = f"{system.id} {variant}".rstrip()
                made[name] = lambda *args, found=found, settings=settings: found.for_classifier(*args, **settings)
    return made


def supported(options: argparse.Namespace) -> list[str]:
    """Name the methods that this network can have, and say why others cannot."""
    found, example = [PLAIN], random_batch(options, channels_last=False)[0]
    for system in SYSTEMS:
        if system.family == "signals" and issubclass(rule := system.load(), Rule):
            network = network_of(options)
            # What could only be a part of another network, as the readout of a recurrent one, is no comparison.
            if reason := rule.supports_classifier(network, example) or rule.supports(network):
                print(f"{system.id} is left out: {reason}", file=sys.stderr)
            else:
                found += [name for name in rules() if name.split()[0] == system.id]
    return found


def step_of(options: argparse.Namespace, method: str, precision: str, switches: bool) -> Step:
    """Make a step."""
    network = network_of(options)
    x, y = random_batch(options, channels_last=switches)
    module = network if method == PLAIN else rules()[method](network, x, CLASSES)
    if switches:
        module.to(memory_format=torch.channels_last)
    groups = module.parameters() if method == PLAIN else module.parameter_groups()
    optimizer = optimizer_of(groups, fused=switches)

    def plain() -> None:
        optimizer.zero_grad()
        with autocast(CPU, precision):
            loss = F.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()

    def rule() -> None:
        for phase in module.phases:
            optimizer.zero_grad()
            with autocast(CPU, precision):
                module.backward(x, y, phase)
            optimizer.step()

    return Step(plain if method == PLAIN else rule, module, optimizer)


def main() -> None:
    """Serve."""
    options = signals_parser(__doc__).parse_args()
    serve(lambda: Tasks(options, supported(options), lambda *task: step_of(options, *task)))


if __name__ == "__main__":
    main()
