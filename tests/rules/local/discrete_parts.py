"""A small block for one time, and NoProp-DT of three of them."""

import torch
from torch import nn

from beyondprop.rules.local.noprop import ClassEmbedding, DiscreteSchedule, NoPropDT

CLASSES, FEATURES, BATCH = 3, 5, 8
LEVELS = (0.05, 0.3, 0.6, 0.9)  # signal at the start, so that the KL term counts


class SmoothBlock(nn.Module):
    """A block of our own: no dropout and no batch statistics, so that references are exact."""

    def __init__(self, dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim + FEATURES, 7), nn.Tanh(), nn.Linear(7, CLASSES))

    def forward(self, z, x):
        return self.net(torch.cat([z, x], dim=1))


def make_rule(dim=4, learned=True, **options):
    rows = torch.randn(CLASSES, dim)
    embedding = ClassEmbedding(rows, learned=learned)
    blocks = [SmoothBlock(dim) for _ in range(len(LEVELS) - 1)]
    return NoPropDT(blocks, embedding, schedule=DiscreteSchedule(LEVELS), eta=0.7, **options).double()
