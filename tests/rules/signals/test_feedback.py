"""Feedback weights: the range that they are drawn from, and where they are kept."""

import math

import pytest
import torch

from beyondprop.rules.signals.feedback import Feedback, kaiming_uniform


@pytest.mark.parametrize("shape", [(40, 500), (30, 4, 25, 10)], ids=["matrix", "maps"])
def test_the_bound_is_the_root_of_six_over_all_dimensions_but_the_first(shape):
    """Of many draws the largest is close to the bound and none beyond it, and they fill what lies between."""
    torch.manual_seed(0)
    drawn = kaiming_uniform(shape, torch.empty(0, dtype=torch.float64))
    bound = math.sqrt(6 / (drawn.numel() / shape[0]))
    assert drawn.shape == shape
    assert drawn.dtype == torch.float64
    assert 0.999 * bound < drawn.max() <= bound
    assert -bound <= drawn.min() < -0.999 * bound
    assert drawn.square().mean().item() == pytest.approx(bound**2 / 3, rel=0.02)
    assert abs(drawn.mean().item()) < 0.02 * bound


@pytest.mark.parametrize("learned", [False, True])
def test_weights_are_found_by_layer_and_saved(learned):
    weights = {"": torch.randn(2, 3), "blocks.0.linear": torch.randn(4, 3)}
    feedback = Feedback(weights, learned=learned)
    assert list(feedback) == list(weights)
    assert "blocks.0.linear" in feedback
    assert "blocks" not in feedback
    assert len(list(feedback.parameters())) == (2 if learned else 0)
    other = Feedback({name: torch.zeros_like(weight) for name, weight in weights.items()}, learned=learned)
    other.load_state_dict(feedback.state_dict())
    assert all(torch.equal(other[name], weight) for name, weight in weights.items())
