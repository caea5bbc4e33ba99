"""The side of github.com/orobix/fwdgrad in `perturbation_step.py`; nothing in its files is changed.

`"weights"` is one step of its `mnist_fwdgrad.py` on its network, by its own functional loss: a random direction for
every parameter, the loss and its change by `torch.func.jvp`, their product as the gradient, and SGD. The script itself
cannot be imported, for it runs under hydra: the body of its loop is written here as it stands there, without its
TensorBoard and its learning rate's schedule.

From here: under bf16 all runs in autocast.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import math
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from _common import CLASSES
from _perturbation import SGD, perturbation_parser
from _steps import Step, random_batch, serve_peer

COMMIT = "300af55420592916637a3e131a12a2a685ae8433"
METHODS = ("weights",)


def import_peer(checkout: Path) -> Any:
    """Import its network and its loss."""
    sys.path.insert(0, str(checkout))
    sys.dont_write_bytecode = True
    loss, model = (importlib.import_module(f"fwdgrad.{name}") for name in ("loss", "model"))
    return SimpleNamespace(loss=loss.functional_xent, network=model.NeuralNet)


def step_of(peer: Any, options: argparse.Namespace, method: str, precision: str, switches: bool) -> Step:
    """Make a step; the switch is torch's fused optimizer."""
    del method
    x, y = random_batch(options, channels_last=False)
    x = x.flatten(1)
    network = peer.network(math.prod(options.image), [options.hidden] * 2, CLASSES)
    optimizer = torch.optim.SGD(network.parameters(), **SGD, fused=switches or None)
    named = dict(network.named_parameters())
    buffers, empty = dict(network.named_buffers()), copy.deepcopy(network).to("meta")

    @torch.no_grad()
    def step() -> None:
        directions = tuple(torch.randn_like(p) for p in named.values())
        loss = partial(peer.loss, model=empty, names=named.keys(), buffers=buffers, x=x, t=y)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            _, change = torch.func.jvp(loss, (tuple(named.values()),), (directions,))
        for direction, parameter in zip(directions, named.values(), strict=True):
            parameter.grad = direction * change
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Step(step, network, optimizer)


if __name__ == "__main__":
    serve_peer(perturbation_parser(__doc__), COMMIT, METHODS, import_peer, step_of)
