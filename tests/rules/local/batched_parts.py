"""The paper's blocks of NoProp-DT, small, and images for them."""

import torch

from beyondprop.networks.noprop import denoising_blocks
from beyondprop.rules.local.noprop import ClassEmbedding, NoPropDT

CLASSES, STEPS = 3, 3


def paper_rule(embedding="one-hot", dropout=0.0, width=2, **options):
    """The paper's blocks, small, on images of 8x8."""
    widths = (width, width + 1, width + 2)
    rows = {
        "one-hot": lambda: ClassEmbedding.one_hot(CLASSES),
        "learned": lambda: ClassEmbedding.orthogonal(CLASSES, 4),
        "prototype": lambda: ClassEmbedding.prototype(
            torch.rand(9, 1, 8, 8), torch.arange(9) % CLASSES, CLASSES, norm=3.0
        ),
    }[embedding]()
    blocks = denoising_blocks(STEPS, (1, 8, 8), rows, widths=widths, hidden=3 * width, dropout=dropout)
    return NoPropDT(blocks, rows, **options)


def images(count=16):
    return torch.randn(count, 1, 8, 8), torch.randint(CLASSES, (count,))


def block_gradients(rule):
    return [torch.cat([p.grad.flatten() for p in block.parameters()]) for block in rule.network]
