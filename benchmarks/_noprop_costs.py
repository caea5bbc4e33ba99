"""What a training step and a prediction of NoProp's variants cost: operations and bytes, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from _noprop_cases import ONE_CLASSIFIER, SAME_BLOCKS, Size, prediction_case, step_case, through_steps
from _noprop_sides import CLASSES, DROPOUT, cost, library_side
from _timing import Row, compare
from beyondprop.networks.noprop import ResidualChain, denoising_blocks, paper_encoder, timed_network
from beyondprop.rule import Rule, without_trace
from beyondprop.rules.local.noprop import ClassEmbedding, NoPropCT, NoPropDT, NoPropFM, TimedBlock
from beyondprop.rules.signals.backprop import Backprop

# ------------------------------------------------------------------------------------------------------ a training step

COSTS = ("flops_per_image", "peak_saved_for_backward_bytes", "peak_activation_bytes", "peak_memory_bytes")


class Solved(nn.Module):
    """Encoder and block trained end to end: as a plain classifier (N = 1), or through N Euler steps of dz/dt = û - z.

    The equation of NoProp-CT has other coefficients in the place of these, which cost next to nothing.
    """

    def __init__(self, encoder: nn.Module, block: nn.Module, embedding: ClassEmbedding, steps: int) -> None:
        super().__init__()
        self.encoder, self.block, self.embedding, self.steps = encoder, block, embedding, steps
        self.head = embedding.nearest_row_classifier()

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        z = h.new_zeros(len(h), self.embedding.dim)
        if self.steps == 1:
            return self.block(z, h, h.new_zeros(()).expand(len(h)))
        for time in torch.linspace(0, 1, self.steps + 1, device=z.device)[:-1]:
            z = z + (self.embedding.expected(self.block(z, h, time.expand(len(h)))) - z) / self.steps
        return self.head(z)


def parts(size: Size) -> tuple[nn.Module, TimedBlock, ClassEmbedding]:
    """Make the encoder and the block of NoProp-CT and NoProp-FM, and one-hot rows."""
    where, rows = size.step, ClassEmbedding.one_hot(CLASSES)
    encoder, features = paper_encoder(where.image, where.widths, DROPOUT)
    return *timed_network(encoder, features, rows, hidden=where.hidden), rows


def blocks(size: Size, rows: ClassEmbedding) -> nn.ModuleList:
    """Make the T blocks of NoProp-DT."""
    where = size.step
    widths, hidden = where.widths, where.hidden
    return denoising_blocks(where.blocks, where.image, rows, widths=widths, hidden=hidden, dropout=DROPOUT)


def rules(size: Size) -> dict[str, Callable[[], Rule]]:
    """What makes each side of the training step, by name."""
    rows = ClassEmbedding.one_hot(CLASSES)
    return {
        "noprop-dt": lambda: NoPropDT(blocks(size, rows), rows),
        "noprop-ct": lambda: NoPropCT(*parts(size)),
        "noprop-fm": lambda: NoPropFM(*parts(size)),
        "noprop-ct, 8 draws": lambda: NoPropCT(*parts(size), draws=8),
        SAME_BLOCKS: lambda: Backprop(ResidualChain(blocks(size, rows), rows)),
        ONE_CLASSIFIER: lambda: Backprop(Solved(*parts(size), 1)),
        **{through_steps(n): lambda n=n: Backprop(Solved(*parts(size), n)) for n in size.solver_steps},
    }


def step_rows(size: Size) -> Iterator[Row]:
    """Count the operations and bytes of a training step of each side, and set ours beside back-propagation."""
    device, found = torch.device("cpu"), {}
    for name, make in rules(size).items():
        side = library_side(make(), size.step, device, "float32")
        counted = cost(side, device, memory=True)
        found[name] = {"flops_per_image": counted.flops / size.step.batch, **counted.bytes}
    timed = (ONE_CLASSIFIER, *map(through_steps, size.solver_steps))
    for ours, peers in (
        ("noprop-dt", (SAME_BLOCKS,)),
        ("noprop-ct", timed),
        ("noprop-ct, 8 draws", (ONE_CLASSIFIER,)),
        ("noprop-fm", timed),
    ):
        for peer in peers:
            for metric in COSTS:
                mine, theirs = found[ours][metric], found[peer][metric]
                yield compare(step_case(ours, size), metric, mine, peer, theirs, less_is_better=True)


# --------------------------------------------------------------------------------------------------------- a prediction

READ_EVERY_TIME = "the image read at every step"


class Rereading(nn.Module):
    """A block that reads the image itself, as often as it is called."""

    def __init__(self, encoder: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.encoder, self.block = encoder, block

    def forward(self, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.block(z, self.encoder(x), t)


def prediction_rows(size: Size) -> Iterator[Row]:
    """Count the operations of a prediction, on tensors without contents, which spares a thousand readings."""
    rows = ClassEmbedding.one_hot(CLASSES)
    encoder, block, _ = parts(size)
    once, again = NoPropCT(encoder, block, rows), NoPropCT(nn.Identity(), Rereading(encoder, block), rows)
    # Every step has the same operations: two counts give all.
    first, both = ([flops_of_prediction(each, size, steps=steps) for each in (once, again)] for steps in (1, 2))
    for steps in size.counted_steps:
        mine, theirs = (one + (steps - 1) * (two - one) for one, two in zip(first, both, strict=True))
        case = prediction_case("noprop-ct and noprop-fm", f"steps={steps}", size)
        yield compare(case, "flops_per_image", mine, READ_EVERY_TIME, theirs, less_is_better=True)
    case = prediction_case("noprop-dt", f"T={size.step.blocks}", size)
    chain, same = NoPropDT(blocks(size, rows), rows), Backprop(ResidualChain(blocks(size, rows), rows))
    mine, theirs = flops_of_prediction(chain, size), flops_of_prediction(same, size)
    yield compare(case, "flops_per_image", mine, SAME_BLOCKS, theirs, less_is_better=True)


def flops_of_prediction(rule: Rule, size: Size, **inference: Any) -> float:
    """Count the operations of `rule(x)`, an image."""
    with FakeTensorMode(allow_non_fake_inputs=True), without_trace(rule), FlopCounterMode(display=False) as counter:
        rule(torch.empty(size.step.batch, *size.step.image), **inference)
    return counter.get_total_flops() / size.step.batch
