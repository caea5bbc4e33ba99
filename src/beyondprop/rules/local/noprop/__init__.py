"""NoProp (arXiv 2503.24322): every block learns alone to denoise the label.

- `NoPropDT`: discrete time, T blocks.
- `ClassEmbedding`: what is diffused: one-hot, learned or prototype rows.
- `cosine_schedule`, `DiscreteSchedule`: how much of the label each step holds.
- `DenoisingBlock`: the paper's block around any image encoder.
"""

from beyondprop.rules.local.noprop.blocks import DenoisingBlock
from beyondprop.rules.local.noprop.discrete import NoPropDT
from beyondprop.rules.local.noprop.embedding import ClassEmbedding
from beyondprop.rules.local.noprop.schedule import DiscreteSchedule, cosine_schedule

__all__ = ["ClassEmbedding", "DenoisingBlock", "DiscreteSchedule", "NoPropDT", "cosine_schedule"]
