"""Noise on updates: its size, one draw for each parameter, and what it leaves alone."""

import pytest
import torch

from beyondprop.errors import UserError
from beyondprop.rules.perturbation.update_noise import add_update_noise


def test_every_parameter_is_disturbed_by_itself_and_only_when_it_moves():
    torch.manual_seed(0)
    moved, still = (torch.nn.Parameter(torch.zeros(10_000)) for _ in range(2))
    optimizer = torch.optim.SGD([moved, still], lr=0.0)
    handle = add_update_noise(optimizer, 0.5)
    moved.grad = torch.ones(10_000)
    optimizer.step()
    values = moved.detach()
    assert abs(float(values.std()) - 0.5) < 0.02
    assert abs(float(values.mean())) < 0.02
    assert (still == 0).all()
    handle.remove()
    before = moved.detach().clone()
    optimizer.step()
    assert torch.equal(before, moved.detach())


def test_a_negative_deviation_is_refused():
    with pytest.raises(UserError, match="at least 0"):
        add_update_noise(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), -1.0)
