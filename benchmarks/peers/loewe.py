"""The side of github.com/loeweX/Forward-Forward in `local_step.py`; nothing in its files is changed.

A step is its own `main.train` over a loader of one batch, for one epoch: its model, its optimizer, peer normalisation,
the linear classifier on top, and the noting of its scalars, which it does at each step. Settings are those of its
`config.yaml`. The batch's three inputs (true class, wrong class, no class) are made by its own data set before the
clock starts, which is to its advantage: ours makes them in the step. In the method `"ff loader"` its own `DataLoader`
makes them, with its four workers, as in its training.

From here: hydra and omegaconf, which read the configuration, are stubbed, and so is torchvision, whose MNIST becomes
random images that are tensors already; `get_data` gives the one batch, and nothing is printed. Under bf16
the step runs in autocast.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _local import HELD, LOADER, LOEWE, LOEWE_READOUT, PEER, local_parser
from _steps import Step, random_batch, serve_peer
from torch import Tensor
from torch.utils.data import default_collate

COMMIT = "da516f094c70a4a92042fbbc7ab33303aa7dbfd9"
METHODS = ("ff", f"ff {LOADER}")


class Images:
    """Stands for torchvision's MNIST.

    Args:
        x: Images, drawn upon again and again.
        y: Their classes.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y.tolist()

    def __len__(self) -> int:
        return HELD

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place = index % len(self.y)
        return self.x[place].clone(), self.y[place]  # its data set writes upon what it gets


class OneBatch:
    """A loader whose epoch is one batch.

    Args:
        batches: Where it comes from.
    """

    def __init__(self, batches: Iterator[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        yield next(self.batches)


def import_peer(checkout: Path) -> Any:
    """Import its training, with stubs meanwhile for what it does not need here."""
    stubs = {name: types.ModuleType(name) for name in ("hydra", "hydra.utils", "omegaconf", "torchvision")}
    stubs["hydra"].main = lambda **_: lambda function: function  # type: ignore[attr-defined]
    stubs["hydra.utils"].get_original_cwd = str  # type: ignore[attr-defined]
    stubs["omegaconf"].DictConfig = stubs["omegaconf"].OmegaConf = None  # type: ignore[attr-defined]
    sys.modules.update(stubs)
    sys.path.insert(0, str(checkout))
    sys.dont_write_bytecode = True
    try:
        peer = importlib.import_module("main")
        peer.own_get_data = peer.utils.get_data  # `step_of` replaces it
        peer.utils.print_results = peer.utils.print = lambda *_, **__: None
        return peer
    finally:
        for name in stubs:
            del sys.modules[name]


def configuration(options: argparse.Namespace) -> Any:
    """Its `config.yaml`, with the sizes of the command line."""
    new = types.SimpleNamespace
    return new(
        seed=42,
        device="cpu",
        input=new(path="", batch_size=options.batch),
        model=new(peer_normalization=PEER, momentum=0.9, hidden_dim=options.hidden, num_layers=options.depth),
        training=new(
            epochs=1,
            learning_rate=LOEWE["lr"],
            weight_decay=LOEWE["weight_decay"],
            momentum=LOEWE["momentum"],
            downstream_learning_rate=LOEWE_READOUT["lr"],
            downstream_weight_decay=LOEWE_READOUT["weight_decay"],
            val_idx=-1,
            final_test=False,
        ),
    )


def step_of(peer: Any, options: argparse.Namespace, method: str, precision: str, switches: bool) -> Step:
    """Make a step."""
    settings = configuration(options)
    images = Images(*random_batch(options, channels_last=False))
    peer.utils.torchvision.datasets = types.SimpleNamespace(MNIST=lambda *_, **__: images)
    peer.utils.torchvision.transforms = types.SimpleNamespace(ToTensor=lambda: None)
    if method.endswith(LOADER):
        batches = OneBatch(endless(peer.own_get_data(settings, "train")))
    else:
        made = peer.utils.ff_mnist.FF_MNIST(settings, "train")
        batches = OneBatch(endless([default_collate([made[place] for place in range(options.batch)])]))
    peer.utils.get_data = lambda *_: batches
    model, optimizer = peer.utils.get_model_and_optimizer(settings)
    if switches:
        kept = ("params", *LOEWE)
        groups = [{name: group[name] for name in kept} for group in optimizer.param_groups]
        optimizer = torch.optim.SGD(groups, fused=True)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            peer.train(settings, model, optimizer)

    return Step(step, model, optimizer)


def endless(loader: Any) -> Iterator[Any]:
    """Go over a loader again and again."""
    while True:
        yield from loader


if __name__ == "__main__":
    serve_peer(local_parser(__doc__), COMMIT, METHODS, import_peer, step_of)
