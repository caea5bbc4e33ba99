"""Small images of three classes, and a small ResCNet for them."""

import torch
from torch.nn import functional as F

from beyondprop.solvers.rescnet.network import ResCNet

CLASSES = 3


def images(count=60, dtype=torch.float64, channels=2, side=6):
    generator = torch.Generator().manual_seed(4)
    y = torch.arange(count) % CLASSES
    x = torch.randn(count, channels, side, side, generator=generator, dtype=dtype)
    x[:, 0, 1, :CLASSES] += 2 * F.one_hot(y, CLASSES)
    return x, y


def network(**options):
    chosen = {"layers": 4, "filters": 8, "carry": 3, "held_out": 0.0, "ridge": 0.05, "seed": 0} | options
    return ResCNet((2, 6, 6), CLASSES, **chosen).double()


def close(found, wanted, atol=1e-9):
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol, check_dtype=False)
