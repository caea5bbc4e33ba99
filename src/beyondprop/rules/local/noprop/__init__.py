"""NoProp (arXiv 2503.24322): every block learns alone to denoise the label.

- `NoPropDT`: discrete time, T blocks.
- `NoPropCT`: continuous time, one block and a learned schedule.
- `NoPropFM`: flow matching, one block.
- `ClassEmbedding`: what is diffused: one-hot, learned or prototype rows.
- `cosine_schedule`, `DiscreteSchedule`, `LearnedSchedule`: how much of the label each step holds.
- `DenoisingBlock`, `TimedBlock`: the paper's blocks around any image encoder; `PositionalEmbedding`, their time.
"""

from beyondprop.rules.local.noprop.blocks import DenoisingBlock, PositionalEmbedding, TimedBlock
from beyondprop.rules.local.noprop.continuous import NoPropCT
from beyondprop.rules.local.noprop.discrete import NoPropDT
from beyondprop.rules.local.noprop.embedding import ClassEmbedding
from beyondprop.rules.local.noprop.flow import NoPropFM
from beyondprop.rules.local.noprop.learned_schedule import LearnedSchedule
from beyondprop.rules.local.noprop.schedule import DiscreteSchedule, cosine_schedule

__all__ = [
    "ClassEmbedding",
    "DenoisingBlock",
    "DiscreteSchedule",
    "LearnedSchedule",
    "NoPropCT",
    "NoPropDT",
    "NoPropFM",
    "PositionalEmbedding",
    "TimedBlock",
    "cosine_schedule",
]
