"""The side of github.com/yhgon/NoProp (PyTorch, CT only) in `noprop_timed.py`; nothing in its files is changed.

Its script `src/nopropct_mnist.py` is imported with torchvision stubbed (it is for data sets and ResNets). Of its model
the label, time and fusion paths are the paper's with two batch normalisations more, which become the identity; its
`ResNetBackbone` gives way to the paper's convolutions, in the paper's order of layers. That is exactly the paper's
block. The training step, the optimizer's settings and both ways to predict are its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import CLASSES, DROPOUT, HIDDEN, LEARNING, check_commit, parser, serve
from torch import nn

COMMIT = "928332455c01d2be0c1a3fc88b48701de6e508ef"
POSITIONS = 64


def import_peer(checkout: Path) -> Any:
    """Import its script, torchvision stubbed meanwhile."""
    source = checkout / "src" / "nopropct_mnist.py"
    spec = importlib.util.spec_from_file_location("yhgon_nopropct", source)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{source} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    names = ("torchvision", "torchvision.transforms", "torchvision.models")
    sys.modules.update({name: types.ModuleType(name) for name in names})
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
    finally:
        for name in names:
            del sys.modules[name]
    return module


def image_path(image: tuple[int, int, int]) -> nn.Sequential:
    """The paper's convolutions (arXiv 2503.24322, Figure 6) in stock modules."""
    channels, height, width = image
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(DROPOUT),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(DROPOUT),
        nn.Flatten(),
        nn.Linear(128 * (height // 4) * (width // 4), HIDDEN),
        nn.ReLU(),
    )


class Peer:
    """Its model with the paper's block, and what it does with it."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        self.module = import_peer(options.checkout)
        self.module.ResNetBackbone = lambda *_: image_path(options.image)
        self.model = self.module.NoPropCT("the paper's", CLASSES, POSITIONS, HIDDEN)
        layers = self.model.fuse.net
        for place, layer in enumerate(layers):
            if isinstance(layer, nn.BatchNorm1d):
                layers[place] = nn.Identity()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **LEARNING)
        self.x, self.y = torch.randn(options.batch, *options.image), torch.randint(CLASSES, (options.batch,))
        parts = (self.model.backbone, self.model.z_enc, self.model.t_enc, self.model.fuse)
        count = sum(p.numel() for part in parts for p in part.parameters())
        self.facts: dict[str, Any] = {"block_parameters": count, "commit": COMMIT, "torch": torch.__version__}

    def task(self, name: str) -> Callable[[], object]:
        """See `_common.Side`."""
        if name == "train":
            return self.train_step
        method, steps = name.split()
        ways = {
            "euler": self.module.run_noprop_ct_inference,
            "heun": self.module.run_noprop_ct_inference_heun,
        }
        return lambda: ways[method](self.model, self.x, int(steps))

    def train_step(self) -> None:
        """Take its own step."""
        self.model.train()
        self.module.train_step(self.model, self.x, self.y, self.optimizer, torch.device("cpu"))


def main() -> None:
    """Serve."""
    command = parser(__doc__)
    command.add_argument("--checkout", type=Path, required=True, help=f"a clone at commit {COMMIT}")
    options = command.parse_args()
    check_commit(options.checkout, COMMIT)
    serve(lambda: Peer(options))


if __name__ == "__main__":
    main()
