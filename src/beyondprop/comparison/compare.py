"""The comparison itself: tune, train, measure, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from beyondprop import training
from beyondprop.checks import check, check_fields
from beyondprop.comparison.contenders import Contender
from beyondprop.comparison.costs import costs_of
from beyondprop.comparison.tuning import require_search, tune
from beyondprop.data import Splits
from beyondprop.errors import DataError, NonFiniteError, RunError, UserError
from beyondprop.measure.alignment import alignment
from beyondprop.recipe import Settings
from beyondprop.report.comparison_page import PICTURES, draw_pictures, write_page
from beyondprop.report.folder import refuse_other, save_page, write_document
from beyondprop.report.results import COMPARISON
from beyondprop.reproduce import environment_of, make_folder, seed_folder, spread
from beyondprop.rule import Rule
from beyondprop.training.assembly import LoadedRun, assemble, load_run
from beyondprop.training.evaluation import autocast
from beyondprop.training.execution import Execution
from beyondprop.training.run_folder import read_metrics
from beyondprop.training.runs import Outcome, use_processor

Results = dict[str, Any]


def compare(
    contenders: Sequence[Contender],
    execution: Execution | None = None,
    *,
    seeds: int = 3,
    budget: int = 0,
    trial_epochs: int | None = None,
    out: Path = Path("compare"),
    overwrite: bool = False,
    progress: bool = True,
    tell: Callable[[str], None] = lambda _line: None,
) -> Results:
    """Tune and train each contender, measure what it costs, and write compare.json, pictures and a page.

    A contender that cannot train the network, whose loss becomes NaN, or that fails in any other way, stands in the
    comparison with the reason, and the others go on. Called again after an interruption it goes on from the
    checkpoints; what has finished is only read. The page is there from the first contender on, and grows; that of a
    finished comparison stays until the end.

    Args:
        contenders: As `rule_contenders` or `recipe_contenders` make them.
        execution: How; its seed is not used.
        seeds: How many, from 0 on.
        budget: Trials of the same search for every rule, judged on held-out images; 0 takes the settings as they are.
        trial_epochs: Epochs of a trial; by default those of the training.
        out: Folder of what is written.
        overwrite: Whether it may take the place of another comparison.
        progress: Whether to show the progress of each training on stderr.
        tell: Called with a line about each training before it begins.

    Returns:
        What compare.json holds; docs/compare.md tells what each figure means.

    Raises:
        UserError: A setting is out of range, or `out` holds something else.
        DataError: The data are not there.
        RunError: A run folder cannot be used, or the disk is full.
    """
    execution = execution or Execution()
    check(seeds=seeds, budget=budget, trial_epochs=trial_epochs)
    check_fields(execution, *(contender.settings for contender in contenders))
    if budget:
        require_search(contenders)
    elif trial_epochs is not None:
        raise UserError("--trial-epochs is of the trials of --budget: give --budget too, or leave it out")
    if len({contender.settings.validation for contender in contenders}) > 1:
        raise UserError("the recipes hold different numbers of images out of training: give one --validation for all")
    about = {
        "dataset": contenders[0].recipe.dataset,
        "settings": {contender.name: asdict(contender.settings) for contender in contenders},
        "budget": budget,
        "trial_epochs": trial_epochs,
        "precision": execution.precision,
        "channels_last": execution.channels_last,
    }
    refuse_other(out, COMPARISON, {**about, "seeds": list(range(seeds))}, PICTURES, overwrite=overwrite)
    make_folder(out, "--out")
    course = _Course(execution, seeds, budget, trial_epochs, progress, tell)
    splits = contenders[0].recipe.make_data(contenders[0].settings, 0)
    found: dict[str, Results] = {}
    outcomes: list[Outcome] = []
    document: Results = {}
    for number, contender in enumerate(contenders, start=1):
        try:
            found[contender.name], trained = course.run(contender, splits)
            outcomes += trained
        except (DataError, RunError):
            raise
        except Exception as error:  # whatever ends one rule, days of the others shall not go with it
            reason = _reason(error)
            tell(f"{contender.name}: {reason}")
            found[contender.name] = {"recipe": contender.recipe.id, "failed": reason}
        if not outcomes:
            continue
        document = {
            **about,
            "seeds": list(range(seeds)),
            "images": len(splits.train),
            "training_images": len(splits.train) - contender.settings.validation,  # the same of all
            "contenders": found,
            "environment": environment_of(outcomes),
        }
        waiting = [each.name for each in contenders[number:]]
        if waiting and (out / COMPARISON).exists():
            continue  # a comparison that came to its end keeps its page until this one has
        pictures = draw_pictures(document)
        # So far: a long one can be followed.
        save_page(out, write_page(document, pictures, waiting), pictures, PICTURES)
    if not outcomes:
        reasons = "; ".join(f"{name}: {each['failed']}" for name, each in found.items())
        raise UserError(f"nothing could be compared ({reasons})")
    write_document(out, COMPARISON, document)
    return document


def _reason(error: Exception) -> str:
    """The first line of what an error says; of Python's own, which may say a word or nothing, with its name."""
    said = str(error).strip().partition("\n")[0]
    if isinstance(error, UserError | RuntimeError):  # torch's own: memory, a kernel that is not there
        return said or type(error).__name__
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@dataclass(frozen=True)
class _Course:
    """What every contender goes through."""

    execution: Execution
    seeds: int
    budget: int
    trial_epochs: int | None
    progress: bool
    tell: Callable[[str], None]

    def run(self, contender: Contender, splits: Splits) -> tuple[Results, list[Outcome]]:
        """Measure, tune, train and measure again."""
        recipe, settings = contender.recipe, contender.settings
        with use_processor(self.execution.threads):
            built = assemble(recipe, settings, self.execution, splits)
            stepped = isinstance(built.rule, Rule)
            network = str(getattr(built.rule, "network", built.rule))  # some have several, or none that they name so
            costs = costs_of(built) if stepped else None
        trials: list[dict[str, Any]] = []
        if self.budget and stepped:
            tuned = tune(
                contender,
                self.execution,
                budget=self.budget,
                epochs=self.trial_epochs,
                progress=self.progress,
                tell=self.tell,
            )
            settings, trials = tuned.settings, tuned.trials
        outcomes, broken = [], {}
        for seed in range(self.seeds):
            self.tell(f"{contender.name}: seed {seed} ({seed + 1} of {self.seeds})")
            folder = seed_folder(recipe, settings, self.execution, seed)
            seeded = replace(self.execution, seed=seed)
            try:
                outcomes.append(training.train(recipe, settings, seeded, folder, resume=True, progress=self.progress))
            except NonFiniteError as error:
                self.tell(f"{contender.name}: seed {seed}: {error}")
                broken[seed] = str(error)
        if not outcomes:
            raise NonFiniteError(f"no seed came to an end: {broken[0]}")
        with use_processor(self.execution.threads):
            runs = [load_run(outcome.folder, device=self.execution.device) for outcome in outcomes]
            aligned = _alignment(runs) if stepped else {}
        document = {
            "recipe": recipe.id,
            "chosen": asdict(settings),
            "network": network,
            "trials": trials,
            "failed_seeds": broken,
            "metrics": {
                name: spread([outcome.metrics[name] for outcome in outcomes])
                for name in ("test_accuracy", "train_accuracy", "validation_accuracy")
                if name in outcomes[0].metrics
            },
            "train_seconds": spread([outcome.train_seconds for outcome in outcomes]),
            "curves": [_curve(run, outcome) for run, outcome in zip(runs, outcomes, strict=True)],
            "alignment": aligned,
            "costs": costs,
        }
        return document, outcomes


def _curve(run: LoadedRun, outcome: Outcome) -> list[dict[str, float]]:
    """Accuracy after each epoch; a solver's has one point.

    On held-out images where there are some, else on about a thousand training images.
    """
    name = "validation_accuracy" if run.validation is not None else "train_accuracy"
    images = len(run.splits.train)
    if not isinstance(run.rule, Rule):
        passes = len(run.rule.passes)
        return [
            {
                "epoch": passes,
                "images": images * passes,
                "seconds": outcome.train_seconds,
                "accuracy": float(outcome.metrics[name]),
            }
        ]
    assert isinstance(run.settings, Settings)
    plan = [epoch for epoch, _ in run.rule.passes(run.settings.epochs)]
    return [
        {
            "epoch": record["epoch"],
            "images": images * sum(epoch <= record["epoch"] for epoch in plan),
            "seconds": record["seconds"],
            "accuracy": record[name],
        }
        for record in read_metrics(outcome.folder)
        if "seconds" in record and name in record
    ]


def _alignment(runs: Sequence[LoadedRun]) -> dict[str, dict[str, Any]]:
    """Angle and norm ratio of each layer's update after the last epoch, over seeds; on one batch of training images."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for run in runs:
        rule = run.rule
        assert isinstance(rule, Rule)
        x, y = next(iter(run.batches(run.splits.train)))
        rule.train()
        layers: dict[str, Any] = {}
        for _, stage in rule.passes(1):
            rule.stage = stage
            for phase in rule.phases:
                if rule.teaches_network(phase):
                    with autocast(run.device, run.execution.precision):
                        layers |= alignment(rule, x, y, phase)
        for layer, each in layers.items():
            values = found.setdefault(layer, {"angle": [], "norm_ratio": []})
            values["angle"].append(each.angle)
            values["norm_ratio"].append(each.norm_ratio)
    return {
        layer: {name: spread(values) for name, values in figures.items()}
        for layer, figures in found.items()
        if any(angle is not None for angle in figures["angle"])
    }
