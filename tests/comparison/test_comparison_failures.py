"""What ends one rule is told with its reason, and the others go on."""

import html
from pathlib import Path

import pytest
from small_comparisons import SMALL, compared, raise_nan

from beyondprop import training
from beyondprop.comparison import compare, rule_contenders
from beyondprop.comparison.compare import _Course
from beyondprop.errors import DataError, RunError, UserError
from beyondprop.rules.signals.feedback_alignment import FeedbackAlignment
from beyondprop.training.execution import Execution


def test_what_cannot_be_trained_stands_there_with_its_reason_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(FeedbackAlignment, "assign_credit", lambda *_: raise_nan())
    found = compared("bp", "fa")["contenders"]
    assert "test_accuracy" in found["bp"]["metrics"]
    assert found["fa"]["failed"] == "the loss of layer 3 is nan"
    page = Path("compare/index.html").read_text()
    assert "the loss of layer 3 is nan" in page


def test_a_network_that_a_rule_does_not_support_is_a_reason():
    found = compare(
        rule_contenders(["bp", "spike-timing"], "digits", "conv", SMALL),
        seeds=1,
        progress=False,
        execution=Execution(threads=1),
    )
    assert "Conv2d" in found["contenders"]["spike-timing"]["failed"]


def test_seeds_that_came_to_an_end_count_where_another_broke_off(monkeypatch):
    train = training.train

    def broken_second(recipe, settings, execution, *arguments, **options):
        return raise_nan() if execution.seed == 1 else train(recipe, settings, execution, *arguments, **options)

    monkeypatch.setattr(training, "train", broken_second)
    found = compared("bp", seeds=3)["contenders"]["bp"]
    assert len(found["metrics"]["test_accuracy"]["values"]) == 2
    assert found["failed_seeds"] == {1: "the loss of layer 3 is nan"}
    assert "bp, seed 1" in Path("compare/index.html").read_text()


def test_what_torch_itself_refuses_is_a_reason_too(monkeypatch):
    def lacks(*_):
        raise NotImplementedError("no kernel for this\nmore lines")

    monkeypatch.setattr(FeedbackAlignment, "assign_credit", lacks)
    assert compared("bp", "fa")["contenders"]["fa"]["failed"] == "no kernel for this"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("too few samples\nmore lines"), "ValueError: too few samples"),
        (TypeError("a float"), "TypeError: a float"),
        (KeyError("layer"), "KeyError: 'layer'"),
        (MemoryError(), "MemoryError"),
        (FloatingPointError("overflow"), "FloatingPointError: overflow"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_whatever_ends_a_rule_is_a_reason_and_the_others_go_on(error, reason, monkeypatch):
    def fails(self, contender, splits):
        if contender.name == "fa":
            raise error
        return ask(self, contender, splits)

    ask = _Course.run
    monkeypatch.setattr(_Course, "run", fails)
    found = compared("fa", "bp")["contenders"]
    assert found["fa"]["failed"] == reason
    assert "test_accuracy" in found["bp"]["metrics"]
    assert html.escape(reason) in Path("compare/index.html").read_text()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("no data"), RunError("the disk is full")])
def test_what_would_end_every_rule_ends_the_comparison(error, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(_Course, "run", fails)
    with pytest.raises(type(error)):
        compared("fa", "bp")


def test_nothing_is_written_where_nothing_could_be_compared(monkeypatch):
    monkeypatch.setattr(FeedbackAlignment, "assign_credit", lambda *_: raise_nan())
    with pytest.raises(UserError, match=r"nothing could be compared \(fa: the loss of layer 3 is nan\)"):
        compared("fa")
    assert not Path("compare/compare.json").exists()
