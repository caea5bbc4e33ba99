"""Small networks that settle, in float64, and slow oracles of them, written with autograd alone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.layers.hard_sigmoid import SteepSigmoid


def shrunk(layers: nn.Sequential, gain: float) -> nn.Sequential:
    """With weights so small that it settles fast."""
    with torch.no_grad():
        for parameter in layers.parameters():
            if parameter.ndim > 1:
                parameter.mul_(gain)
    return layers.double()


def perceptron(seed: int = 0, *, output: nn.Module | None = None, gain: float = 1.0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3)]
    return shrunk(nn.Sequential(*layers, *([] if output is None else [output])), gain)


def convolutional(
    seed: int = 0, *, gain: float = 1.0, smooth: bool = False, squash: type[nn.Module] = nn.Tanh
) -> nn.Sequential:
    """Every kind of stage that has no state of its own; pools that overlap and are padded.

    With max-pooling Phi has kinks: there may be several fixed points, and none where states above a pool are negative.
    `smooth` takes the mean instead, and another `squash` keeps those states positive.
    """
    pool = nn.AvgPool2d if smooth else nn.MaxPool2d
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        pool(2),
        SteepSigmoid(),
        nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), pool(3, stride=2, padding=1)),
        squash(),
        pool((2, 1), stride=1),
        nn.Conv2d(6, 4, (1, 2), bias=False),
        nn.Sigmoid(),
        nn.AvgPool2d((2, 1), stride=1, padding=(1, 0)),
        nn.Flatten(),
        nn.Linear(8, 7),
        squash(),
        nn.Linear(7, 3),
    )
    return shrunk(layers, gain)


def batch(*size: int, count: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, *size, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (count,), generator=generator)


CASES = {
    "perceptron": (perceptron, (4,)),
    "convolutional": (convolutional, (1, 14, 14)),
}


class Oracle:
    """Phi of a sequence of layers, cut behind its activations, and all that follows from it by autograd."""

    def __init__(self, layers: nn.Sequential, readout: str) -> None:
        self.parts: list[tuple[nn.Sequential, nn.Module]] = []
        part: list[nn.Module] = []
        leaves = [leaf for leaf in layers.modules() if not any(leaf.children())]
        for layer in leaves:
            if isinstance(layer, nn.Tanh | nn.Sigmoid | SteepSigmoid | nn.ReLU | nn.Hardtanh):
                self.parts.append((nn.Sequential(*part), layer))
                part = []
            else:
                part.append(layer)
        self.last = nn.Sequential(*part)
        self.squared = readout == "squared"
        if self.squared and part:
            self.parts.append((self.last, nn.Identity()))

    def phi(self, x: Tensor, states: list[Tensor]) -> Tensor:
        below = [x, *states[:-1]]
        terms = [(part(s) * t).flatten(1).sum(1) for (part, _), s, t in zip(self.parts, below, states, strict=True)]
        return sum(terms)

    def loss(self, states: list[Tensor], y: Tensor) -> Tensor:
        if self.squared:
            return 0.5 * (states[-1] - F.one_hot(y, 3)).square().sum(1)
        return F.cross_entropy(self.last(states[-1]), y, reduction="none")

    def step(self, x: Tensor, states: list[Tensor], y: Tensor | None = None, beta: float = 0.0) -> list[Tensor]:
        held = [state.detach().requires_grad_() for state in states]
        total = self.phi(x, held) - (beta * self.loss(held, y) if y is not None else 0)
        slopes = torch.autograd.grad(total.sum(), held)
        return [squash(slope) for (_, squash), slope in zip(self.parts, slopes, strict=True)]

    def settle(self, x: Tensor, shapes, steps: int = 400) -> list[Tensor]:
        states = [torch.zeros(len(x), *shape, dtype=x.dtype) for shape in shapes]
        for _ in range(steps):
            states = self.step(x, states)
        return states

    def implicit(self, x: Tensor, y: Tensor, shapes, parameters: list[nn.Parameter]) -> list[Tensor]:
        """The gradient of the mean loss at the fixed point, by the implicit function theorem: a linear system."""
        star = self.settle(x, shapes)
        sizes = [state.numel() for state in star]

        def unpack(flat: Tensor) -> list[Tensor]:
            return [part.view_as(state) for part, state in zip(flat.split(sizes), star, strict=True)]

        def move(flat: Tensor) -> Tensor:
            states = unpack(flat)
            slopes = torch.autograd.grad(self.phi(x, states).sum(), states, create_graph=True)
            return torch.cat([squash(s).flatten() for (_, squash), s in zip(self.parts, slopes, strict=True)])

        flat = torch.cat([state.flatten() for state in star])
        jacobian = torch.autograd.functional.jacobian(move, flat)
        held = flat.clone().requires_grad_()
        loss = self.loss(unpack(held), y).mean()
        slope = torch.autograd.grad(loss, held, retain_graph=True)[0]
        adjoint = torch.linalg.solve(torch.eye(len(flat), dtype=flat.dtype) - jacobian.T, slope)
        through = torch.autograd.grad(move(held), parameters, adjoint, allow_unused=True, materialize_grads=True)
        direct = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return [a + b for a, b in zip(through, direct, strict=True)]


def gradients(rule, x: Tensor, y: Tensor) -> list[Tensor]:
    """What a rule writes into `.grad`."""
    rule.zero_grad()
    rule.backward(x, y)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in rule.parameters()]


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """|found - expected| / |expected|, all parameters as one vector."""
    a, b = (torch.cat([part.flatten() for part in parts]) for parts in (found, expected))
    return float((a - b).norm() / b.norm())
