"""The same number of trials of the same search for every rule, judged on images held out of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from beyondprop import training
from beyondprop.comparison.contenders import Contender
from beyondprop.errors import NonFiniteError, UserError
from beyondprop.recipe import Settings
from beyondprop.reproduce import seed_folder
from beyondprop.training.execution import Execution
from beyondprop.training.run_folder import TRIAL

RATE_FACTOR = 10.0  # the search goes so far above and below the rate that the rule begins with
WEIGHT_DECAY = (1e-6, 1e-2)
SEED = 1000  # of weights, order and held-out images of the trials: no seed that is reported


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        settings: The best trial's, with as many epochs as the contender has.
        trials: Of each its settings and its accuracy on held-out images; None where the training broke off.
    """

    settings: Settings
    trials: list[dict[str, Any]]


def tune(
    contender: Contender,
    execution: Execution,
    *,
    budget: int,
    epochs: int | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = lambda _line: None,
) -> Tuned:
    """Search the learning rate and the weight decay.

    The first trial has the contender's own settings; the second and the third have rates of the root of ten above and
    below its own, so that even a short search looks on both sides. The others are drawn by Optuna, those of the first
    half of the budget at random and the rest by the tree-structured Parzen estimator: the rate between a tenth and ten
    times the contender's, the decay between 1e-6 and 1e-2, both on a logarithmic scale. A trial is a run folder like
    any other: called again after an interruption, trials that have finished are only read.

    Args:
        contender: A rule's; its settings hold images out.
        execution: How; its seed is not used.
        budget: Trials, at least 1.
        epochs: Of a trial; by default the contender's.
        progress: Whether to show the progress of each training on stderr.
        tell: Called with a line about each trial before it begins.

    Raises:
        UserError: Optuna is not installed, or no image is held out.
    """
    settings = contender.settings
    assert isinstance(settings, Settings), "a solver has no learning rate"
    optuna = require_search([contender])
    sampler = optuna.samplers.TPESampler(seed=SEED, n_startup_trials=max(3, budget // 2))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    low, high = settings.learning_rate / RATE_FACTOR, settings.learning_rate * RATE_FACTOR
    space = {
        "learning_rate": optuna.distributions.FloatDistribution(low, high, log=True),
        "weight_decay": optuna.distributions.FloatDistribution(*WEIGHT_DECAY, log=True),
    }
    own = {"learning_rate": settings.learning_rate, "weight_decay": settings.weight_decay}
    least, most = WEIGHT_DECAY  # a decay of 0 is tried as such, and told to the search as the least that it knows
    study.enqueue_trial({**own, "weight_decay": min(max(own["weight_decay"], least), most)})
    for factor in (RATE_FACTOR**0.5, RATE_FACTOR**-0.5):
        study.enqueue_trial({"learning_rate": own["learning_rate"] * factor})
    trials: list[dict[str, Any]] = []
    for number in range(budget):
        trial = study.ask(space)
        drawn: dict[str, Any] = {n: _rounded(value) for n, value in trial.params.items()} if number else own
        tried = replace(settings, epochs=epochs or settings.epochs, **drawn)
        tell(f"{contender.name}: trial {number + 1} of {budget}, learning rate {tried.learning_rate:g}")
        accuracy = _accuracy(contender, tried, execution, progress=progress)
        study.tell(trial, accuracy or 0.0)
        trials.append({**drawn, "validation_accuracy": accuracy})
    known = [trial for trial in trials if trial["validation_accuracy"] is not None]
    if not known:
        raise NonFiniteError(f"all {budget} trials of {contender.name} came to losses that are not finite")
    best = max(known, key=lambda trial: trial["validation_accuracy"])
    chosen = replace(settings, learning_rate=best["learning_rate"], weight_decay=best["weight_decay"])
    return Tuned(chosen, trials)


def _accuracy(contender: Contender, settings: Settings, execution: Execution, *, progress: bool) -> float | None:
    """On held-out images after the last epoch; None where the training broke off."""
    folder = seed_folder(contender.recipe, settings, execution, SEED).with_name(TRIAL)  # lists of runs tell it so
    try:
        outcome = training.train(
            contender.recipe, settings, replace(execution, seed=SEED), folder, resume=True, progress=progress
        )
    except NonFiniteError:
        return None
    found: float = outcome.metrics["validation_accuracy"]
    return found


def _rounded(value: float) -> float:
    """Two significant figures: what a person would have typed, and no finer than a search resolves."""
    return float(f"{value:.1e}") if value and math.isfinite(value) else value


def require_search(contenders: Sequence[Contender]) -> Any:
    """Import Optuna, and refuse rules without held-out images to be judged by.

    Raises:
        UserError: It is not installed, or a rule's settings hold no image out.
    """
    for contender in contenders:
        if isinstance(contender.settings, Settings) and not contender.settings.validation:
            raise UserError("--budget chooses settings by held-out images: give --validation more than 0")
    try:
        import optuna  # noqa: PLC0415  # an extra
    except ImportError:
        raise UserError("--budget needs Optuna: pip install 'beyondprop[tuning]', or pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
