"""The library's side of `perturbation_step.py`, and beside it back-propagation and a forward pass alone.

`--task fwdgrad` has the peer's perceptron, `--task mixer` LocalMixer with a head for each of its blocks.
"""

from __future__ import annotations

import argparse

import torch
from _common import CLASSES, serve
from _perturbation import SGD, TASKS, perturbation_parser
from _steps import Step, Tasks, random_batch
from torch import nn

from beyondprop.networks.classifiers import perceptron
from beyondprop.networks.local_mixer import LocalMixer
from beyondprop.rule import Rule
from beyondprop.rules.perturbation.forward_gradient import ForwardGradient
from beyondprop.rules.perturbation.local_forward_gradient import LocalForwardGradient
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.training.evaluation import autocast

FORWARD = "forward pass"
METHODS = {
    "fwdgrad": {
        "weights": lambda network: ForwardGradient(network, perturb="weights"),
        "activities": ForwardGradient,
        "bp": Backprop,
    },
    "mixer": {
        "lg-fg-a": LocalForwardGradient,
        "lg-fg-w": lambda network: LocalForwardGradient(network, gradient="forward-weights"),
        "lg-bp": lambda network: LocalForwardGradient(network, gradient="backprop", losses="block"),
    },
}


def network_of(options: argparse.Namespace) -> nn.Module:
    """Build the network."""
    if options.task == "mixer":
        blocks, side, groups = options.mixer
        sizes = {"blocks": blocks, "side": side, "channels": options.hidden, "groups": groups}
        return LocalMixer(options.image, CLASSES, **sizes)
    return perceptron(options.image, CLASSES, hidden=options.hidden, depth=2, activation="relu")


def step_of(options: argparse.Namespace, method: str, precision: str, switches: bool) -> Step:
    """Make a step; the switch is torch's fused optimizer."""
    x, y = random_batch(options, channels_last=False)
    network = network_of(options)
    if method == FORWARD:

        @torch.no_grad()
        def forward() -> None:
            with autocast(torch.device("cpu"), precision):
                network(x)

        return Step(forward, network, None)
    rule: Rule = METHODS[options.task][method](network)
    optimizer = torch.optim.SGD(rule.parameters(), **SGD, fused=switches or None)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(torch.device("cpu"), precision):
            rule.backward(x, y)
        optimizer.step()

    return Step(step, rule, optimizer)


def main() -> None:
    """Serve."""
    command = perturbation_parser(__doc__)
    command.add_argument("--task", choices=TASKS, required=True)
    command.add_argument("--mixer", type=int, nargs=3, default=(1, 1, 16), help="blocks, patches on a side, groups")
    options = command.parse_args()
    methods = [*METHODS[options.task], FORWARD]
    serve(lambda: Tasks(options, methods, lambda *task: step_of(options, *task)))


if __name__ == "__main__":
    main()
