"""Why a recurrent network loses a task that it has solved, and what keeps it: temporal order, step by step.

    python benchmarks/inversion_stability.py
    python benchmarks/inversion_stability.py --kept FOLDER    goes on with the trainings that FOLDER holds

Back-propagation and regularized inversion with the step sizes of `tp-ri/temporal-order-60`, which are the same for
both, train the same networks on the same fresh sequences: with a constant rate as the paper has it; with the recurrent
gradient clipped at five times its usual norm, as the recipe has it; clipped at a fixed norm of 10, between the norms
that the task is learned with (1.5 to 15 in seed 0) and those of surges (above 100); and with a rate that falls to zero
by a cosine. Norms are those of the loss's gradient, without the factor g.
Every 25 steps the share of 400 other sequences that are right is measured. A task counts as solved at 99 %. The rows:

- share of the evaluations after the first solved one that are solved, each cure beside the constant rate, mean over
  seeds;
- seeds that solved it, and seeds that are solved at the end;
- without a cure, the losses of the solution: wherever an evaluation falls below 90 % after ten solved ones. How many
  steps passed from the first gradient more than 20 times the median of the hundred before it to the largest loss; how
  large the largest gradient was; and for that first gradient g of step size η the curvature of the loss along it,
  η gᵀHg / gᵀg, by finite differences on the same batch. Above 2 a step of gradient descent lands higher on the other
  side of the valley.

The picture `docs/pictures/inversion-stability.svg` shows loss and gradient of one seed with and without clipping, the
highest of every ten steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _timing import Row, environment, write_results
from beyondprop.data.sequence_tasks import temporal_order
from beyondprop.networks.sequences import SequenceReader
from beyondprop.recipes.regularized_inversion import (
    SOLVED,
    TASKS,
    ThroughTime,
    by_gradient,
    by_inversion,
    make_optimizer,
)
from beyondprop.training.atomic import write_file

ROOT = Path(__file__).resolve().parents[1]
OUT, PICTURE = ROOT / "benchmarks" / "results" / "inversion_stability.json", ROOT / "docs" / "pictures"
RULES = {"bp": by_gradient, "tp-ri": by_inversion}
CURES = ("constant", "clipped", "bounded", "cosine")
BOUND = 10.0
EVERY, PAST, SURGE, LOST, KEPT = 25, 100, 20, 0.9, 10


@dataclass
class Run:
    """What was seen in one training.

    Attributes:
        losses: Of every step.
        norms: Of the recurrent layer's gradient, without the factor g, before it is clipped; of every step.
        right: Shares of right answers, every 25 steps.
        bends: Steps at which the gradient surged first, with the curvature along it times the step size.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    bends: dict[int, float] = field(default_factory=dict)

    @property
    def stayed(self) -> float:
        """Share of solved evaluations from the first solved one on; 0 where there is none."""
        solved = [share >= SOLVED for share in self.right]
        if True not in solved:
            return 0.0
        later = solved[solved.index(True) :]
        return sum(later) / len(later)

    def avalanches(self) -> list[tuple[int, int]]:
        """Steps at which a solution began to be lost, and was lost."""
        found, kept = [], 0
        for number, share in enumerate(self.right):
            if share < LOST and kept >= KEPT:
                lost = (number + 1) * EVERY
                begun = [step for step in self.bends if lost - 2 * EVERY <= step < lost]
                found += [(min(begun), lost)] if begun else []
            kept = kept + 1 if share >= SOLVED else 0 if share < LOST else kept
        return found


def settings_of(cure: str) -> ThroughTime:
    """Those of the recipe, with one cure or none."""
    return replace(
        TASKS["temporal-order-60"][1], clip_surge=TASKS["temporal-order-60"][1].clip_surge * (cure == "clipped")
    )


def train(name: str, cure: str, seed: int, steps: int, length: int) -> Run:
    """Train once."""
    torch.manual_seed(seed)
    settings = settings_of(cure)
    network = SequenceReader(6, 4, hidden=settings.hidden)
    rule = RULES[name](network, None, settings)
    optimizer = make_optimizer(rule, settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps) if cure == "cosine" else None
    factor = settings.recurrent_step if name == "tp-ri" else 1.0
    recurrent, run = list(network.rnn.parameters()), Run()
    bound = BOUND * factor if cure == "bounded" else float("inf")
    test = temporal_order(length, train=1, test=400).test
    for step in range(steps):
        if step % PAST == 0:
            batches = temporal_order(length, train=PAST * settings.batch_size, test=1)
            drawn = batches.train.of_epoch(1000 * (seed + 1) + step // PAST)
        rows = slice(step % PAST * settings.batch_size, (step % PAST + 1) * settings.batch_size)
        x, y = drawn.images[rows], drawn.labels[rows]
        optimizer.zero_grad()
        run.losses.append(float(rule.backward(x, y)))
        run.norms.append(float(nn.utils.clip_grad_norm_(recurrent, bound)) / factor)
        usual = statistics.median(run.norms[-PAST - 1 : -1]) if step >= PAST else float("inf")
        if run.norms[-1] > SURGE * usual:
            run.bends[step] = settings.learning_rate * settings.recurrent_step * curvature(network, x, y)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        if (step + 1) % EVERY == 0:
            with torch.inference_mode():
                run.right.append(float((network(test.images).argmax(dim=1) == test.labels).double().mean()))
    return run


def trained(name: str, cure: str, seed: int, options: argparse.Namespace) -> Run:
    """As `train`, or what the folder of kept trainings holds of it."""
    if options.kept is None:
        return train(name, cure, seed, options.steps, options.length)
    path = options.kept / f"{name}-{cure}-{seed}-{options.steps}-{options.length}.json"
    if path.exists():
        kept = json.loads(path.read_text())
        return Run(**kept | {"bends": {int(step): bend for step, bend in kept["bends"].items()}})
    run = train(name, cure, seed, options.steps, options.length)
    write_file(path, json.dumps(asdict(run)).encode())
    return run


def curvature(network: SequenceReader, x: Tensor, y: Tensor, distance: float = 1e-3) -> float:
    """gᵀHg / gᵀg of the loss by the recurrent weights, for its gradient g there."""
    weights = list(network.rnn.parameters())

    def gradient() -> list[Tensor]:
        return list(torch.autograd.grad(F.cross_entropy(network(x), y), weights))

    here = gradient()
    norm = torch.stack([g.square().sum() for g in here]).sum().sqrt()
    before = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for w, g in zip(weights, here, strict=True):
            w.sub_(distance * g / norm)
    there = gradient()
    with torch.no_grad():
        for w, b in zip(weights, before, strict=True):
            w.copy_(b)
    change = sum(float(((a - b) * a).sum()) for a, b in zip(here, there, strict=True))
    return change / float(norm) / distance


def rows_of(runs: dict[tuple[str, str], list[Run]], where: str) -> list[Row]:
    """Make the table."""
    rows = []
    for (name, cure), found in runs.items():
        case = f"{name}, {cure}, {where}"
        if cure != "constant":
            ours = statistics.mean(run.stayed for run in found)
            usual = statistics.mean(run.stayed for run in runs[name, "constant"])
            ratio = ours / usual if usual else None
            rows.append(Row(case, "share_of_evaluations_that_stay_solved", ours, f"{name}, constant", usual, ratio))
        solved = sum(max(run.right) >= SOLVED for run in found) / len(found)
        last = sum(run.right[-1] >= SOLVED for run in found) / len(found)
        rows.append(Row(case, "seeds_that_solve_it", solved, "", None, None))
        rows.append(Row(case, "seeds_solved_at_the_end", last, "", None, None))
        if cure != "constant":
            continue
        lost = [(run, *times) for run in found for times in run.avalanches()]
        rows.append(Row(case, "solutions_lost", len(lost), "", None, None))
        for metric, values in {
            "steps_from_surge_to_loss": [max(run.losses.index(max(run.losses[a:b])) - a, 0) for run, a, b in lost],
            "largest_gradient_over_usual": [
                max(run.norms[a:b]) / statistics.median(run.norms[a - PAST : a]) for run, a, b in lost
            ],
            "step_size_times_curvature": [run.bends[a] for run, a, _ in lost],
        }.items():
            if values:
                rows.append(Row(case, metric, statistics.median(values), "", None, None))
    return rows


def draw(runs: dict[tuple[str, str], list[Run]], folder: Path) -> None:
    """Draw the losses of the seed that lost its solution for longest, with and without clipping."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "beyondprop"
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(2, len(RULES), figsize=(9, 5), sharex=True, sharey="row", squeeze=False)
    for column, name in enumerate(RULES):
        plain = runs[name, "constant"]
        worst = min(range(len(plain)), key=lambda number: plain[number].stayed)
        for cure in ("constant", "clipped"):
            run = runs[name, cure][worst]
            for row, values in enumerate((run.losses, run.norms)):
                peaks = [max(values[start : start + 10]) for start in range(0, len(values), 10)]
                axes[row][column].semilogy(range(0, len(values), 10), peaks, linewidth=0.8, label=cure)
        axes[0][column].set_title(name)
        axes[1][column].set_xlabel("step")
    axes[0][0].set_ylabel("loss")
    axes[1][0].set_ylabel("norm of the recurrent gradient")
    axes[0][0].legend()
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "inversion-stability.svg", metadata={"Date": None})
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Train, write the file and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--length", type=int, default=60)
    parser.add_argument("--cures", nargs="+", choices=CURES, default=list(CURES))
    parser.add_argument("--kept", type=Path, help="folder in which each training is kept when it is done")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--pictures", type=Path, default=PICTURE)
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)  # as the training commands do: targets that vanish would take several times as long
    torch.set_num_threads(options.threads)
    if options.kept is not None:
        options.kept.mkdir(parents=True, exist_ok=True)
    runs: dict[tuple[str, str], list[Run]] = {}
    for name in RULES:
        for cure in dict.fromkeys(["constant", *options.cures]):
            for seed in range(options.seeds):
                run = trained(name, cure, seed, options)
                runs.setdefault((name, cure), []).append(run)
                best = max(run.right, default=0)
                print(f"{name:6} {cure:9} seed {seed}: best {best:.3f}, stayed solved {run.stayed:.3f}", flush=True)
    where = f"{options.length} steps, {options.steps} batches, {options.seeds} seeds"
    write_results(options.out, environment(torch.device("cpu")), rows_of(runs, where))
    if "clipped" in options.cures:
        draw(runs, options.pictures)


if __name__ == "__main__":
    main()
