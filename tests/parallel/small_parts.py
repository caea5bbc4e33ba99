"""A small rule, small data and a small recipe that several processes share out."""

import dataclasses

import torch
from torch import nn

from beyondprop.catalogue import find_recipe
from beyondprop.data import Splits, image_set
from beyondprop.rules.local.noprop import ClassEmbedding, NoPropDT
from beyondprop.rules.perturbation.layerwise import LayerwisePerturbation
from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent
from beyondprop.training import Execution

CLASSES, FEATURES = 3, 5
EXECUTION = Execution(device="cpu", threads=1, seed=3)
RECIPE = find_recipe("noprop-dt/digits")


class SmoothBlock(nn.Module):
    """No dropout and no batch statistics: a mean over the batch is a mean over its slices."""

    def __init__(self, dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim + FEATURES, 7), nn.Tanh(), nn.Linear(7, CLASSES))

    def forward(self, z, x):
        return self.net(torch.cat([z, x], dim=1))


class NoiseFree(NoPropDT):
    """Trains on the mean of the noisy labels, so that it does not matter who draws."""

    def noisy_label(self, t, y):
        return self.schedule.alpha_bar[t] ** 0.5 * self.embedding(y)


def small_rule(kind=NoPropDT, *, blocks=4, learned=False, **options):
    """The same weights in every process."""
    torch.manual_seed(0)
    embedding = ClassEmbedding(torch.randn(CLASSES, 6), learned=learned)
    rule = kind([SmoothBlock(6) for _ in range(blocks)], embedding, **options).double()
    torch.manual_seed(1)
    return rule


def small_batch(count=7):
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (count,), generator=generator)


def small_settings(**changes):
    """The paper's blocks, with dropout and batch normalisation, as small as they go."""
    chosen = {"epochs": 2, "batch_size": 16, "steps": 3, "first_width": 2, "hidden": 4, "learning_rate": 0.01}
    return type(RECIPE.settings)(**{**chosen, "lr_schedule": "one-cycle", "dropout": 0.2, **changes})


def small_splits():
    """72 images to train on: the last batch of an epoch is a smaller one."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (96, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = images[:, 0, 0, 0].long() % CLASSES
    return Splits(image_set(images[:72], labels[:72]), image_set(images[72:], labels[72:]))


def small_network():
    """With statistics that move, and the same weights in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, CLASSES)).double()


def small_plain_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, CLASSES)).double()


EVALUATING = {
    "mgd": lambda: MultiplexedGradientDescent(small_network(), tau_x=10, cost_noise=0.01),
    "few": lambda: MultiplexedGradientDescent(small_network(), tau_x=1),
    "nodes": lambda: LayerwisePerturbation(small_plain_network(), steps=4),
    "weights": lambda: LayerwisePerturbation(small_plain_network(), perturb="weights", steps=4, cost_noise=0.01),
}
SEEDS = dataclasses.replace(find_recipe("mgd/digits").settings, epochs=2, batch_size=16, hidden=4, tau_x=8)
