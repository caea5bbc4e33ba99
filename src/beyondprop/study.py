"""A comparative study: several rules on the same network and data, over several seeds, and how alike they end.

The questions are those of arXiv 2206.06098: stability and similarity of predictions and of neurons. Its text is not
public beyond the abstract, so algorithms, data and measures here are our own choice.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beyondprop import training
from beyondprop.checks import check_fields
from beyondprop.errors import UserError
from beyondprop.measure.activations import hidden_activations
from beyondprop.measure.similarity import churn, error_overlap, kappa, linear_cka, matched_correlation, mean_kl
from beyondprop.recipe import Recipe, SolverSettings
from beyondprop.report.folder import refuse_other, save_page, write_document
from beyondprop.report.study_page import PICTURES, draw_pictures, write_page
from beyondprop.reproduce import environment_of, make_folder, seed_folder, spread
from beyondprop.training.assembly import LoadedRun, assemble
from beyondprop.training.evaluation import autocast
from beyondprop.training.execution import Execution
from beyondprop.training.exported import scores_of
from beyondprop.training.runs import use_processor

Results = dict[str, Any]

STUDY = "study.json"
MOST_SAMPLES = 2000  # on which neurons are compared: two layers of 1000 neurons of twenty networks are then 320 MB
MOST_NEURONS = 1000  # that are matched with those of another network; the Hungarian method is cubic in them


def study(
    recipes: Sequence[Recipe],
    changed: Mapping[str, Any] | None = None,
    execution: Execution | None = None,
    *,
    seeds: int = 3,
    out: Path = Path("study"),
    overwrite: bool = False,
    progress: bool = True,
    tell: Callable[[str], None] = lambda _line: None,
) -> Results:
    """Train each recipe from seeds 0..seeds-1, compare the networks, and write study.json, pictures and a page.

    Called again after an interruption it goes on from the checkpoints; runs that have finished are only read. They are
    the runs of `reproduce` with the same settings.

    Args:
        recipes: At least two, of the same network and data set.
        changed: Settings that take another value than the recipe's, by name, in all of them.
        execution: How; its seed is not used.
        seeds: How many, at least two.
        out: Folder of what is written.
        overwrite: Whether it may take the place of another study.
        progress: Whether to show the progress of each training on stderr.
        tell: Called with a line about each run before it begins.

    Returns:
        What study.json holds; docs/study.md tells what each figure means.

    Raises:
        UserError: A setting is out of range; the recipes cannot be compared; `out` holds something else.
    """
    execution = execution or Execution()
    if seeds < 2:
        raise UserError(f"--seeds must be at least 2, not {seeds}: what differs from seed to seed is the question")
    if len({recipe.id for recipe in recipes}) < max(2, len(recipes)):
        raise UserError("a study compares at least two different recipes: name each once")
    settings = {recipe.id: replace(recipe.settings, **(changed or {})) for recipe in recipes}
    check_fields(execution, *settings.values())
    with use_processor(execution.threads):
        about = _about(recipes, settings, execution)
    refuse_other(out, STUDY, {**about, "seeds": list(range(seeds))}, PICTURES, overwrite=overwrite)
    make_folder(out, "--out")
    outcomes: dict[str, list[Any]] = {recipe.id: [] for recipe in recipes}
    for number, (recipe, seed) in enumerate(itertools.product(recipes, range(seeds)), start=1):
        tell(f"{recipe.id}, seed {seed} ({number} of {len(recipes) * seeds})")
        folder = seed_folder(recipe, settings[recipe.id], execution, seed)
        seeded = replace(execution, seed=seed)
        outcome = training.train(recipe, settings[recipe.id], seeded, folder, resume=True, progress=progress)
        outcomes[recipe.id].append(outcome)
    with use_processor(execution.threads):
        document = {**about, "seeds": list(range(seeds)), **_compared(recipes, settings, execution, outcomes)}
    document["environment"] = environment_of([each for of_recipe in outcomes.values() for each in of_recipe])
    pictures = draw_pictures(document)
    save_page(out, write_page(document, pictures), pictures, PICTURES)
    write_document(out, STUDY, document)
    return document


@dataclass(frozen=True)
class Trained:
    """One network, as it is compared.

    Attributes:
        scores: On all test images, shape (N, classes).
        hidden: Activations on some of them, shape (samples, neurons), by layer.
    """

    scores: Tensor
    hidden: dict[str, Tensor]


def compare(runs: Mapping[str, Sequence[Trained]], untrained: Sequence[Mapping[str, Tensor]], y: Tensor) -> Results:
    """Compare networks of several rules and seeds.

    A square table has a row and a column for each rule: on its diagonal two seeds of one rule are compared, beside it
    two rules at one seed; both are means over all such pairs.

    Args:
        runs: By rule, one network for each seed.
        untrained: The activations of the networks from which they began, one for each seed.
        y: True classes of the test images.

    Returns:
        `stability` (churn, error overlap and kappa of each rule over pairs of seeds), `predictions` (tables of
        agreement and of the divergence that the column's rule has from the row's) and `neurons` (by layer, tables of
        linear CKA and matched correlation, with the untrained networks as the last row and column).
    """
    classes = {name: [each.scores.argmax(dim=1) for each in of_rule] for name, of_rule in runs.items()}
    stability = {}
    for name, predicted in classes.items():
        pairs = list(itertools.combinations(predicted, 2))
        stability[name] = {
            "churn": spread([churn(a, b) for a, b in pairs]),
            "error_overlap": spread([error_overlap(a, b, y) for a, b in pairs]),
            "kappa": spread([kappa(a, b) for a, b in pairs]),
        }
    agreement = _table(list(classes.values()), lambda a, b: 1 - churn(a, b))
    scores = [[each.scores for each in of_rule] for of_rule in runs.values()]
    neurons = {}
    for layer in untrained[0]:
        hidden = [[each.hidden[layer] for each in of_rule] for of_rule in runs.values()]
        hidden.append([each[layer] for each in untrained])
        neurons[layer] = {"linear_cka": _table(hidden, linear_cka), "matched_correlation": _table(hidden, _matched)}
    predictions = {"agreement": agreement, "kl": _table(scores, mean_kl, symmetric=False)}
    return {"stability": stability, "predictions": predictions, "neurons": neurons}


def _table(
    rows: Sequence[Sequence[Tensor]], measure: Callable[[Tensor, Tensor], float], *, symmetric: bool = True
) -> list[list[float]]:
    """Means over pairs of seeds on the diagonal, over seeds beside it."""
    table = [[0.0] * len(rows) for _ in rows]
    for (i, first), (j, second) in itertools.product(enumerate(rows), repeat=2):
        if symmetric and i > j:
            table[i][j] = table[j][i]
        elif i == j:
            pairs = itertools.combinations(first, 2) if symmetric else itertools.permutations(first, 2)
            table[i][i] = statistics.fmean(measure(a, b) for a, b in pairs)
        else:
            table[i][j] = statistics.fmean(measure(a, b) for a, b in zip(first, second, strict=True))
    return table


def _matched(x: Tensor, y: Tensor) -> float:
    """The mean matched correlation; of a wide layer some neurons, evenly chosen, are matched with all of the other."""
    return matched_correlation(x[:, :: math.ceil(x.shape[1] / MOST_NEURONS)], y).mean


def _about(recipes: Sequence[Recipe], settings: Mapping[str, SolverSettings], execution: Execution) -> Results:
    """What is compared; refuses recipes that are not of one network and one data set."""
    first, *others = recipes
    if first.data is not None:
        raise UserError(f"{first.id} predicts numbers: a study compares classifiers")
    for other in others:
        if other.dataset != first.dataset:
            raise UserError(
                f"{first.id} is trained on {first.dataset} and {other.id} on {other.dataset}: a study compares rules "
                "on the same data"
            )
    built = {recipe.id: assemble(recipe, settings[recipe.id], execution) for recipe in recipes}
    networks = {name: _network(name, each) for name, each in built.items()}
    described = {name: str(network) for name, network in networks.items()}
    for name, text in described.items():
        if text != described[first.id]:
            lines = itertools.zip_longest(described[first.id].splitlines(), text.splitlines(), fillvalue="nothing")
            one, two = next((one.strip(), two.strip()) for one, two in lines if one != two)
            one, two = (text if text != ")" else "no further layer" for text in (one, two))
            raise UserError(
                f"{first.id} and {name} train different networks, {one} against {two}: name recipes of one network, or "
                "change the settings that they share"
            )
    weights = [network.state_dict() for network in networks.values()]
    return {
        "recipes": [recipe.id for recipe in recipes],
        "settings": {name: asdict(chosen) for name, chosen in settings.items()},
        "dataset": first.dataset,
        "network": described[first.id],
        "precision": execution.precision,
        "channels_last": execution.channels_last,
        "same_initial_weights": all(
            each.keys() == weights[0].keys() and all(torch.equal(each[n], weights[0][n]) for n in each)
            for each in weights
        ),
    }


def _network(name: str, built: LoadedRun) -> nn.Module:
    """The network that a recipe's rule trains, if its hidden layers can be looked at."""
    network = getattr(built.rule, "network", None)
    x, _ = next(iter(built.batches(built.splits.test)))
    if not isinstance(network, nn.Module) or type(network).forward is nn.ModuleList.forward:
        raise UserError(
            f"{name} does not train one network from image to scores, so it has no hidden layers to be compared with"
        )
    if not hidden_activations(network, x[:2]):
        raise UserError(f"the network of {name} has no hidden layer: a study compares hidden neurons")
    return network


def _compared(
    recipes: Sequence[Recipe],
    settings: Mapping[str, SolverSettings],
    execution: Execution,
    outcomes: Mapping[str, Sequence[Any]],
) -> Results:
    """Load what was trained, and compare it."""
    runs: dict[str, list[Trained]] = {}
    for name, of_recipe in outcomes.items():
        loaded = (training.load_run(outcome.folder, device=execution.device) for outcome in of_recipe)
        runs[name] = [Trained(scores_of(each, each.splits.test), _hidden(each)) for each in loaded]
    first = recipes[0]
    begun = [
        assemble(first, settings[first.id], replace(execution, seed=seed)) for seed in range(len(outcomes[first.id]))
    ]
    untrained = [_hidden(each) for each in begun]
    test = begun[0].splits.test
    return {
        "samples": {"predictions": len(test), "neurons": len(next(iter(untrained[0].values())))},
        "accuracy": {
            name: spread([outcome.metrics["test_accuracy"] for outcome in of_recipe])
            for name, of_recipe in outcomes.items()
        },
        **compare(runs, untrained, test.labels.long().cpu()),
    }


def _hidden(run: LoadedRun) -> dict[str, Tensor]:
    """Activations on test images that lie evenly over the split."""
    test = run.splits.test
    chosen = test.subset(range(0, len(test), math.ceil(len(test) / MOST_SAMPLES)))
    network = run.rule.network
    assert isinstance(network, nn.Module)
    with autocast(run.device, run.execution.precision):
        found = [hidden_activations(network, x) for x, _ in run.batches(chosen)]
    return {layer: torch.cat([each[layer] for each in found]).float().cpu() for layer in found[0]}
