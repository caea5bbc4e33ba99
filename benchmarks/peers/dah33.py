"""The side of github.com/dah33/explore_forward_forward in `local_step.py`; nothing in its files is changed.

Its `ff_hinton.py` is a script. Here it is taken apart by its syntax tree: all but its printing and its loop over epochs
is run, which makes its network 784-500-500 and its optimizer, Adam; a step is the body of that loop, which goes over
its loader: a scan of ten classes for hard negatives, then each layer's own loss, step and second pass. So its second
layer sees the first one's output after that layer's step, ours before it. In the methods that end in `loader` the
loader is its own; in others a list of one batch.

From here: its module `mnist`, which reads preprocessed files, becomes random images; the learning rate is another,
so that random images are no trouble, which is of no matter for time. Under bf16 the step runs in autocast.
"""

from __future__ import annotations

import argparse
import ast
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from _local import ADAM, LOADER, local_parser
from _steps import Step, random_batch, serve_peer

COMMIT = "55c5395d433e72dd7b9111c935d1c2105bc4fa20"
LOSSES = {"ff": "hinton_loss", "symba": "symba_loss"}
METHODS = (*LOSSES, *(f"{method} {LOADER}" for method in LOSSES))


@dataclass(frozen=True)
class Script:
    """Its script, compiled.

    Attributes:
        preparation: Makes its functions, network and optimizer.
        epoch: One pass over `train_loader`.
    """

    preparation: CodeType
    epoch: CodeType


def import_peer(checkout: Path) -> Script:
    """Take its script apart."""
    sys.path.insert(0, str(checkout))
    sys.dont_write_bytecode = True
    source = checkout / "ff_hinton.py"
    body = ast.parse(source.read_text(encoding="utf-8")).body
    (epochs,) = (part for part in body if isinstance(part, ast.For))
    (epoch,) = (part for part in epochs.body if isinstance(part, ast.For))
    rest = [part for part in body if not isinstance(part, (ast.For, ast.Expr))]

    def compiled(parts: list[ast.stmt]) -> CodeType:
        return compile(ast.Module(parts, type_ignores=[]), str(source), "exec")

    return Script(compiled(rest), compiled([epoch]))


def step_of(peer: Script, options: argparse.Namespace, method: str, precision: str, switches: bool) -> Step:
    """Make a step."""
    x, y = random_batch(options, channels_last=False)
    data = types.ModuleType("mnist")
    data.__dict__.update(train_x=x, train_y=y, test_x=x, test_y=y)
    sys.modules["mnist"] = data
    names: dict[str, Any] = {"__name__": "ff_hinton"}
    exec(peer.preparation, names)
    names["loss_fn"] = names[LOSSES[method.removesuffix(f" {LOADER}")]]
    names["optimiser"] = torch.optim.Adam(names["model"].parameters(), **ADAM, fused=switches or None)
    if not method.endswith(LOADER):
        names["train_loader"] = [(x, y)]

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            exec(peer.epoch, names)

    return Step(step, names["model"], names["optimiser"])


if __name__ == "__main__":
    serve_peer(local_parser(__doc__), COMMIT, METHODS, import_peer, step_of)
