"""What the sides of `signals_step.py` and `local_step.py` share: training steps that are timed and counted."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _common import CLASSES, check_commit, serve
from torch import Tensor, nn
from torch.optim import Optimizer

from beyondprop.measure import peak_live_bytes, peak_saved_bytes

PRECISIONS = ("float32", "bf16")


@dataclass
class Step:
    """One side's training step on one batch, ready to be taken.

    Attributes:
        take: zero_grad, the forward pass, the rule, the optimizer's step.
        module: Holds all that is trained, and fixed feedback too.
        optimizer: Of the same; None where a peer subtracts its gradients itself.
        trained: How many numbers are trained; None: the module's parameters that require gradients.
    """

    take: Callable[[], object]
    module: nn.Module
    optimizer: Optimizer | None
    trained: int | None = None


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
            live = peak_live_bytes(step.take, step.module, *filter(None, [step.optimizer]))
            self.facts["methods"][method] = {
                "precisions": [precision for precision in PRECISIONS if self.works(method, precision)],
                "trained_parameters": trained(step),
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


def trained(step: Step) -> int:
    """Count what a step trains."""
    if step.trained is not None:
        return step.trained
    return sum(p.numel() for p in step.module.parameters() if p.requires_grad)


def serve_peer(
    command: argparse.ArgumentParser,
    commit: str,
    methods: Iterable[str],
    import_peer: Callable[[Path], Any],
    step_of: Callable[[Any, argparse.Namespace, str, str, bool], Step],
) -> None:
    """Serve the steps of a peer, of which the command line names a clone.

    Args:
        command: The command line, to which `--checkout` and `--methods` are added.
        commit: That the clone must stand at.
        methods: Names of the peer's rules.
        import_peer: Imports the peer from the clone.
        step_of: Makes a step of the peer: as `make` of `Tasks`, behind the peer and the command line.
    """
    command.add_argument("--checkout", type=Path, required=True, help=f"a clone at commit {commit}")
    command.add_argument("--methods", nargs="+", default=list(methods), help="those to serve")
    options = command.parse_args()
    check_commit(options.checkout, commit)
    warnings.simplefilter("ignore")  # peers use what torch calls deprecated
    peer = import_peer(options.checkout)
    serve(lambda: Tasks(options, options.methods, lambda *task: step_of(peer, options, *task), commit=commit))
