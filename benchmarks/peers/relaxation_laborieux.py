"""The side of github.com/Laborieux-Axel/Equilibrium-Propagation in `relaxation_step.py`.

Nothing in its file is changed. A step is what its `train` does with one batch when `thirdphase` is on: `init_neurons`,
the free phase, both nudged phases from its end, `compute_syn_grads` and the optimizer; its records of accuracy are left
out. Stubbed are torchvision, matplotlib and its data_utils, which are not needed for that.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peers._common import check_commit

COMMIT = "93660ed6c5b0ec07978b674a69c169ce32e8cd5f"
PEER = "Laborieux-Axel/Equilibrium-Propagation@93660ed"
STUBS = ("torchvision", "matplotlib", "matplotlib.pyplot", "data_utils")


def import_peer(checkout: Path) -> Any:
    """Import its models."""
    check_commit(checkout, COMMIT)
    stubs = {name: types.ModuleType(name) for name in STUBS}
    stubs["matplotlib"].use = lambda _name: None  # type: ignore[attr-defined]
    stubs["matplotlib"].pyplot = stubs["matplotlib.pyplot"]  # type: ignore[attr-defined]
    present = {name: sys.modules[name] for name in STUBS if name in sys.modules}
    sys.path.insert(0, str(checkout))
    sys.dont_write_bytecode = True
    sys.modules.update(stubs)
    try:
        return importlib.import_module("model_utils")
    finally:
        sys.path.remove(str(checkout))
        for name in STUBS:
            del sys.modules[name]
        sys.modules.update(present)


class Theirs:
    """One of its networks with its optimizer.

    Args:
        peer: What `import_peer` gives.
        task: The network, its phases and beta; see `relaxation_step.py`.
        batch: Images and labels.
    """

    def __init__(self, peer: Any, task: Any, batch: tuple[Tensor, Tensor]) -> None:
        self.task, (self.x, self.y) = task, batch
        squash = {"steep-sigmoid": peer.my_sigmoid, "hard-sigmoid": peer.hard_sigmoid}.get(
            task.activation, peer.my_hard_sig
        )
        softmax = task.readout == "softmax"
        if task.kernel:
            count = len(task.widths)
            self.network = peer.P_CNN(
                task.image[1],
                [task.image[0], *task.widths],
                [task.kernel] * count,
                [1] * count,
                [10],
                peer.make_pools("m" * count),
                list(task.paddings),
                squash,
                softmax,
            )
        else:
            self.network = peer.P_MLP([task.image[0] * task.image[1] * task.image[2], *task.widths, 10], squash)
        loss = nn.CrossEntropyLoss if softmax else nn.MSELoss
        self.criterion = loss(reduction="none")
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-6)

    def parameters(self) -> list[Tensor]:
        """In the order of the layers."""
        return list(self.network.parameters())

    def settle(self, states: list[Tensor], steps: int, beta: float = 0.0) -> list[Tensor]:
        """Move its neurons."""
        return list(self.network(self.x, self.y, list(states), steps, beta=beta, criterion=self.criterion))

    def initial(self) -> list[Tensor]:
        """Its neurons before the first step."""
        return list(self.network.init_neurons(len(self.x), self.x.device))

    def gradients(self) -> None:
        """Write the estimate of three phases into `.grad`."""
        task = self.task
        free = self.settle(self.initial(), task.free_steps)
        kept = copies(free)
        high = copies(self.settle(free, task.nudged_steps, task.beta))
        low = copies(self.settle(kept, task.nudged_steps, -task.beta))
        self.network.compute_syn_grads(self.x, self.y, high, low, (task.beta, -task.beta), self.criterion)

    def step(self) -> None:
        """Take a step."""
        self.gradients()
        self.optimizer.step()


def copies(states: Sequence[Tensor]) -> list[Tensor]:
    """Copies that can be differentiated by, as it makes them."""
    return [torch.empty_like(state).copy_(state.data).requires_grad_() for state in states]
