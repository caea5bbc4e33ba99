"""What the sides of `signals_step.py` share: the networks, the optimizer, and steps that are timed and counted."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _common import CLASSES, check_commit, parser, serve
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from beyondprop.measure import peak_live_bytes, peak_saved_bytes

NETWORKS = ("perceptron", "convolutional")
PRECISIONS = ("float32", "bf16")
SWITCHES = ("on", "off")
DEPTH = 2
HIDDEN = 1000
CHANNELS, KERNEL = 32, 5  # of the convolution


@dataclass
class Step:
    """One side's training step on one batch, ready to be taken.

    Attributes:
        take: zero_grad, the forward pass, the rule, the optimizer's step.
        module: Holds all that is trained, and fixed feedback too.
        optimizer: Of the same.
    """

    take: Callable[[], object]
    module: nn.Module
    optimizer: Optimizer


def signals_parser(doc: str | None) -> argparse.ArgumentParser:
    """Make the command line that all sides have."""
    made = parser(doc)
    made.add_argument("--network", choices=NETWORKS, default=NETWORKS[0])
    made.add_argument("--hidden", type=int, default=HIDDEN, help="width of the hidden layers")
    return made


def optimizer_of(parameters: Any, *, fused: bool) -> SGD:
    """Make the optimizer that all sides have; the peer whose rules these are has it by default."""
    return SGD(parameters, lr=1e-4, momentum=0.9, nesterov=True, fused=fused or None)


def convolutions_last(module: nn.Module) -> None:
    """Put a peer's convolutions in channels_last; feedback weights of its own must stay as they are for its views."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=torch.channels_last)


def random_batch(options: argparse.Namespace, *, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Make random images and labels."""
    x, y = torch.randn(options.batch, *options.image), torch.randint(CLASSES, (options.batch,))
    return (x.to(memory_format=torch.channels_last) if channels_last else x), y


class Tasks:
    """A side whose tasks are `"METHOD | PRECISION | SWITCHES"`, by what makes their steps.

    Every task is made anew when it is asked for, so that only one network is alive at a time.

    Args:
        options: The command line.
        methods: Names.
        make: Makes the step of a method, its precision given, and whether torch's switches for speed are to be on:
            the fused optimizer, and channels_last for images.
        facts: What else the result should know.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        methods: Iterable[str],
        make: Callable[[str, str, bool], Step],
        **facts: Any,
    ) -> None:
        torch.set_num_threads(options.threads)
        self.make = make
        self.facts: dict[str, Any] = {"torch": torch.__version__, **facts, "methods": {}}
        for method in methods:
            step = self.made(method, PRECISIONS[0], switches=False)
            step.take()
            live = peak_live_bytes(step.take, step.module, step.optimizer)
            self.facts["methods"][method] = {
                "precisions": [precision for precision in PRECISIONS if self.works(method, precision)],
                "trained_parameters": sum(p.numel() for p in step.module.parameters() if p.requires_grad),
                "peak_memory_bytes": live["total"],
                "peak_activation_bytes": live["highest_activations"],
                "peak_saved_for_backward_bytes": peak_saved_bytes(step.take, step.module),
            }

    def works(self, method: str, precision: str) -> bool:
        """Tell whether a step can be taken; a peer's own backward pass may not know bf16."""
        try:
            for switches in (False, True):
                self.made(method, precision, switches=switches).take()
        except RuntimeError as error:
            print(f"{method} has no step in {precision}: {str(error).splitlines()[0]}", file=sys.stderr)
            return False
        return True

    def task(self, name: str) -> Callable[[], object]:
        """See `_common.Side`."""
        method, precision, switches = name.split(" | ")
        return self.made(method, precision, switches=switches == "on").take

    def made(self, method: str, precision: str, *, switches: bool) -> Step:
        """Make a step from the seed that all have."""
        torch.manual_seed(0)
        return self.make(method, precision, switches)


def serve_peer(
    doc: str | None,
    commit: str,
    methods: Iterable[str],
    import_peer: Callable[[Path], Any],
    step_of: Callable[[Any, argparse.Namespace, str, str, bool], Step],
) -> None:
    """Serve the steps of a peer, of which the command line names a clone.

    Args:
        doc: Of the script.
        commit: That the clone must stand at.
        methods: Names of the peer's rules.
        import_peer: Imports the peer from the clone.
        step_of: Makes a step of the peer: as `make` of `Tasks`, behind the peer and the command line.
    """
    command = signals_parser(doc)
    command.add_argument("--checkout", type=Path, required=True, help=f"a clone at commit {commit}")
    options = command.parse_args()
    check_commit(options.checkout, commit)
    warnings.simplefilter("ignore")  # peers use what torch calls deprecated
    peer = import_peer(options.checkout)
    serve(lambda: Tasks(options, methods, lambda *task: step_of(peer, options, *task), commit=commit))
