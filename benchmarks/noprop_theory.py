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

from _noprop_cases import CHAIN_PEERS, OUT, Size, chain_case, chain_settings, digits_case
from _noprop_costs import prediction_rows, step_rows
from _noprop_sides import CLASSES
from _timing import Row, compare, environment, write_results
from beyondprop import data
from beyondprop.catalogue import find_recipe
from beyondprop.networks.noprop import ResidualChain
from beyondprop.rule import Rule, without_trace
from beyondprop.rules.local.noprop import ClassEmbedding, DenoisingBlock, NoPropDT
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.training import fit
from beyondprop.training.assembly import assemble, make_optimizer, make_scheduler
from beyondprop.training.execution import Execution

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


# -------------------------------------------------------------------------------------------------- what the chain adds


class Window(nn.Module):
    """A block of Figure 6, of linear layers alone, that sees some rows of an image of 8x8 and no others."""

    def __init__(self, first: int, rows: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("seen", (first + torch.arange(rows)) % 8)
        self.block = DenoisingBlock(nn.Flatten(), 8 * rows, CLASSES, CLASSES, hidden=hidden)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:  # noqa: D102
        return self.block(z, x[:, 0, self.seen])


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
