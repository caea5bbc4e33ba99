"""The library's side of `local_step.py`, and beside it plain autograd and a plain product of matrices.

`--task` says which methods there are: `--methods`, named as the peer's, or, for `rules`, every rule of blocks in the
catalogue's family "local", made as a user makes it, by `for_classifier`, with a method for each of its stages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from _common import CLASSES, serve
from _local import (
    ADAM,
    CAFO_STEP,
    HELD,
    LOADER,
    LOEWE,
    LOEWE_READOUT,
    PEER,
    TASKS,
    first_features,
    local_parser,
)
from _signals import optimizer_of
from _steps import Step, Tasks, random_batch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from beyondprop.catalogue import SYSTEMS
from beyondprop.networks.cascaded_forward import cascade
from beyondprop.networks.classifiers import perceptron
from beyondprop.rule import Rule
from beyondprop.rules.local.blockwise import Blockwise
from beyondprop.rules.local.cascaded_forward import CascadedForward
from beyondprop.rules.local.forward_forward import ForwardForward
from beyondprop.rules.local.linear_predictor import LinearPredictor
from beyondprop.rules.local.symba import SymBa
from beyondprop.training.evaluation import autocast

CPU = torch.device("cpu")
PLAIN, PRODUCT = "plain", "product"


def network_of(options: argparse.Namespace) -> nn.Sequential:
    """Build the network."""
    if options.network == "cascade":
        return cascade(options.image, CLASSES)
    return perceptron(options.image, CLASSES, hidden=options.hidden, depth=options.depth, activation="relu")


def methods_of(options: argparse.Namespace) -> list[str]:
    """Name what this task measures."""
    if options.task != "rules":
        return [PRODUCT, *options.methods]
    found, example = [PLAIN], random_batch(options, channels_last=False)[0]
    for system in SYSTEMS:
        if system.family == "local" and issubclass(rule := system.load(), Blockwise):
            if reason := rule.supports_classifier(network_of(options), example):
                print(f"{system.id} is left out: {reason}", file=sys.stderr)
            else:
                found += [f"{system.id} {stage or ''}".rstrip() for stage in rule.stages]
    return found


def step_of(options: argparse.Namespace, method: str, precision: str, switches: bool) -> Step:
    """Make a step."""
    if method == PRODUCT:
        return product(options.product, precision)
    if options.task == "cafo":
        return predictors(options, method, precision)
    x, y = random_batch(options, channels_last=switches and options.network == "cascade")
    if options.task == "rules":
        return rule_step(options, method, precision, switches, (x, y))
    system = method.removesuffix(f" {LOADER}")
    network = network_of(options)
    if options.task == "loewe":
        rule: Rule = ForwardForward.for_classifier(network, x, CLASSES, peer=PEER, readout="softmax")
        rule.classifier.bias.requires_grad_(False)  # type: ignore[union-attr]  # the peer's has none
        settings = {"network": LOEWE, "readout": LOEWE_READOUT}
        groups = [{**group, **settings[group["name"]]} for group in rule.parameter_groups()]
        optimizer: Optimizer = SGD(groups, fused=switches or None)
    else:
        made, extra = (SymBa, {}) if system == "symba" else (ForwardForward, {"threshold": 2.0, "skip_first": False})
        rule = made.for_classifier(network, x, CLASSES, negatives="hard", goodness="mean", **extra)
        optimizer = Adam(rule.parameter_groups(), **ADAM, fused=switches or None)
    fetch = batches_in_memory(x, y) if method.endswith(LOADER) else lambda: (x, y)
    return Step(taking(rule, optimizer, precision, fetch), rule, optimizer)


def rule_step(
    options: argparse.Namespace, method: str, precision: str, switches: bool, batch: tuple[Tensor, Tensor]
) -> Step:
    """Make a step of a rule of the catalogue, or of plain back-propagation."""
    network, (x, y) = network_of(options), batch
    if switches:
        network.to(memory_format=torch.channels_last)
    if method == PLAIN:
        optimizer = optimizer_of(network.parameters(), fused=switches)

        def plain() -> None:
            optimizer.zero_grad()
            with autocast(CPU, precision):
                loss = F.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()

        return Step(plain, network, optimizer)
    name, _, stage = method.partition(" ")
    (system,) = (system for system in SYSTEMS if system.id == name)
    rule = system.load().for_classifier(network, x, CLASSES)
    rule.stage = stage or None
    if switches:
        rule.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(rule.parameter_groups(), fused=switches)
    return Step(taking(rule, optimizer, precision, lambda: batch), rule, optimizer)


def predictors(options: argparse.Namespace, method: str, precision: str) -> Step:
    """Make some full-batch steps of CaFo's predictors, on given features or on those of the three blocks."""
    x, y = random_batch(options, channels_last=False)
    if method == "predictor":
        size = first_features(options.image)
        given = torch.randn(options.batch, size)
        module: Rule = LinearPredictor(size, CLASSES)
        heads, features = [module], lambda: [given]
    else:
        module = CascadedForward.for_classifier(cascade(options.image, CLASSES), x, CLASSES)
        heads, features = list(module.predictors), lambda: module.features(x)  # type: ignore[union-attr, arg-type]
    optimizers = [SGD(head.parameters(), lr=CAFO_STEP) for head in heads]

    def step() -> None:
        with autocast(CPU, precision):
            for head, optimizer, found in zip(heads, optimizers, features(), strict=True):
                for _ in range(options.epochs):
                    optimizer.zero_grad()
                    head.backward(found, y)
                    optimizer.step()

    return Step(step, module, None)


def taking(
    rule: Rule, optimizer: Optimizer, precision: str, fetch: Callable[[], tuple[Tensor, Tensor]]
) -> Callable[[], None]:
    """A training step of a rule on the next batch."""

    def step() -> None:
        x, y = fetch()
        for phase in rule.phases:
            optimizer.zero_grad()
            with autocast(CPU, precision):
                rule.backward(x, y, phase)
            optimizer.step()

    return step


def batches_in_memory(x: Tensor, y: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """Draw batches in random order from a data set in memory, which is the batch again and again."""
    batch = len(x)
    times = -(-HELD // batch)
    images, labels = x.repeat(times, *[1] * (x.ndim - 1)), y.repeat(times)
    order: list[Tensor] = []

    def fetch() -> tuple[Tensor, Tensor]:
        if not order:
            order.extend(torch.randperm(len(images)).split(batch))
        places = order.pop()
        return images[places], labels[places]

    return fetch


def product(side: int, precision: str) -> Step:
    """Multiply two square matrices: what the machine can do at most."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b, into = (torch.randn(side, side).to(dtype) for _ in range(3))
    return Step(lambda: torch.mm(a, b, out=into), nn.Identity(), None)


def main() -> None:
    """Serve."""
    command = local_parser(__doc__)
    command.add_argument("--task", choices=TASKS, required=True)
    command.add_argument("--methods", nargs="*", default=[], help="of a peer's task")
    options = command.parse_args()
    serve(lambda: Tasks(options, methods_of(options), lambda *task: step_of(options, *task)))


if __name__ == "__main__":
    main()
