"""A small reader of sequences with weights away from those it begins with, and its loss."""

import torch
from torch.nn import functional as F

from beyondprop.networks.sequences import SequenceReader

G, R, CLIP = 0.3, 0.7, 1e-3
TIME, BATCH, INPUTS, HIDDEN, CLASSES = 6, 3, 4, 5, 3


def made(seed=0, **options):
    torch.manual_seed(seed)
    network = SequenceReader(INPUTS, CLASSES, hidden=HIDDEN, **options).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    steps = (BATCH, TIME) if options.get("every_step") else (BATCH,)
    return network, torch.randn(BATCH, TIME, INPUTS).double(), torch.randint(CLASSES, steps)


def loss_of(scores, y):
    return F.cross_entropy(scores.flatten(0, -2), y.flatten())
