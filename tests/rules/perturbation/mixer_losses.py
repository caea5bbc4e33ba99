"""A small mixer, and its local losses written out with a replica for each patch and group."""

import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.networks.local_mixer import LocalMixer
from beyondprop.rules.perturbation.local_forward_gradient import LocalForwardGradient

SIDE, CHANNELS, GROUPS, CLASSES = 2, 6, 2, 3
PATCHES = SIDE**2
LOSSES = ("global", "added", "block", "block+patch", "block+group", "block+patch+group")


def make(count=2, blocks=2, network=LocalMixer):
    torch.manual_seed(0)
    sizes = {"blocks": blocks, "side": SIDE, "channels": CHANNELS, "groups": GROUPS}
    made = network((1, 4, 4), CLASSES, **sizes).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made, torch.randn(count, 1, 4, 4).double(), torch.arange(count) % CLASSES


def replicated(features, head, y):
    """The losses (b, p, g) as they are defined: a replica of the features for each patch and group."""
    found = torch.zeros(len(y), PATCHES, GROUPS, dtype=features.dtype)
    width = features.shape[2] // GROUPS
    for p in range(PATCHES):
        for g in range(GROUPS):
            own = torch.zeros_like(features)
            own[:, p, g * width : (g + 1) * width] = 1.0
            replica = own * features + (1 - own) * features.detach()
            losses = F.cross_entropy(head(replica.mean(dim=1)), y, reduction="none")
            found[:, p, g] = losses / len(y)
    return found


def local_losses(network, x, y):
    """All of them, block by block, and the readout's; nothing passes between blocks."""
    h, found = network.tokens(x), []
    for block, head in zip(network.blocks, network.heads, strict=True):
        h = block(h)
        found.append(replicated(h, head, y))
        h = h.detach()
    return found, F.cross_entropy(network.readout(h.mean(dim=1)), y)


def gradients(network):
    return {name: p.grad.clone() for name, p in network.named_parameters()}


def is_trunk(name):
    return name.startswith("blocks.")


def exact(network, x, y):
    """The gradient of the sum of all local losses; heads have theirs once, not once for each replica."""
    network.zero_grad()
    losses, readout = local_losses(network, x, y)
    (sum(loss.sum() for loss in losses) + readout).backward()
    found = gradients(network)
    return {name: g / (PATCHES * GROUPS) if name.startswith("heads") else g for name, g in found.items()}


def learn(network, x, y, **options):
    network.zero_grad()
    loss = LocalForwardGradient(network, **options).backward(x, y)
    return loss, gradients(network)
