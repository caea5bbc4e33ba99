"""The side of github.com/Graph-ZKY/CaFo in `local_step.py`; nothing in its files is changed.

`"predictor"` is its `Block.train_gradient_descent` by cross-entropy for some full-batch steps on given features, with
the two losses that it computes at each. `"blocks"` is its `CaFo.train_layer_optimization`: features of its three
blocks, that many steps of each one's predictor, and what they predict at the end, of two test images beside.

From here: it runs on CUDA alone, so `Tensor.cuda` gives the tensor itself, and in its module `block` `torch.ones`
forgets the device; `tqdm` is stubbed, and nothing is printed. Under bf16 all runs in autocast.
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
from _local import CAFO_STEP, first_features, local_parser
from _steps import Step, random_batch, serve_peer
from torch import Tensor, nn

COMMIT = "b2cccf3a93258bf115f2285f217c7135fcda6c79"
METHODS = ("predictor", "blocks")


class TorchOnCPU:
    """`torch` as its module `block` sees it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def ones(*arguments: Any, device: object = None, **options: Any) -> Tensor:
        """Make ones, wherever they are wanted."""
        del device
        return torch.ones(*arguments, **options)


def import_peer(checkout: Path) -> Any:
    """Import its model, tqdm stubbed meanwhile, and let it run without CUDA."""
    stub = types.ModuleType("tqdm")
    stub.tqdm = lambda loader: loader  # type: ignore[attr-defined]
    sys.modules["tqdm"] = stub
    sys.path.insert(0, str(checkout))
    sys.dont_write_bytecode = True
    try:
        peer = importlib.import_module("model")
        block = importlib.import_module("block")
        block.torch = TorchOnCPU()  # type: ignore[attr-defined]
        peer.print = block.print = lambda *_: None  # type: ignore[attr-defined]
    finally:
        del sys.modules["tqdm"]
    Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    return peer


def step_of(peer: Any, options: argparse.Namespace, method: str, precision: str, switches: bool) -> Step:
    """Make a step; the switches change nothing, for it has no optimizer."""
    del switches
    x, y = random_batch(options, channels_last=False)
    if method == "predictor":
        size = first_features(options.image)
        features = torch.randn(options.batch, size)
        block = peer.Block("CE", CLASSES, options.epochs, 1, nn.Identity(), size, CAFO_STEP, 0.0)
        take, module, sizes = lambda: block.train_gradient_descent(features, y), block, [size]
    else:
        channels, side, _ = options.image
        network = peer.construct_CaFo("", "CE", CLASSES, options.epochs, 1, channels, side)
        few = x[:2].clone()
        take, module = lambda: network.train_layer_optimization(x, y, few), nn.ModuleList(network.layers)
        sizes = [layer.out_features for layer in network.layers]

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            take()

    return Step(step, module, None, trained=CLASSES * sum(sizes))


if __name__ == "__main__":
    serve_peer(local_parser(__doc__), COMMIT, METHODS, import_peer, step_of)
