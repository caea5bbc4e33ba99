"""Causal sets and validity of spike times under random hard cases, by the sum over all spikes of arXiv 2211.16113.

Cases are drawn by hypothesis: input spikes at once, within rounding of each other, far apart or not at all; weights of
both signs over three orders of magnitude, and such that the potential's peak only just reaches the threshold or does
not. They are the same at every run.
"""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beyondprop.layers.spiking.sweep import Options, SpikeTimes

INPUTS, EACH, NEURONS, MOST = 3, 2, 3, 12
SHARES = torch.cat([torch.logspace(-6, -1, 12), torch.linspace(0.1, 1, 40)[1:-1]]).double()  # of an interval
SETTINGS = settings(
    derandomize=True,
    deadline=None,
    max_examples=12,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the path is the same for all cases of a test
)

MOMENTS = st.one_of(
    st.sampled_from([0.0, 0.5, 0.5 + 1e-12, 0.5 + 1e-6, 1.0, 40.0]),
    st.floats(0, 5, allow_subnormal=False),
    st.just(math.inf),
)  # in units of tau_s
MOST_WEIGHTS = st.builds(lambda sign, power: sign * 10**power, st.sampled_from([1, 1, -1]), st.floats(-1.5, 1.5))
GRAZING = st.sampled_from([1 - 1e-6, 1 - 1e-12, 1.0, 1 + 1e-12, 1 + 1e-9, 1 + 1e-6, 0.0])
WEIGHTS = st.one_of(MOST_WEIGHTS, GRAZING)  # in units of the one with which a single input spike peaks at the threshold


def filled(values, rows, columns):
    """Matrices of drawn numbers."""
    row = st.lists(values, min_size=columns, max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows).map(lambda x: torch.tensor(x, dtype=torch.float64))


CASES = given(times=filled(MOMENTS, INPUTS, EACH), weight=filled(WEIGHTS, NEURONS, INPUTS))


def spikes_of(times, weight, membrane):
    return SpikeTimes.apply(times, weight, membrane, Options(MOST))


def scaled(times, weight, membrane):
    """In the units of the membrane."""
    return membrane.tau_s * times, weight * membrane.threshold / membrane.peak()


def sums(times, weight, own, at, membrane):
    """V and V' just before moments of shape (neurons, moments), by the sums over all spikes before them."""
    rate = 0.0 if math.isinf(membrane.tau_m) else 1 / membrane.tau_m

    def kernel(d):
        if rate == 1 / membrane.tau_s:
            return d * torch.exp(-d * rate)
        return (torch.exp(-d * rate) - torch.exp(-d / membrane.tau_s)) / (1 / membrane.tau_s - rate)

    d = at[..., None, None] - times
    passed, d = d > 0, d.clamp(min=0)
    drive = torch.where(passed, kernel(d), 0.0).sum(3)
    current = torch.where(passed, torch.exp(-d / membrane.tau_s), 0.0).sum(3)
    since = at[..., None] - own[:, None]
    resets = torch.where(since > 0, torch.exp(-since.clamp(min=0) * rate), 0.0).sum(2)
    v = (drive * weight[:, None]).sum(2) - membrane.threshold * resets
    return v, (current * weight[:, None]).sum(2) - rate * v


def rounding(times, weight, membrane):
    """Of V, by neuron, with room: a billionth of all that adds up in it."""
    each = weight.abs() @ times.isfinite().sum(1).double() * membrane.peak()
    return 1e-9 * (membrane.threshold + each)[:, None]


@SETTINGS
@CASES
def test_spikes_are_where_the_potential_rises_to_the_threshold_and_none_is_missed(path, membrane, times, weight):
    """Between any two spikes, and long behind the last, V is below the threshold; after `MOST` nothing counts."""
    times, weight = scaled(times, weight, membrane)
    (own,) = spikes_of(times[None], weight, membrane)
    fired, room = own.isfinite(), rounding(times, weight, membrane)
    assert (fired[:, :-1] >= fired[:, 1:]).all()
    assert (own.diff(dim=1).nan_to_num(0) >= 0).all()
    v, slope = sums(times, weight, own, torch.where(fired, own, 0.0), membrane)
    assert ((v - membrane.threshold).abs() < room)[fired].all()
    assert (slope > -room / membrane.tau_s)[fired].all()

    arrivals = times[times.isfinite()].expand(NEURONS, -1)
    end = torch.where(fired[:, -1], own[:, -1], 100 * membrane.tau_s)[:, None]
    marks = torch.cat([0 * end, torch.minimum(arrivals, end), torch.where(fired, own, end), end], 1).sort(1).values
    at = (marks[:, :-1, None] + marks.diff(dim=1)[..., None] * SHARES).flatten(1)
    v, _ = sums(times, weight, own, at, membrane)
    assert (v < membrane.threshold + room).all()


@SETTINGS
@CASES
def test_only_earlier_inputs_cause_a_spike(path, membrane, times, weight):
    """The causal set: without the inputs behind a spike, it and all before it are where they were."""
    times, weight = scaled(times, weight, membrane)
    (own,) = spikes_of(times[None], weight, membrane)
    neuron, which = own[:, ::4].isfinite().nonzero(as_tuple=True)
    spike = own[neuron, 4 * which]
    again = spikes_of(times.where(times <= spike[:, None, None], math.inf), weight, membrane)
    again, before = again[range(len(spike)), neuron], own[neuron]
    passed = before <= spike[:, None]
    torch.testing.assert_close(again[passed], before[passed], rtol=1e-12, atol=0)


def test_cases_are_hard(membrane):
    """Among what is drawn there are silent neurons and busy ones, spikes at once, and spikes that graze."""
    seen = {"silent": 0, "busy": 0, "at once": 0, "grazing": 0}

    @SETTINGS
    @CASES
    def look(times, weight):
        times, weight = scaled(times, weight, membrane)
        (own,) = spikes_of(times[None], weight, membrane)
        fired = own.isfinite()
        _, slope = sums(times, weight, own, torch.where(fired, own, 0.0), membrane)
        seen["silent"] += int((~fired).all(1).sum())
        seen["busy"] += int(fired[:, -1].sum())
        seen["at once"] += len(times[times.isfinite()]) > len(times[times.isfinite()].unique())
        seen["grazing"] += int((slope[fired] < 1e-3 * membrane.threshold / membrane.tau_s).sum())

    look()
    assert all(seen.values()), seen


@pytest.mark.parametrize("above", [1e-14, 1e-9, 1e-4])
def test_a_peak_just_above_the_threshold_makes_a_spike_and_one_just_below_none(path, membrane, above):
    if math.isinf(membrane.tau_m):
        pytest.skip("without a leak V has no peak, but a limit")
    times = torch.zeros(1, 1, 1, dtype=torch.float64)
    for factor, count in ((1 + 1e3 * above, 1), (1 - 1e3 * above, 0)):
        weight = torch.full((1, 1), factor * membrane.threshold / membrane.peak(), dtype=torch.float64)
        assert int(spikes_of(times, weight, membrane).isfinite().sum()) == count
