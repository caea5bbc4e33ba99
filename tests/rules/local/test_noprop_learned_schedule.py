"""NoProp-CT's learned signal-to-noise ratio."""

import pytest
import torch

from beyondprop.errors import UserError
from beyondprop.rules.local.noprop import LearnedSchedule

TIMES = torch.linspace(0, 1, 201, dtype=torch.float64)


def shaken(seed):
    """A schedule whose every parameter stands anywhere."""
    torch.manual_seed(seed)
    schedule = LearnedSchedule(width=7).double()
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter.add_(2 * torch.randn_like(parameter))
    return schedule


@pytest.mark.parametrize("seed", range(5))
def test_snr_rises_whatever_the_parameters(seed):
    schedule = shaken(seed)
    gamma, slope = schedule.gamma_and_slope(TIMES)
    assert (gamma.diff() < 0).all()
    assert (slope < 0).all()
    assert gamma.isfinite().all()


@pytest.mark.parametrize("seed", range(5))
def test_derivative_of_snr_equals_finite_differences(seed):
    schedule, h = shaken(seed), 1e-5
    inside = TIMES[1:-1]
    gamma, slope = schedule.gamma_and_slope(inside)
    difference = (torch.exp(-schedule(inside + h)) - torch.exp(-schedule(inside - h))) / (2 * h)
    torch.testing.assert_close(-slope * torch.exp(-gamma), difference, rtol=1e-6, atol=1e-9)


def test_ends_are_the_two_learned_numbers():
    schedule = LearnedSchedule(clean=-2.0, noisy=3.0)
    torch.testing.assert_close(schedule(torch.tensor([0.0, 1.0])), torch.tensor([3.0, -2.0]))
    with torch.no_grad():
        schedule.clean.fill_(-4.0)
    torch.testing.assert_close(schedule(torch.tensor([0.0, 1.0])), torch.tensor([1.0, -4.0]))


def test_starts_nearly_straight():
    gamma = LearnedSchedule()(torch.linspace(0, 1, 11))
    straight = torch.linspace(6.0, -5.3, 11)
    assert (gamma - straight).abs().max() < 1.0


def test_every_parameter_has_a_gradient_and_the_weights_are_positive_by_construction():
    schedule = shaken(1)
    schedule(TIMES[20:40]).sum().backward()
    for name, parameter in schedule.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("seed", range(3))
def test_inverse(seed):
    schedule = shaken(seed)
    noisy, clean = schedule(TIMES[[0, -1]]).detach()
    wanted = torch.lerp(noisy, clean, torch.linspace(0, 1, 21, dtype=torch.float64))
    times = schedule.times_at(wanted)
    torch.testing.assert_close(schedule(times).detach(), wanted, atol=2e-2, rtol=0)
    assert times[0] == 0
    assert times[-1] == 1


def test_unusable_ends_are_refused():
    with pytest.raises(UserError, match="noisy"):
        LearnedSchedule(clean=1.0, noisy=1.0)
    with pytest.raises(UserError, match="width"):
        LearnedSchedule(width=0)
