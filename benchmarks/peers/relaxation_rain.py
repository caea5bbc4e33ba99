"""The side of github.com/rain-neuromorphics/energy-based-learning in `relaxation_step.py`.

Nothing in its files is changed. A step is what the loop of its `Trainer` does with one batch under centered equilibrium
propagation: the free phase, `compute_gradient`, SGD with momentum; its statistics are left out. The network is its
`ConvHopfieldEnergy28` for MNIST, whose states are zero before every step here: its loop goes on from those of the last
batch.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peers._common import check_commit

COMMIT = "6b253fd8a5d267535f58ab79992256ef10031ceb"
PEER = "rain-neuromorphics/energy-based-learning@6b253fd"
MODULES = (
    *("model.hopfield.network", "model.hopfield.minimizer", "model.function.network", "model.function.cost"),
    "training.sgd",
)


def import_peer(checkout: Path) -> dict[str, Any]:
    """Import its library."""
    check_commit(checkout, COMMIT)
    sys.path.insert(0, str(checkout))
    sys.dont_write_bytecode = True
    try:
        return {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(checkout))


class Theirs:
    """Its network with its optimizer.

    Args:
        peer: What `import_peer` gives.
        task: The phases and beta; see `relaxation_step.py`.
        batch: Images and labels.
    """

    def __init__(self, peer: dict[str, Any], task: Any, batch: tuple[Tensor, Tensor]) -> None:
        self.x, self.y = batch
        self.energy = peer["model.hopfield.network"].ConvHopfieldEnergy28(1, *task.widths, 10)
        self.energy.set_device("cpu")
        self.cost = peer["model.function.cost"].SquaredError(self.energy.layers()[-1])
        self.network = peer["model.function.network"].Network(self.energy)
        minimizer = peer["model.hopfield.minimizer"].FixedPointMinimizer
        free = self.network.free_layers()
        self.settling = minimizer(self.energy, free, task.free_steps, "asynchronous")
        augmented = peer["training.sgd"].AugmentedFunction(self.energy, self.cost)
        nudged = minimizer(augmented, free, task.nudged_steps, "asynchronous")
        self.estimator = peer["training.sgd"].EquilibriumProp(
            self.energy.params(), self.energy.layers(), augmented, self.cost, nudged, "centered", task.beta
        )
        self.optimizer = torch.optim.SGD([param.state for param in self.energy.params()], lr=1e-6, momentum=0.9)

    def parameters(self) -> list[Tensor]:
        """Weights and biases in the order of the layers."""
        biases, weights = self.energy.params()[:3], self.energy.params()[3:]
        return [part.state for pair in zip(weights, biases, strict=True) for part in pair]

    def gradients(self) -> None:
        """Write the centered estimate into `.grad`."""
        self.network.set_input(self.x, reset=True)
        self.settling.compute_equilibrium()
        self.cost.set_target(self.y)
        for param, gradient in zip(self.energy.params(), self.estimator.compute_gradient(), strict=True):
            param.state.grad = gradient

    def step(self) -> None:
        """Take a step."""
        self.gradients()
        self.optimizer.step()
