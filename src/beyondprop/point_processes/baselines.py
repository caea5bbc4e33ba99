"""What needs no model of the past."""

from __future__ import annotations

import math

import torch

from beyondprop.data.events import EventSet, targets_and_last


def baselines(train: EventSet, test: EventSet) -> dict[str, float]:
    """Measure on test events what knows the training events' mean gap and mark frequencies alone.

    Returns:
        `constant_gap_nll` and `constant_nll`, of an exponential gap of the mean length and marks by frequency, an
        event, in nats and the data's unit; `constant_gap_rmse` of the mean gap; `constant_mark_accuracy` of the most
        frequent mark; and `repeat_mark_accuracy` of the last event's mark.
    """
    _, known = targets_and_last(train)
    last, target = targets_and_last(test)
    time = float(known[:, 0].double().sum())
    seen = known[known[:, 1] >= 0]
    mean = time / len(seen)
    counts = torch.bincount(seen[:, 1].long(), minlength=train.classes).double()
    frequency = (counts + 0.5) / (counts + 0.5).sum()
    gap, mark = target.double().unbind(1)
    there = mark >= 0
    gap_nll = float(gap.sum() / mean) / int(there.sum()) + math.log(mean)
    mark_nll = -float(torch.log(frequency)[mark[there].long()].mean())
    return {
        "constant_gap_nll": gap_nll,
        "constant_nll": gap_nll + mark_nll,
        "constant_gap_rmse": float((gap[there] - mean).square().mean().sqrt()),
        "constant_mark_accuracy": float((mark[there] == frequency.argmax()).double().mean()),
        "repeat_mark_accuracy": float((mark == last)[there].double().mean()),
    }
