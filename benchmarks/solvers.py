"""What is fitted beside what is stepped: ResCNet, and threshold networks.

    python benchmarks/solvers.py --threads 2                # everything, in the sizes below
    python benchmarks/solvers.py --parts lasso program      # some of it; rows of the others are kept

Parts:

- `accuracy`: ResCNet of the recipe rescnet/cifar-10 is fitted, with all its layers or `--layers`. Then a small
  convolutional network is trained by back-propagation (batch norm, AdamW, images mirrored by chance, as ResCNet sees
  both sides) until its test accuracy is that of ResCNet, in a one-cycle schedule of few epochs, then of more, until one
  of them comes there; time spent on measuring, and on shorter schedules, does not count. Both compute in bfloat16 where
  the processor multiplies it fast, channels last. The test split only says when both are equally good.
- `maps`: what it costs to have a layer's maps again: read back from memory or disk, or made anew through 50 layers.
- `program`: the convex program of three layers at n = 10,000, by the closed form and by cvxpy with Clarabel; and a
  whole network there, by levels along a direction, beside cvxpy's program alone: the pseudo-inverse of a matrix of
  10,000 x 10,000 that makes the peer's network would take many minutes more.
- `fit`: a whole network at n = 2,000: the closed form and the pseudo-inverse, or levels along a direction (which say
  little about other samples); and the authors' route, cvxpy and a pseudo-inverse. Beside both, straight-through
  training for 2,000 steps, and how near it comes to the optimum.
- `lasso`: one Lasso of two layers by the library's active set; and by celer and by skglm at a tolerance of 1e-10.

Peers that are not installed have no value: `pip install 'beyondprop[convex]' celer skglm` installs them all. The rows
are written to `benchmarks/results/solvers.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from _timing import Row, compare, environment, write_results
from beyondprop import Backprop, data, evaluate
from beyondprop.catalogue import find_recipe
from beyondprop.solvers.rescnet.network import ResCNet
from beyondprop.solvers.rescnet.store import SampleStore
from beyondprop.solvers.threshold.arrangements import sampled
from beyondprop.solvers.threshold.lasso import solve_lasso
from beyondprop.solvers.threshold.reconstruction import by_pseudo_inverse, by_staircase
from beyondprop.solvers.threshold.shattered import fit_shattered
from beyondprop.solvers.threshold.straight_through import StraightThroughNetwork, fit_straight_through
from beyondprop.training.evaluation import multiplies_bfloat16

OUT = Path(__file__).resolve().parent / "results" / "solvers.json"
BETA = 1e-3  # of a sample


@dataclass(frozen=True)
class Size:
    """Of the comparison."""

    recipe: str = "rescnet/cifar-10"
    layers: int | None = None
    epochs: tuple[int, ...] = (5, 10, 20, 40)
    images: int = 2000
    depth: int = 50
    program: int = 10_000
    fit: int = 2000
    steps: int = 2000
    lasso: tuple[int, int] = (500, 5000)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it gave."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def accuracy(size: Size) -> Iterator[Row]:
    """Time to equal accuracy."""
    recipe = find_recipe(size.recipe)
    settings = replace(recipe.settings, **({} if size.layers is None else {"layers": size.layers}))  # type: ignore[type-var]
    splits = recipe.make_data(settings, 0)
    torch.manual_seed(0)
    solver = recipe.build(settings, splits).rule
    batches = data.Batches(splits.train, settings.batch_size, shuffle=True)
    seconds, _ = timed(lambda: solver.fit_batches(batches))  # type: ignore[operator]
    test = data.Batches(splits.test, 1000, shuffle=False, statistics=batches.statistics)
    reached = evaluate(solver, test)["accuracy"]
    best = 0.0
    for epochs in size.epochs:
        taken, now = backpropagated(splits, reached, epochs)
        best = max(best, now)
        if taken is not None:
            break
    case = f"{size.recipe}, {settings.layers} layers, to {reached:.4f} test accuracy"  # type: ignore[attr-defined]
    peer = f"back-propagation, {best:.4f} in a schedule of {epochs} epochs"
    yield compare(case, "seconds", seconds, peer, taken, less_is_better=True)


def backpropagated(splits: data.Splits, wanted: float, epochs: int) -> tuple[float | None, float]:
    """Seconds of training until a convolutional network is as good, None if it is not; and its best accuracy."""
    torch.manual_seed(0)
    channels = splits.train.images.shape[1]
    layers: list[nn.Module] = []
    for before, after in ((channels, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    side = splits.train.images.shape[2] // 8
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * side**2, splits.train.classes))
    rule = Backprop(network.to(memory_format=torch.channels_last))
    batches = data.Batches(splits.train, 128, shuffle=True)
    test = data.Batches(splits.test, 1000, shuffle=False, statistics=batches.statistics)
    optimizer = torch.optim.AdamW(rule.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * len(batches))
    seconds, best = 0.0, 0.0
    for _ in range(epochs):
        start = time.perf_counter()
        rule.train()
        for images, y in batches:
            x = torch.where(torch.rand(len(y), 1, 1, 1) < 0.5, images, images.flip(3))
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
                rule.backward(x.to(memory_format=torch.channels_last), y)
            optimizer.step()
            schedule.step()
        seconds += time.perf_counter() - start
        best = max(best, evaluate(rule, test)["accuracy"])
        if best >= wanted:
            return seconds, best
    return None, best


def maps(size: Size) -> Iterator[Row]:
    """Keeping maps beside making them anew."""
    recipe = find_recipe(size.recipe)
    settings = replace(recipe.settings, layers=size.depth)  # type: ignore[type-var]
    splits = recipe.make_data(settings, 0)
    part = splits.train.subset(range(min(size.images, len(splits.train))))
    x, _ = next(iter(data.Batches(part, len(part), shuffle=False)))
    torch.manual_seed(0)
    solver = recipe.build(settings, splits).rule
    assert isinstance(solver, ResCNet)
    with torch.no_grad():
        anew, _ = timed(lambda: solver.right_by_depth(x, torch.zeros(len(x), dtype=torch.int64)))
        for place in ("memory", "disk"):
            shape = (len(x), 2 * solver.carry, *(side // solver.unshuffle for side in x.shape[2:]))
            kept = SampleStore(place).room(shape, torch.bfloat16)  # type: ignore[arg-type]
            new = torch.zeros(shape, dtype=torch.bfloat16)
            seconds, _ = timed(lambda kept=kept, new=new: (kept.copy_(new), kept.clone()))
            case = f"maps of {len(x)} images at layer {size.depth}, written to {place} and read back"
            yield compare(case, "seconds", seconds, "made anew from the images", anew, less_is_better=True)


def program(size: Size) -> Iterator[Row]:
    """The closed form beside a conic solver."""
    x, y = teacher(size.program)
    beta = BETA * size.program
    seconds, fit = timed(lambda: fit_shattered(y, beta))
    found = timed(lambda: conic(y, beta)) if have("cvxpy") else (None, None)
    case = f"convex program of three layers, n = {size.program}"
    yield compare(case, "seconds", seconds, "cvxpy with Clarabel", found[0], less_is_better=True)
    yield compare(case, "objective", fit.objective, "cvxpy with Clarabel", found[1], less_is_better=True)
    direction = np.random.default_rng(1).standard_normal(x.shape[1])
    whole, _ = timed(lambda: by_staircase(x, fit_shattered(y, beta).patterns, direction))
    case = f"three layers by levels, n = {size.program}"
    yield compare(case, "seconds", whole, "cvxpy's program alone", found[0], less_is_better=True)


def teacher(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples with a column of ones, and signs that a random network of tanh units gives them."""
    generator = np.random.default_rng(0)
    x = np.hstack([generator.standard_normal((count, 20)), np.ones((count, 1))])
    y = np.where(np.tanh(x @ generator.uniform(-1, 1, (21, 20))) @ generator.uniform(-1, 1, 20) >= 0, 1.0, -1.0)
    return x, y


def conic(y: np.ndarray, beta: float) -> float:
    """The program's value, as the authors solve it (with another conic solver)."""
    import cvxpy  # noqa: PLC0415  # an extra

    delta = cvxpy.Variable(len(y))
    largest = cvxpy.norm(cvxpy.pos(delta), "inf") + cvxpy.norm(cvxpy.pos(-delta), "inf")
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(delta - y) / 2 + beta * largest))
    problem.solve(solver="CLARABEL")
    return float(problem.value)


def fit(size: Size) -> Iterator[Row]:
    """A whole network."""
    x, y = teacher(size.fit)
    beta, generator = BETA * size.fit, np.random.default_rng(1)

    def levels() -> float:
        found = fit_shattered(y, beta)
        by_staircase(x, found.patterns, generator.standard_normal(21))
        return found.objective

    def shortest() -> None:
        by_pseudo_inverse(x, fit_shattered(y, beta).patterns, generator.standard_normal((21, 2 * size.fit)))

    def theirs() -> float:
        value = conic(y, beta)
        hidden = (x @ generator.standard_normal((21, size.fit)) >= 0).astype(np.float64)
        np.linalg.pinv(hidden) @ (y > 0)
        return value

    seconds, optimum = timed(levels)
    peer = timed(theirs)[0] if have("cvxpy") else None
    route = "cvxpy with Clarabel, then pinv"
    case = f"three layers by the pseudo-inverse, n = {size.fit}"
    yield compare(case, "seconds", timed(shortest)[0], route, peer, less_is_better=True)
    case = f"three layers by levels, n = {size.fit}"
    yield compare(case, "seconds", seconds, route, peer, less_is_better=True)
    torch.manual_seed(0)
    network = StraightThroughNetwork((21, 1000, 100))
    rows, targets = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    stepping, objectives = timed(
        lambda: fit_straight_through(network, rows, targets, beta, epochs=size.steps, until=1.001 * optimum)
    )
    reached = min(objectives) <= 1.001 * optimum
    peer_name = f"straight through, {len(objectives)} steps{'' if reached else ', optimum not reached'}"
    yield compare(case, "seconds", seconds, peer_name, stepping, less_is_better=True)
    yield compare(case, "objective", optimum, peer_name, min(objectives), less_is_better=True)


def lasso(size: Size) -> Iterator[Row]:
    """Solvers of the Lasso."""
    n, count = size.lasso
    generator = np.random.default_rng(0)
    x = generator.standard_normal((n, 20))
    y = np.where(x[:, 0] * x[:, 1] >= 0, 1.0, -1.0)
    d, beta = sampled(x, count, generator).patterns, 0.01 * n
    seconds, fitted = timed(lambda: solve_lasso(d, y, beta))
    for name in ("celer", "skglm"):
        taken = value = None
        if have(name):
            module = __import__(name)
            model = module.Lasso(alpha=beta / n, fit_intercept=False, tol=1e-10)
            model.fit(np.asfortranarray(d), y)  # compiles
            taken, _ = timed(lambda model=model: model.fit(np.asfortranarray(d), y))
            value = float(((d @ model.coef_ - y) ** 2).sum() / 2 + beta * np.abs(model.coef_).sum())
        case = f"Lasso of two layers, n = {n}, {d.shape[1]} patterns"
        yield compare(case, "seconds", seconds, name, taken, less_is_better=True)
        yield compare(case, "objective", fitted.objective, name, value, less_is_better=True)


def have(name: str) -> bool:
    """Whether a peer can be imported."""
    try:
        __import__(name)
    except ImportError:
        return False
    return True


PARTS: dict[str, Callable[[Size], Iterator[Row]]] = {
    "accuracy": accuracy,
    "maps": maps,
    "program": program,
    "fit": fit,
    "lasso": lasso,
}


def main(arguments: list[str] | None = None, size: Size | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--layers", type=int, default=None, help="of ResCNet in `accuracy` (default: the recipe's)")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in chosen.parts:
        found = list(PARTS[name](size or Size(layers=chosen.layers)))
        rows[name] = [{**vars(row), "case": f"{name}: {row.case}"} for row in found]
        for row in found:
            ratio = "" if row.ratio is None else f", {row.ratio:.3g} times better"
            print(f"{name}: {row.case}: {row.metric} {row.ours:.6g}, {row.peer} {row.peer_value}{ratio}", flush=True)
    before = json.loads(chosen.out.read_text())["rows"] if chosen.out.exists() else []
    kept = [row for row in before if row["case"].partition(":")[0] not in rows]
    made = [row for part in rows.values() for row in part]
    write_results(chosen.out, environment(torch.device("cpu")), [Row(**row) for row in (*kept, *made)])
    print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
