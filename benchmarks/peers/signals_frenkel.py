"""The side of github.com/ChFrenkel/DirectRandomTargetProjection in `signals_step.py`; nothing in its files is changed.

Its networks are built by its `models.NetworkBuilder`, which here are the same layers as ours: tanh, and a linear output
under cross-entropy. A step is its own `train.train_epoch` over a loader of one batch. From here: `tqdm`, its progress
bar, is stubbed; under bf16 the step runs in autocast, its backward pass as well, which its feedback needs. Its mode
`shallow`, which trains the last layer alone, has no counterpart.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import torch
from _common import CLASSES
from _signals import CHANNELS, DEPTH, KERNEL, convolutions_last, optimizer_of, signals_parser
from _steps import Step, random_batch, serve_peer
from torch.nn import functional as F

COMMIT = "b84e3fe965bf98b8531f3036604cbe16424a5cc6"
METHODS = ("BP", "FA", "DFA", "sDFA", "DRTP")


def import_peer(checkout: Path) -> Any:
    """Import its training, tqdm stubbed meanwhile."""
    stub = types.ModuleType("tqdm")
    stub.tqdm = lambda loader: loader  # type: ignore[attr-defined]
    sys.modules["tqdm"] = stub
    sys.path.insert(0, str(checkout))
    sys.dont_write_bytecode = True
    try:
        return importlib.import_module("train")
    finally:
        del sys.modules["tqdm"]


def topology(options: argparse.Namespace) -> str:
    """Write the network down as its command line has it."""
    hidden = f"FC_{options.hidden}_"
    if options.network == "convolutional":
        return f"CONV_{CHANNELS}_{KERNEL}_1_{KERNEL // 2}_{hidden}FC_{CLASSES}"
    return f"{hidden * DEPTH}FC_{CLASSES}"


def step_of(peer: Any, options: argparse.Namespace, method: str, precision: str, switches: bool) -> Step:
    """Make a step."""
    cpu = torch.device("cpu")
    module = peer.models.NetworkBuilder(
        topology(options),
        input_size=options.image[-1],
        input_channels=options.image[0],
        label_features=CLASSES,
        train_batch_size=options.batch,
        train_mode=method,
        dropout=0,
        conv_act="tanh",
        hidden_act="tanh",
        output_act="none",
        fc_zero_init=False,
        loss="CE",
        device=cpu,
    )
    if switches:
        convolutions_last(module)
    optimizer = optimizer_of(module.parameters(), fused=switches)
    loader = [random_batch(options, channels_last=switches)]
    settings = argparse.Namespace(freeze_conv_layers=False, regression=False, label_features=CLASSES)
    loss = (F.cross_entropy, lambda targets: torch.max(targets, 1)[1])  # as its `train` has it for CE

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            peer.train_epoch(settings, module, cpu, loader, optimizer, loss)

    return Step(step, module, optimizer)


if __name__ == "__main__":
    serve_peer(signals_parser(__doc__), COMMIT, METHODS, import_peer, step_of)
