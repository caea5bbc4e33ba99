"""Hawkes processes: simulated and found again, and what must not change the fit."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from small_events import ALPHA, BASE, DECAY, hawkes_intensity, simulated

from beyondprop.data.events import event_sequences
from beyondprop.errors import UserError
from beyondprop.point_processes import GCHP, HawkesMLE, goodness_of_fit, rescaled_gaps, simulate_hawkes
from beyondprop.point_processes.hawkes import decayed_sums


def fitted(events, **options):
    pieces = events.pieces(history=1, targets=400)
    model = HawkesMLE.for_events(pieces, **options)
    return model.fit(pieces.images, pieces.labels, batch_size=10), pieces


def in_data_units(model):
    """mu, alpha and beta with time in the data's unit."""
    scale = float(model.scale)
    return model.base.double() / scale, model.excitation.double(), model.decay.double() / scale


@pytest.fixture(scope="module")
def events():
    return simulated(sequences=60)


@pytest.fixture(scope="module")
def maximum(events):
    unit = events.pieces(history=1, targets=400).mean_gap
    return fitted(events, decays=(DECAY * unit,), fit_decays=False)


def test_doubling_scan_is_the_recursion():
    torch.manual_seed(0)
    gaps, values = torch.rand(2, 13, dtype=torch.double), torch.rand(2, 13, 3, dtype=torch.double)
    decay = torch.tensor([0.5, 2.0], dtype=torch.double)
    found = decayed_sums(gaps, values, decay)
    state = torch.zeros(2, 3, 2, dtype=torch.double)
    for i in range(13):
        state = values[:, i].unsqueeze(2) + torch.exp(-gaps[:, i, None, None] * decay) * state
        torch.testing.assert_close(found[:, i], state)


def test_maximum_likelihood_finds_the_true_process_within_confidence_bounds(events, maximum):
    """Errors in units of the standard errors that the observed information gives, written down once more."""
    model, _pieces = maximum
    mu, alpha, beta = in_data_units(model)
    states, gaps, marks = [], [], []
    for i in range(len(events)):
        rows = slice(events.offsets[i], events.offsets[i + 1])
        times, kinds = events.times[rows], events.marks[rows]
        state = np.zeros(2)
        ends = np.append(times[1:], events.ends[i])
        for j in range(len(times)):
            if j:
                state *= math.exp(-DECAY * (times[j] - times[j - 1]))
            state[kinds[j]] += 1
            states.append(state.copy())
            gaps.append(ends[j] - times[j])
            marks.append(kinds[j + 1] if j + 1 < len(times) else -1)
    s, g, m = torch.tensor(np.array(states)), torch.tensor(gaps), torch.tensor(marks)

    def cost(parameters):
        base, excitation = parameters[:2], parameters[2:].view(2, 2)
        rates = base + DECAY * torch.exp(-DECAY * g).unsqueeze(1) * (s @ excitation.T)
        own = rates.gather(1, m.clamp(min=0).unsqueeze(1)).squeeze(1)
        hazard = base.sum() * g + (s @ excitation.sum(0)) * -torch.expm1(-DECAY * g)
        return (hazard - torch.where(m >= 0, torch.log(own), torch.zeros_like(own))).sum()

    found = torch.cat((mu, alpha[..., 0].flatten()))
    (gradient,) = torch.autograd.functional.jacobian(cost, (found,))
    information = torch.autograd.functional.hessian(cost, found)
    errors = torch.linalg.inv(information).diagonal().sqrt()
    true = torch.tensor([*BASE, *np.ravel(ALPHA)], dtype=torch.double)
    assert float(beta) == pytest.approx(DECAY, rel=1e-6)
    assert ((gradient * errors).abs() < 0.02).all()  # it is the maximum
    assert ((found - true).abs() < 3.5 * errors).all()
    assert (errors < 0.3 * true.max()).all()


def test_fitted_decays_find_the_true_one_from_far_off(events):
    model, _ = fitted(events, decays=(0.2,), fit_decays=True)
    assert float(in_data_units(model)[2]) == pytest.approx(DECAY, rel=0.2)


def test_order_of_marks_and_unit_of_time_do_not_change_the_fit(events, maximum):
    model, pieces = maximum
    figures = model.own_figures([(pieces.images, pieces.labels)])
    unit = pieces.mean_gap
    swapped = event_sequences(events.times, 1 - events.marks, events.offsets, ends=events.ends)
    other, parts = fitted(swapped, decays=(DECAY * unit,), fit_decays=False)
    again = other.own_figures([(parts.images, parts.labels)])
    assert again == pytest.approx(figures, rel=1e-5)
    torch.testing.assert_close(other.excitation.flip(0, 1), model.excitation, atol=1e-4, rtol=1e-3)
    slow, parts = fitted(events.in_unit(1 / 60), decays=(DECAY * unit,), fit_decays=False)
    again = slow.own_figures([(parts.images, parts.labels)])
    assert again["nll"] == pytest.approx(figures["nll"] + math.log(60), rel=1e-5)
    assert again["gap_rmse"] == pytest.approx(60 * figures["gap_rmse"], rel=1e-4)
    torch.testing.assert_close(slow.excitation, model.excitation, atol=1e-4, rtol=1e-3)


def test_gchp_learns_the_same_in_another_unit(events):
    found = []
    for unit in (1.0, 1 / 60):
        pieces = events.in_unit(unit).pieces(history=4, targets=16)
        torch.manual_seed(0)
        model = GCHP.for_events(pieces, window=4, hidden=8, times=True, gap="mixture")
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(10):
            optimizer.zero_grad()
            model.backward(pieces.images, pieces.labels)
            optimizer.step()
        found.append(model.eval().own_figures([(pieces.images, pieces.labels)])["nll"])
    assert found[1] == pytest.approx(found[0] + math.log(60), abs=1e-3)


def test_time_rescaled_by_the_true_model_is_unit_exponential_and_by_a_wrong_one_is_not():
    fresh = simulated(sequences=80, until=40.0, seed=11)
    pieces = fresh.pieces(history=1, targets=400)
    true = HawkesMLE.for_events(pieces, decays=(DECAY * pieces.mean_gap,))
    true.base.copy_(torch.tensor(BASE) * true.scale)
    true.excitation.copy_(torch.tensor(ALPHA).unsqueeze(2))
    batches = list(zip(pieces.images.split(20), pieces.labels.split(20), strict=True))
    good = goodness_of_fit(true, batches)
    assert len(good.gaps) == pieces.events
    assert good.gaps.mean() == pytest.approx(1, abs=4 / len(good.gaps) ** 0.5)
    assert good.p_value > 0.01
    poisson = HawkesMLE.for_events(pieces)
    poisson.base.copy_(torch.tensor([0.5, 0.5]) * pieces.events / pieces.labels[..., 0].sum() * poisson.scale)
    bad = goodness_of_fit(poisson, batches)
    assert bad.gaps.mean() == pytest.approx(1, abs=0.01)  # the right rate, at the wrong times
    assert bad.p_value < 1e-4


def test_rescaled_gaps_are_the_integrals_with_the_ends_carried_over():
    fresh = simulated(sequences=2, until=6.0, seed=5)
    pieces = fresh.pieces(history=1, targets=400)
    model = HawkesMLE.for_events(pieces)
    model.base.copy_(torch.tensor([0.25, 0.5]) * model.scale)
    found = rescaled_gaps(model, [(pieces.images, pieces.labels)])
    expected, carried = [], 0.0
    for i in range(2):
        times = fresh.times[fresh.offsets[i] : fresh.offsets[i + 1]]
        gaps = np.diff(times)
        gaps[0] += carried
        expected += (0.75 * gaps).tolist()
        carried = fresh.ends[i] - times[-1]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_simulated_events_have_the_stationary_rate_and_rescale_by_the_definition():
    events = simulate_hawkes(BASE, ALPHA, DECAY, until=300.0, sequences=40, seed=1)
    late = events.times > 100
    rate = np.bincount(events.marks[late], minlength=2) / (40 * 200)
    expected = np.linalg.solve(np.eye(2) - np.array(ALPHA), np.array(BASE))
    np.testing.assert_allclose(rate, expected, rtol=0.08)
    times, marks = (part[events.offsets[0] : events.offsets[1]] for part in (events.times, events.marks))
    clock = [
        sum(BASE) * t
        + sum(
            np.array(ALPHA)[:, k].sum() * -math.expm1(-DECAY * (t - s))
            for s, k in zip(times, marks, strict=False)
            if s < t
        )
        for t in times
    ]
    assert kstest(np.diff(clock, prepend=0.0), "expon").pvalue > 0.01
    assert (events.ends == 300.0).all()
    assert hawkes_intensity(0, times[0], times, marks) == BASE[0]


def test_same_seed_same_events():
    one, two, other = (simulated(3, seed=seed) for seed in (4, 4, 5))
    assert np.array_equal(one.times, two.times)
    assert not np.array_equal(one.times[:5], other.times[:5])


@pytest.mark.parametrize(
    ("excitation", "message"), [([[1.2]], "explodes"), ([[-0.1]], "nothing negative"), ([[0.1, 0.2]], "must fit")]
)
def test_what_cannot_be_simulated_is_refused(excitation, message):
    with pytest.raises(UserError, match=message):
        simulate_hawkes([0.5], excitation, 1.0, until=5.0, sequences=2, seed=0)
