"""The search for each rule's settings: the same for all, and without the test images."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_comparisons import FLAGS, contenders, raise_nan

from beyondprop import training
from beyondprop.cli import main
from beyondprop.comparison import compare
from beyondprop.comparison.tuning import RATE_FACTOR, tune
from beyondprop.errors import UserError
from beyondprop.training.execution import Execution
from beyondprop.training.run_folder import read_settings


def test_the_search_begins_with_the_rules_own_settings_and_stays_in_its_space():
    pytest.importorskip("optuna")
    (one,) = contenders("bp")
    found = tune(one, Execution(threads=1), budget=4, epochs=1, progress=False)
    assert found.trials[0]["learning_rate"] == one.settings.learning_rate
    rates = [trial["learning_rate"] for trial in found.trials]
    assert len(set(rates)) == 4
    assert [rate / rates[0] for rate in rates[1:3]] == pytest.approx([10**0.5, 10**-0.5], rel=0.05)
    assert all(1 / RATE_FACTOR <= rate / one.settings.learning_rate <= RATE_FACTOR * 1.01 for rate in rates)
    best = max(found.trials, key=lambda trial: trial["validation_accuracy"])
    assert found.settings == replace(
        one.settings, learning_rate=best["learning_rate"], weight_decay=best["weight_decay"]
    )
    assert found == tune(one, Execution(threads=1), budget=4, epochs=1, progress=False)  # from the finished runs


def test_a_trial_that_breaks_off_is_no_choice(monkeypatch):
    pytest.importorskip("optuna")
    (one,) = contenders("bp")
    train = training.train

    def broken_above(recipe, settings, *arguments, **options):
        if settings.learning_rate >= one.settings.learning_rate:
            raise_nan()
        return train(recipe, settings, *arguments, **options)

    monkeypatch.setattr(training, "train", broken_above)
    found = tune(one, Execution(threads=1), budget=5, epochs=1, progress=False)
    assert found.trials[0]["validation_accuracy"] is None
    assert found.settings.learning_rate < one.settings.learning_rate


def test_the_search_never_sees_the_test_images(monkeypatch):
    pytest.importorskip("optuna")
    (one,) = contenders("bp")
    train = training.train

    def reversed_on_test(*arguments, **options):
        outcome = train(*arguments, **options)
        outcome.metrics["test_accuracy"] = 1 - outcome.metrics["validation_accuracy"]
        return outcome

    honest = tune(one, Execution(threads=1), budget=3, epochs=1, progress=False)
    monkeypatch.setattr(training, "train", reversed_on_test)
    assert tune(one, Execution(threads=1), budget=3, epochs=1, progress=False).settings == honest.settings


def test_a_search_needs_held_out_images():
    pytest.importorskip("optuna")
    (one,) = contenders("bp", validation=0)
    with pytest.raises(UserError, match="give --validation more than 0"):
        tune(one, Execution(), budget=1)
    with pytest.raises(UserError, match="give --validation more than 0"):
        compare([one], budget=1)
    with pytest.raises(UserError, match="give one --validation for all"):
        compare([one, *contenders("dfa")])


def test_every_rule_has_the_same_search_and_is_trained_with_its_best_trial(capsys):
    pytest.importorskip("optuna")
    budget = ["--budget", "2", "--trial-epochs", "1", "--learning-rate", "0.002", "--batch-size", "32"]
    assert main(["compare", "--rules", "bp,dfa", *FLAGS, *budget, "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    page = Path("compare/index.html").read_text()
    assert "the best of 2 trials of the same search" in page
    drawn = {}
    for name, found in document["contenders"].items():
        own, other = drawn[name] = found["trials"]
        assert own["learning_rate"] == 0.002
        assert other["validation_accuracy"] > own["validation_accuracy"]  # the rate is too low, and the other higher
        assert {key: found["chosen"][key] for key in ("learning_rate", "weight_decay", "epochs")} == {
            **{key: other[key] for key in ("learning_rate", "weight_decay")},
            "epochs": 2,
        }
        runs = [read_settings(path.parent) for path in Path("runs", name).rglob("result.json")]
        assert [run["settings"] for run in runs if run["execution"]["seed"] < 2] == [found["chosen"]] * 2
        assert [run["settings"]["epochs"] for run in runs if run["execution"]["seed"] >= 2] == [1, 1]
        assert len(list(Path("runs", name).rglob("trial/result.json"))) == 2  # by which `report` tells them
        for number, trial in enumerate((own, other), start=1):
            cells = (
                f"{trial['learning_rate']:g}",
                f"{trial['weight_decay']:g}",
                f"{100 * trial['validation_accuracy']:.2f}",
            )
            assert f"<tr><th>{name}: {number}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) in page
    rates = [[trial["learning_rate"] for trial in trials] for trials in drawn.values()]
    assert rates[0] == rates[1]  # the same search, from the same rate
