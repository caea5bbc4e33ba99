"""Accuracy and loss against values computed by hand."""

import math

import pytest
import torch
from torch import nn

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.training import evaluate, evaluation

SCORES = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
LABELS = torch.tensor([0, 0, 1])


def test_accuracy_and_cross_entropy_over_unequal_batches():
    batches = [(SCORES[:2], LABELS[:2]), (SCORES[2:], LABELS[2:])]
    result = evaluate(nn.Identity(), batches)
    expected = sum(math.log1p(math.exp(margin)) for margin in (-2.0, 1.0, 2.0)) / 3
    assert result == {"accuracy": pytest.approx(1 / 3), "loss": pytest.approx(expected), "count": 3}


def test_a_batch_of_nothing_counts_for_nothing(one_line):
    nothing = (SCORES[:0], LABELS[:0])
    assert evaluate(nn.Identity(), [nothing, (SCORES, LABELS), nothing])["count"] == 3
    with one_line(UserError, "batches are empty"):
        evaluate(nn.Identity(), [nothing])


def test_class_probabilities_count_by_the_largest():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [1.0, 0.0]])
    assert evaluate(nn.Identity(), [(SCORES, probabilities)])["accuracy"] == 1.0


def test_other_targets_are_regression():
    result = evaluate(nn.Identity(), [(SCORES, SCORES + 2)])
    assert result == {"loss": pytest.approx(4.0), "count": 3}


def test_modes_and_generators_are_left_as_they_were():
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    module[0].eval()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    evaluate(module, lambda: iter([(torch.randn(3, 2), LABELS)]))
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in module.modules()] == [True, False, True]


def test_the_modes_come_back_after_an_error():
    module = nn.Linear(2, 2)
    with pytest.raises(RuntimeError):
        evaluate(module, [(torch.randn(3, 5), LABELS)])
    assert module.training


def test_what_does_not_fit_is_told(one_line):
    with one_line(UserError, "batches are empty"):
        evaluate(nn.Identity(), [])
    with one_line(UserError, "targets of shape (2,) do not fit scores of shape (3, 2)"):
        evaluate(nn.Identity(), [(SCORES, torch.ones(2))])


def test_predictions_that_are_nan_are_told(one_line):
    """One sample's alone: an accuracy would hide it."""
    scores = SCORES.clone()
    scores[1, 0] = torch.nan
    batches = [(SCORES, LABELS), (scores, LABELS)]
    with one_line(NonFiniteError, "predictions are NaN for 1 samples"):
        evaluate(nn.Identity(), batches)
    with one_line(NonFiniteError, "predictions are NaN for 1 samples"):
        evaluate(nn.Identity(), [(scores, SCORES + 2)])
    with one_line(NonFiniteError, "predictions are NaN for 1 samples"):
        evaluate(nn.Identity(), [(scores[:, 0], SCORES[:, 0])])
    assert evaluate(nn.Identity(), [(SCORES.T.contiguous().T, LABELS)])["count"] == 3
    infinite = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0], [0.0, -math.inf]])  # a class is ruled out
    assert evaluate(nn.Identity(), [(infinite, torch.tensor([0, 1, 0]))])["accuracy"] == 1.0


def test_a_label_out_of_range_is_told():
    with pytest.raises(UserError, match=r"0\.\.1, got 2"):
        evaluate(nn.Identity(), [(torch.zeros(3, 2), torch.tensor([0, 2, 1]))])


@pytest.mark.parametrize("supported", [False, True])
def test_a_processor_without_bfloat16_is_told_of_once(monkeypatch, caplog, supported):
    monkeypatch.setattr(evaluation.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    evaluation._tell_of_slow_products.cache_clear()
    for precision in ("float32", "bf16", "bf16"):
        evaluation.autocast(torch.device("cpu"), precision)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (0 if supported else 1)
    assert all("leave --precision bf16 out" in line for line in told)
    evaluation._tell_of_slow_products.cache_clear()


def test_the_order_of_batches_decides_nothing(one_line):
    """Targets of a regression may look like probabilities in one batch."""
    likely, other = (SCORES, torch.eye(2)[LABELS]), (SCORES, SCORES + 2)
    expected = ((SCORES - torch.eye(2)[LABELS]).square().mean() + 4) / 2
    for batches in ([likely, other], [other, likely]):
        assert evaluate(nn.Identity(), batches) == {"loss": pytest.approx(expected.item()), "count": 6}
    for batches in ([(SCORES, LABELS), other], [other, (SCORES, LABELS)]):
        with pytest.raises(UserError, match=r"evaluate them apart|do not fit"):
            evaluate(nn.Identity(), batches)
