"""What NoProp's variants cost, in how many steps they predict, and when the chain of blocks helps: counted, not timed.

    python benchmarks/noprop_theory.py

No figure here depends on the clock, so that a busy machine gives the same file. It holds:

- Operations (`torch.utils.flop_counter`) and bytes (`beyondprop.measure`) of one training step at the size of the
  paper's CIFAR-10 experiment (images of 3x32x32, batch 128, one-hot rows, Adam), beside back-propagation through the
  same blocks. For one block of all times back-propagation is given twice: once through encoder and block as a plain
  classifier, and through the block in many Euler steps, which is what training by the solved equation comes to.
- Operations of a prediction: with the image read once, and with the image read at every step.
- Accuracy of `noprop-ct/digits` and `noprop-fm/digits` on images held out of training (no test image is looked at),
  mean over seeds: against the number of steps, by every way to take them; by the choices that the paper leaves open.
  Beside it, how far the predicted probabilities are from those of 1000 steps of Heun's method: half the sum of absolute
  differences, mean over images.
- Accuracy of eight blocks on held-out digits, when each sees a part of the image or is narrow: the first block, the
  best, all pooled, the chain, and back-propagation through the same blocks.

The file is `benchmarks/results/noprop_theory.json`; `make pictures` makes the documentation's tables and pictures from
it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import noprop_step
from _timing import Row, compare, environment, write_results
from beyondprop import data
from beyondprop.catalogue import find_recipe
from beyondprop.networks.noprop import ResidualChain, denoising_blocks, paper_encoder, timed_network
from beyondprop.rule import Rule, without_trace
from beyondprop.rules.local.noprop import ClassEmbedding, DenoisingBlock, NoPropCT, NoPropDT, NoPropFM, TimedBlock
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.training import fit
from beyondprop.training.assembly import assemble, make_optimizer, make_scheduler
from beyondprop.training.execution import Execution

OUT = Path(__file__).resolve().parent / "results" / "noprop_theory.json"
CLASSES = 10
STEP = noprop_step.Size(image=(3, 32, 32))


@dataclass(frozen=True)
class Size:
    """How large everything is; the defaults are what the documentation shows."""

    step: noprop_step.Size = STEP
    solver_steps: tuple[int, ...] = (20, 1000)
    counted_steps: tuple[int, ...] = (1, 20, 1000)
    step_counts: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 50, 1000)
    seeds: int = 3
    held_out: int = 360
    epochs: int | None = None  # of the recipes; None: their own
    chain_epochs: int = 20
    views: tuple[int, ...] = (8, 4, 2, 1)
    widths: tuple[int, ...] = (32, 4, 2)


# ------------------------------------------------------------------------------------------------------ a training step

SAME_BLOCKS = "back-propagation through the same blocks"
ONE_CLASSIFIER = "back-propagation through encoder and block, one classifier"
COSTS = ("flops_per_image", "peak_saved_for_backward_bytes", "peak_activation_bytes", "peak_memory_bytes")


def through_steps(steps: int) -> str:
    """Name the peer that is trained by solving the equation."""
    return f"back-propagation through {steps} Euler steps of the block"


class Solved(nn.Module):
    """Encoder and block trained end to end: as a plain classifier (N = 1), or through N Euler steps of dz/dt = û - z.

    The equation of NoProp-CT has other coefficients in the place of these, which cost next to nothing.
    """

    def __init__(self, encoder: nn.Module, block: nn.Module, embedding: ClassEmbedding, steps: int) -> None:
        super().__init__()
        self.encoder, self.block, self.embedding, self.steps = encoder, block, embedding, steps
        self.head = embedding.nearest_row_classifier()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
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
    encoder, features = paper_encoder(where.image, where.widths, noprop_step.DROPOUT)
    return *timed_network(encoder, features, rows, hidden=where.hidden), rows


def blocks(size: Size, rows: ClassEmbedding) -> nn.ModuleList:
    """Make the T blocks of NoProp-DT."""
    where = size.step
    widths, hidden = where.widths, where.hidden
    return denoising_blocks(where.blocks, where.image, rows, widths=widths, hidden=hidden, dropout=noprop_step.DROPOUT)


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
        side = noprop_step.library_side(make(), size.step, device, "float32")
        cost = noprop_step.cost(side, device, memory=True)
        found[name] = {"flops_per_image": cost.flops / size.step.batch, **cost.bytes}
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


def step_case(ours: str, size: Size) -> str:
    """Name a row's training step."""
    blocks = f", T={size.step.blocks}" if ours == "noprop-dt" else ""
    return f"{ours}: training step, CIFAR-10 shape, batch {size.step.batch}{blocks}"


# --------------------------------------------------------------------------------------------------------- a prediction

READ_EVERY_TIME = "the image read at every step"


class Rereading(nn.Module):
    """A block that reads the image itself, as often as it is called."""

    def __init__(self, encoder: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.encoder, self.block = encoder, block

    def forward(self, z: Tensor, x: Tensor, t: Tensor) -> Tensor:  # noqa: D102
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


def prediction_case(name: str, steps: str, size: Size) -> str:
    """Name a row's prediction."""
    return f"{name}: prediction, CIFAR-10 shape, batch {size.step.batch}, {steps}"


def flops_of_prediction(rule: Rule, size: Size, **inference: Any) -> float:
    """Count the operations of `rule(x)`, an image."""
    with FakeTensorMode(allow_non_fake_inputs=True), without_trace(rule), FlopCounterMode(display=False) as counter:
        rule(torch.empty(size.step.batch, *size.step.image), **inference)
    return counter.get_total_flops() / size.step.batch


# -------------------------------------------------------------------------------------------------------- few steps

# Ways to predict, by the names that the documentation gives them; the first of each is the default.
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "noprop-ct": {
        "multistep": {},
        "exponential": {"method": "exponential"},
        "heun": {"method": "heun"},
        "euler": {"method": "euler"},
        "euler, even in time": {"method": "euler", "grid": "uniform"},
        "multistep, from noise": {"start": "noise"},
        "ancestral, from noise": {"method": "ancestral", "start": "noise"},
    },
    "noprop-fm": {
        "euler": {},
        "heun": {"method": "heun"},
        "adams-bashforth": {"method": "adams-bashforth"},
        "euler, log-snr": {"grid": "log-snr"},
        "euler, from noise": {"start": "noise"},
    },
}

# What the paper leaves open or has otherwise, and what it is compared with: names and changes of the recipe's settings.
CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "noprop-ct": {
        "weighting snr": {"weighting": "snr"},
        "consistency 1": {"consistency": 1.0},
        "8 draws": {"draws": 8},
    },
    "noprop-fm": {"consistency 1": {"consistency": 1.0}, "8 draws": {"draws": 8}},
}
DEFAULT, IN_THOUSAND = "the recipe's settings", "the default way in 1000 steps"


@dataclass(frozen=True)
class Trained:
    """A rule trained on digits, with the images that it has not seen."""

    rule: Rule
    x: Tensor
    y: Tensor

    def accuracy(self, **inference: Any) -> float:
        """On the held-out images, in 0..1."""
        return hit_rate(self.scores(**inference), self.y)

    def scores(self, **inference: Any) -> Tensor:
        """Log-probabilities of the held-out images; noise is drawn from one seed."""
        torch.manual_seed(0)
        with without_trace(self.rule):
            return self.rule(self.x, **inference)


def hit_rate(scores: Tensor, y: Tensor) -> float:
    """The share of rows whose largest score is that of the label."""
    return (scores.argmax(dim=1) == y).double().mean().item()


def train(system: str, size: Size, seed: int, **changes: Any) -> Trained:
    """Train a system's recipe on the digits less those held out."""
    recipe = find_recipe(f"{system}/digits")
    settings = replace(recipe.settings, validation=size.held_out, **changes)
    if size.epochs is not None:
        settings = replace(settings, epochs=size.epochs)
    made = assemble(recipe, settings, Execution(device="cpu", seed=seed))
    assert made.validation is not None
    batches = made.batches(made.splits.train, training=True)
    optimizer = made.experiment.optimizer or make_optimizer(made.rule, settings)
    scheduler = make_scheduler(optimizer, settings.lr_schedule, len(batches) * settings.epochs)
    fit(made.rule, batches, optimizer=optimizer, epochs=settings.epochs, scheduler=scheduler, progress=False)
    made.rule.eval()
    held_out = list(made.batches(made.validation))
    return Trained(made.rule, torch.cat([x for x, _ in held_out]), torch.cat([y for _, y in held_out]))


def accuracy_rows(size: Size) -> Iterator[Row]:
    """Measure each system against steps, by each way; then its other settings, by the default way."""
    for system, ways in WAYS.items():
        task = digits_case(system, size)
        default = [train(system, size, seed) for seed in range(size.seeds)]
        aims = [each.accuracy(steps=max(size.step_counts)) for each in default]
        for way, how in ways.items():
            for steps in size.step_counts:
                found = [each.accuracy(steps=steps, **how) for each in default]
                yield mean_row(f"{task}, {way}", steps, found, IN_THOUSAND, aims)
        yield from distance_rows(task, default, ways, size)
        for choice, changes in CHOICES[system].items():
            others = [train(system, size, seed, **changes) for seed in range(size.seeds)]
            for steps in size.step_counts:
                found, usual = ([each.accuracy(steps=steps) for each in them] for them in (others, default))
                yield mean_row(f"{task}, {choice}", steps, found, DEFAULT, usual)
                metric = f"lowest_validation_accuracy_in_{steps}_steps"
                yield compare(f"{task}, {choice}", metric, min(found), DEFAULT, min(usual), less_is_better=False)


def distance_rows(task: str, default: list[Trained], ways: dict[str, dict[str, Any]], size: Size) -> Iterator[Row]:
    """Measure what the steps leave unsolved, which accuracy hardly shows, for the ways that begin at the mean."""
    most = max(size.step_counts)
    solved = [each.scores(steps=most, method="heun").exp() for each in default]
    for steps in size.step_counts:
        apart = {
            way: statistics.fmean(
                0.5 * (each.scores(steps=steps, **how).exp() - aim).abs().sum(dim=1).mean().item()
                for each, aim in zip(default, solved, strict=True)
            )
            for way, how in ways.items()
            if "start" not in how and steps < most
        }
        for way, value in apart.items():
            usual = next(iter(apart.values()))
            metric = f"distance_to_solution_in_{steps}_steps"
            yield compare(f"{task}, {way}", metric, value, "the default way", usual, less_is_better=True)


def mean_row(case: str, steps: int, found: list[float], peer: str, theirs: list[float]) -> Row:
    """Set mean accuracies beside each other."""
    ours, other = statistics.fmean(found), statistics.fmean(theirs)
    return compare(case, f"validation_accuracy_in_{steps}_steps", ours, peer, other, less_is_better=False)


def digits_case(system: str, size: Size) -> str:
    """Name the data and the seeds of a row."""
    return f"{system}/digits, {size.held_out} held-out images, {size.seeds} seeds"


# -------------------------------------------------------------------------------------------------- what the chain adds

CHAIN_PEERS = (
    "first block alone",
    "best block alone",
    "blocks alone, probabilities averaged",
    "blocks alone, probabilities multiplied",
    SAME_BLOCKS,
)


class Window(nn.Module):
    """A block of Figure 6, of linear layers alone, that sees some rows of an image of 8x8 and no others."""

    def __init__(self, first: int, rows: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("seen", (first + torch.arange(rows)) % 8)
        self.block = DenoisingBlock(nn.Flatten(), 8 * rows, CLASSES, CLASSES, hidden=hidden)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:  # noqa: D102
        return self.block(z, x[:, 0, self.seen])


def chain_case(rows: int, hidden: int, size: Size) -> str:
    """Name what each of the eight blocks sees, and how wide it is."""
    seen = "the whole image" if rows == 8 else f"{rows} of 8 rows" if rows > 1 else "1 of 8 rows"
    where = f"{size.held_out} held-out images, {size.seeds} seeds"
    return f"8 blocks on digits, each sees {seen}, width {hidden}, {where}"


def chain_settings(size: Size) -> list[tuple[int, int]]:
    """Rows that a block sees, and its width: fewer rows first, then narrower blocks that see the whole image."""
    return [(rows, size.widths[0]) for rows in size.views] + [(8, width) for width in size.widths[1:]]


def chain_rows(size: Size) -> Iterator[Row]:
    """Train eight blocks by NoProp-DT and by back-propagation, and read them in several ways."""
    for rows, hidden in chain_settings(size):
        each_seed = [chain_accuracies(rows, hidden, seed, size) for seed in range(size.seeds)]
        means = {way: statistics.fmean(found[way] for found in each_seed) for way in each_seed[0]}
        for peer in CHAIN_PEERS:
            case = chain_case(rows, hidden, size)
            yield compare(case, "validation_accuracy", means["chain"], peer, means[peer], less_is_better=False)


def chain_accuracies(rows: int, hidden: int, seed: int, size: Size) -> dict[str, float]:
    """Accuracy on the held-out digits of the chain and of what stands beside it."""
    train, held_out = data.hold_out(data.load("digits").train, size.held_out, seed=seed)
    scale = train.high
    embedding = ClassEmbedding.one_hot(CLASSES)

    def trained(make: Callable[[nn.ModuleList], Rule]) -> Rule:
        torch.manual_seed(seed)
        rule = make(nn.ModuleList(Window(first, rows, hidden) for first in range(8)))
        optimizer = torch.optim.Adam(rule.parameters(), lr=5e-3)
        for _ in range(size.chain_epochs):
            for chosen in torch.randperm(len(train)).split(128):
                optimizer.zero_grad()
                rule.backward(train.images[chosen] / scale, train.labels[chosen])
                optimizer.step()
        return rule

    noprop = trained(lambda blocks: NoPropDT(blocks, embedding))
    backprop = trained(lambda blocks: Backprop(ResidualChain(blocks, embedding, start="zero")))
    assert isinstance(noprop, NoPropDT)
    x, y = held_out.images / scale, held_out.labels
    with without_trace(noprop), without_trace(backprop):
        alone = noprop.each_block_alone(x)
        by_block = [hit_rate(scores, y) for scores in alone]
        values = (
            by_block[0],
            max(by_block),
            hit_rate(alone.logsumexp(dim=0), y),
            hit_rate(alone.sum(dim=0), y),
            hit_rate(backprop(x), y),
        )
        return {"chain": hit_rate(noprop(x), y), **dict(zip(CHAIN_PEERS, values, strict=True))}


def main(arguments: list[str] | None = None, size: Size | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=Size.seeds, help="trainings to average over (default 3)")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    size = size or Size(seeds=options.seeds)
    found = []
    for part in (step_rows, prediction_rows, chain_rows, accuracy_rows):
        for row in part(size):
            found.append(row)
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            print(f"{row.case} | {row.metric} | {row.ours:.6g} | {row.peer_value:.6g} {row.peer} | {ratio}", flush=True)
    write_results(options.out, environment(torch.device("cpu")), found)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
