"""Properties of the signal levels and of the chain's coefficients (arXiv 2503.24322, Section 2.1, Appendix A)."""

import math
from itertools import pairwise

import pytest
import torch
from torch import distributions

from beyondprop.errors import UserError
from beyondprop.rules.local.noprop import DiscreteSchedule, cosine_schedule

SCHEDULES = {
    "cosine": cosine_schedule(10),
    "many steps": cosine_schedule(100),
    "one step": cosine_schedule(1),
    "signal at the start": DiscreteSchedule((0.1, 0.4, 0.7, 0.9)),
}


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES.keys())
def schedule(request):
    return request.param


def test_update_maps_each_marginal_onto_the_next(schedule):
    """With û = u the update takes N(sqrt(ᾱ_{t-1}) u, 1 - ᾱ_{t-1}) to N(sqrt(ᾱ_t) u, 1 - ᾱ_t), mean and variance."""
    for t in range(1, schedule.steps + 1):
        a, b, c = schedule.coefficients(t)
        before, now = schedule.alpha_bar[t - 1], schedule.alpha_bar[t]
        assert a + b * math.sqrt(before) == pytest.approx(math.sqrt(now), rel=1e-12)
        assert b**2 * (1 - before) + c == pytest.approx(1 - now, rel=1e-12)


def test_update_is_the_posterior_of_the_forward_process(schedule):
    """(a, b, c) against Bayes' rule with q(z_{t-1} | z_t) as the likelihood and q(z_t | y) as the prior (5)-(6)."""
    for t in range(1, schedule.steps + 1):
        before, now = schedule.alpha_bar[t - 1], schedule.alpha_bar[t]
        alpha = before / now
        precision = 1 / (1 - now) + alpha / (1 - alpha)
        a, b, c = schedule.coefficients(t)
        assert c == pytest.approx(1 / precision, rel=1e-9)
        assert a == pytest.approx(math.sqrt(now) / (1 - now) / precision, rel=1e-9)
        assert b == pytest.approx(math.sqrt(alpha) / (1 - alpha) / precision, rel=1e-9)


def test_weight_of_a_block_is_half_its_snr_increment(schedule):
    """a_t² / (2 c_t) = (SNR(t) - SNR(t-1)) / 2: the KL between posteriors, (51)-(56)."""
    for t in range(1, schedule.steps + 1):
        a, _, c = schedule.coefficients(t)
        assert a**2 / (2 * c) == pytest.approx(schedule.snr_increment(t) / 2, rel=1e-9)


def test_snr_increments_add_up(schedule):
    total = sum(schedule.snr_increment(t) for t in range(1, schedule.steps + 1))
    first, last = schedule.alpha_bar[0], schedule.alpha_bar[-1]
    assert total == pytest.approx(last / (1 - last) - first / (1 - first))


def test_prior_kl_equals_monte_carlo():
    u = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    schedule = DiscreteSchedule((0.3, 0.9))
    q = distributions.Normal(math.sqrt(0.3) * u, math.sqrt(0.7))
    prior = distributions.Normal(torch.zeros_like(u), 1.0)
    torch.manual_seed(0)
    z = q.sample((200_000,))
    estimates = (q.log_prob(z) - prior.log_prob(z)).sum(dim=1)
    error = 4 * estimates.std() / math.sqrt(len(estimates))
    assert schedule.prior_kl(float(u.square().sum()), 3) == pytest.approx(estimates.mean().item(), abs=error.item())
    assert error < 0.02


def test_prior_kl_vanishes_without_signal_at_the_start():
    assert cosine_schedule(10).prior_kl(5.0, 10) == 0


def test_cosine_levels_are_those_of_the_formula():
    """ᾱ at T = 10, s = 0.008, computed by hand from cos²(((1 - t/T) + s) / (1 + s) · π/2); the clean end is clipped."""
    by_hand = [0, 0.02409, 0.09403, 0.20309, 0.34076, 0.49377, 0.64738, 0.78679, 0.89857, 0.97194, 0.995]
    assert cosine_schedule(10).alpha_bar == pytest.approx(by_hand, abs=6e-6)


@pytest.mark.parametrize("steps", [1, 2, 10, 100, 1000])
def test_cosine_runs_from_noise_to_clean(steps):
    levels = cosine_schedule(steps, highest=0.99).alpha_bar
    assert levels[0] == 0
    assert levels[-1] == pytest.approx(0.99)
    assert len(levels) == steps + 1
    assert all(early < late for early, late in pairwise(levels))


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ((0.9, 0.5, 0.1), "increase"),
        ((0.0, 0.5, 0.5), "increase"),
        ((0.0, 1.0), r"\[0, 1\)"),
        ((-0.1, 0.5), r"\[0, 1\)"),
        ((0.0, float("nan")), r"\[0, 1\)"),
        ((0.5,), "at least one step"),
    ],
)
def test_reversed_or_impossible_levels_are_refused(levels, words):
    with pytest.raises(UserError, match=words):
        DiscreteSchedule(levels)


def test_no_steps_are_refused():
    with pytest.raises(UserError, match="at least one step"):
        cosine_schedule(0)


@pytest.mark.parametrize("highest", [0.0, 1.0, -1.0, 2.0])
def test_impossible_clip_is_refused(highest):
    with pytest.raises(UserError):
        cosine_schedule(10, highest=highest)
