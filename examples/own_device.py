"""A chip of your own in the loop: write parameters, present a batch, read a cost. That is all that training needs.

    python examples/own_device.py

The chip here is a few lines of NumPy, in the place of a driver. It shows no outputs: what it says of an image is read
from the costs that it gives for each label.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from beyondprop import ChipMGD, data

EPOCHS, BATCH, PIXELS, CLASSES = 5, 64, 64, 10


class Chip:
    """One layer of weights and biases, and a circuit that computes the mean cross-entropy."""

    size = (PIXELS + 1) * CLASSES

    def write(self, parameters: Tensor) -> None:
        """Set every weight."""
        self.parameters = parameters.numpy()

    def present(self, x: Tensor, y: Tensor) -> None:
        """Set inputs and targets."""
        self.x, self.y = x.numpy(), y.numpy()

    def read(self, perturbations: Tensor) -> list[float]:
        """Move every weight a little, read the cost, and put the weights back."""
        return [self._cost(self.parameters + moves) for moves in perturbations.numpy()]

    def _cost(self, parameters: np.ndarray) -> float:
        weights, biases = parameters[:-CLASSES].reshape(PIXELS, CLASSES), parameters[-CLASSES:]
        scores = self.x @ weights + biases
        chosen = scores[np.arange(len(scores)), self.y]
        return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - chosen))


def main(epochs: int = EPOCHS) -> float:
    """Train the chip on the digits, and return its accuracy on those held out."""
    torch.manual_seed(0)
    (x, y), (x_test, y_test) = ((part.images.flatten(1) / part.high, part.labels) for part in data.load("digits"))
    rule = ChipMGD(Chip(), classes=CLASSES, tau_x=128, code="random")
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.05)
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            cost = rule.backward(x[rows], y[rows])
            optimizer.step()
        print(f"epoch {epoch}: cost {cost:.3f}")
    accuracy = (rule(x_test).argmax(dim=1) == y_test).double().mean().item()
    print(f"test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
