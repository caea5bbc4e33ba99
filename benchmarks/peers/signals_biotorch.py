"""The side of github.com/jsalbert/biotorch in `signals_step.py`; nothing in its files is changed.

The network is ours, in torch's own layers, which its `BioModule` replaces by its own. A step is what its
`training.functions.train` does with a batch, in that order, without its metrics. torchvision, which other parts of the
package need for their data sets, is not used by these. Under bf16 the step runs in autocast, its backward pass as well,
which its feedback needs.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from _signals import convolutions_last, optimizer_of, signals_parser
from _steps import Step, random_batch, serve_peer
from signals_ours import CLASSES, network_of
from torch import nn

COMMIT = "74fad0dd32529e754e4bba8298d4e0fd0a06a886"
METHODS = ("fa", "dfa", "usf", "frsf", "brsf")


def import_peer(checkout: Path) -> Any:
    """Import its converter of modules."""
    sys.path.insert(0, str(checkout))
    sys.dont_write_bytecode = True
    return importlib.import_module("biotorch.module.biomodule")


def step_of(peer: Any, options: argparse.Namespace, method: str, precision: str, switches: bool) -> Step:
    """Make a step."""
    module = peer.BioModule(network_of(options), mode=method, output_dim=CLASSES)
    if switches:
        convolutions_last(module)
    optimizer = optimizer_of(module.parameters(), fused=switches)
    x, y = random_batch(options, channels_last=switches)
    loss_function = nn.CrossEntropyLoss()
    module.train()

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            outputs = module(x, y, loss_function) if method == "dfa" else module(x)
            loss = loss_function(outputs, y)
            module.zero_grad()
            loss.backward()
            optimizer.step()

    return Step(step, module, optimizer)


if __name__ == "__main__":
    serve_peer(signals_parser(__doc__), COMMIT, METHODS, import_peer, step_of)
