"""Likelihoods and outlooks against numeric integration, and against the definition of a Hawkes process."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from small_events import few, hawkes_intensity, models

from beyondprop.data.events import NO_TARGET, targets_and_last
from beyondprop.errors import NonFiniteError, UserError
from beyondprop.point_processes import HawkesMLE

MODELS = models()
each_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def batch():
    pieces = few().pieces(history=4, targets=6)
    return pieces.images.double(), pieces.labels.double()


def one_target(x, y):
    """The same events with their second target alone."""
    rows, columns = (y[..., 1] > NO_TARGET).nonzero()[1]
    alone = torch.full_like(y, NO_TARGET)
    alone[..., 0] = 0
    alone[rows, columns] = y[rows, columns]
    return x[rows : rows + 1], alone[rows : rows + 1]


def integrated(function, begin, end):
    """The integral, more exact than anything is compared with here: an evaluation takes a model's whole pass."""
    return quad(function, begin, end, epsabs=1e-7, epsrel=1e-6, limit=300)[0]


def log_joint(model, x, y, gap, mark):
    """Log-density of another gap and mark in the place of the target."""
    moved = y.clone()
    place = moved[..., 1] > NO_TARGET
    moved[place] = torch.tensor([gap, float(mark)], dtype=y.dtype)
    with torch.no_grad():
        return model.likelihood(x, moved)


def density_of_gap(model, x, y, gap):
    """Of another gap in the place of the target's, whatever the mark."""
    return sum(math.exp(sum(map(float, log_joint(model, x, y, gap, mark)[:2]))) for mark in range(2))


@each_model
def test_densities_of_gap_and_mark_integrate_to_one_and_survival_is_what_is_left(name, batch):
    model, (x, y) = MODELS[name], one_target(*batch)

    density = partial(density_of_gap, model, x, y)
    until = 1.3
    before = integrated(density, 0, until)
    left = log_joint(model, x, y, until, -1)
    assert float(left.mark) == 0
    assert math.exp(float(left.gap)) == pytest.approx(1 - before, abs=2e-5)
    assert float(left.hazard) == pytest.approx(-math.log(1 - before), abs=5e-5)
    beyond = math.exp(float(log_joint(model, x, y, 40.0, -1).gap))
    assert before + integrated(density, until, 40.0) + beyond == pytest.approx(1, abs=1e-4)


@each_model
def test_marks_given_the_time_sum_to_one(name, batch):
    model, (x, y) = MODELS[name], one_target(*batch)
    assert sum(math.exp(float(log_joint(model, x, y, 0.6, mark).mark)) for mark in range(2)) == pytest.approx(1)


@each_model
def test_hazard_is_the_integrated_intensity(name, batch):
    """The intensity is density over survival: integrated, it gives the logarithm of the survival."""
    model, (x, y) = MODELS[name], one_target(*batch)

    def intensity(gap):
        return math.exp(float(log_joint(model, x, y, gap, 0).gap) - float(log_joint(model, x, y, gap, -1).gap))

    found = float(log_joint(model, x, y, 0.9, 0).hazard)
    assert found == pytest.approx(integrated(intensity, 0, 0.9), rel=1e-4)


@each_model
def test_outlook_is_the_mean_and_the_marks_whenever(name, batch):
    model, (x, y) = MODELS[name], one_target(*batch)
    with torch.no_grad():
        found = model.outlook(x, y)
    horizon = 40.0
    pieces = [0, 0.05, 0.5, 2, 8, horizon]

    def integral(function):
        return sum(integrated(function, a, b) for a, b in itertools.pairwise(pieces))

    def density(gap, mark):
        return math.exp(sum(map(float, log_joint(model, x, y, gap, mark)[:2])))

    shares = [integral(lambda gap, mark=mark: density(gap, mark)) for mark in range(2)]
    mean = integral(lambda gap: gap * (density(gap, 0) + density(gap, 1))) / sum(shares)
    assert float(found.gap) == pytest.approx(mean, rel=5e-3)
    np.testing.assert_allclose(found.marks.exp()[0], np.array(shares) / sum(shares), atol=2e-3)


@pytest.mark.parametrize("name", ["hawkes", "rmtpp", "thp"])
def test_the_expected_gap_is_that_of_an_event_within_the_horizon(name, batch):
    model, (x, y) = models()[name], one_target(*batch)
    model.horizon.fill_(1.0)  # in mean gaps: often nothing comes until then
    limit = float(model.scale)

    density = partial(density_of_gap, model, x, y)
    share = integrated(density, 0, limit)
    assert share < 0.9
    with torch.no_grad():
        found = float(model.outlook(x, y).gap)
    assert found == pytest.approx(integrated(lambda gap: gap * density(gap), 0, limit) / share, rel=5e-3)


@each_model
def test_only_what_came_before_counts(name, batch):
    """Events from the target on may be others: its likelihood stays."""
    model, (x, y) = MODELS[name], one_target(*batch)
    column = int((y[0, :, 1] > NO_TARGET).nonzero()[0])
    other = x.clone()
    other[:, column + 1 :, 0] += 0.7
    other[:, column + 1 :, 1] = 1 - other[:, column + 1 :, 1].abs()
    for one, two in zip(model.likelihood(x, y), model.likelihood(other, y), strict=True):
        torch.testing.assert_close(one, two)
    earlier = x.clone()
    earlier[:, column, 1] = 1 - earlier[:, column, 1]
    assert not torch.allclose(model.likelihood(x, y).gap, model.likelihood(earlier, y).gap)


@each_model
def test_another_unit_of_time_shifts_the_likelihood_by_its_logarithm(name, batch):
    x, y = batch
    slow = models(mean_gap=0.8 * 60)[name]
    slow.horizon.copy_(MODELS[name].horizon)
    minute = torch.tensor([60.0, 1.0], dtype=torch.double)
    here, there = MODELS[name].likelihood(x, y), slow.likelihood(x * minute, y * minute)
    seen = targets_and_last(few().pieces(history=4, targets=6))[1][:, 1] >= 0
    torch.testing.assert_close(there.gap, here.gap - math.log(60) * seen)
    torch.testing.assert_close(there.mark, here.mark)
    torch.testing.assert_close(slow.outlook(x * minute, y * minute).gap, 60 * MODELS[name].outlook(x, y).gap)


def test_hawkes_intensities_by_the_definition(batch):
    """Sequence by sequence, event by event, with the integral by quadrature."""
    x, y = batch
    model = MODELS["hawkes"]
    scale, events = float(model.scale), few()
    parameters = (
        [float(v) / scale for v in model.base],
        model.excitation.numpy(),
        [float(v) / scale for v in model.decay],
    )
    expected = []
    for i in range(2):
        rows = slice(events.offsets[i], events.offsets[i + 1])
        times, marks = events.times[rows].tolist(), events.marks[rows].tolist()
        ends = [*times[1:], events.ends[i]] if events.ends[i] > times[-1] else times[1:]
        for j, end in enumerate(ends):
            past = times[: j + 1], marks[: j + 1]

            def total(t, past=past):
                return sum(hawkes_intensity(m, t, *past, parameters) for m in range(2))

            value = -quad(total, times[j], end)[0]
            if j + 1 < len(times):
                value += math.log(hawkes_intensity(marks[j + 1], end, *past, parameters))
            expected.append(value)
    found = model.likelihood(x, y)
    np.testing.assert_allclose((found.gap + found.mark).numpy(), expected, rtol=1e-6)


@each_model
def test_figures_are_sums_over_events_with_the_survival_at_the_end(name, batch):
    x, y = batch
    model = MODELS[name]
    found = model.own_figures([(x[:1], y[:1]), (x[1:], y[1:])])
    with torch.no_grad():
        likelihood, outlook = model.likelihood(x, y), model.outlook(x, y)
    targets = y[y[..., 1] > NO_TARGET]
    events = targets[:, 1] >= 0
    assert found["count"] == int(events.sum()) == 6
    assert len(events) == 7  # the first sequence goes on without an event
    assert found["nll"] == pytest.approx(-float((likelihood.gap + likelihood.mark).sum()) / 6)
    assert found["gap_nll"] == pytest.approx(-float(likelihood.gap.sum()) / 6)
    off = (outlook.gap - targets[:, 0])[events]
    assert found["gap_rmse"] == pytest.approx(float(off.square().mean().sqrt()))
    right = outlook.marks.argmax(1)[events] == targets[events, 1]
    assert found["mark_accuracy"] == pytest.approx(float(right.double().mean()))


@each_model
def test_a_call_predicts_what_follows_the_last_event(name, batch):
    x, _ = batch
    model = MODELS[name]
    with torch.no_grad():
        found = model(x)
        alone = model(x[1:, :3])
    assert found.shape == (2, 3)
    torch.testing.assert_close(found[1:], alone)
    y = torch.full_like(x, NO_TARGET)
    last = (x[..., 1] >= 0).sum(1) - 1
    for row, column in enumerate(last.tolist()):
        y[row, column] = 0
    with torch.no_grad():
        outlook = model.outlook(x, y)
        first = model(x[:, :1])
    torch.testing.assert_close(found[:, 0], outlook.gap)
    assert not torch.allclose(found, first)
    torch.testing.assert_close(found[:, 1:].exp().sum(1), torch.ones(2, dtype=torch.double))


@each_model
def test_what_are_no_events_is_refused(name, batch):
    x, y = batch
    model = MODELS[name]
    with pytest.raises(UserError, match="pairs of gap and mark"):
        model.check_events(x[..., :1], y)
    with pytest.raises(UserError, match="negative gap"):
        model.check_events(-x, y)
    with pytest.raises(UserError, match="marks must lie below 2"):
        model.check_events(x, y + 3)
    with pytest.raises(NonFiniteError, match="NaN"):
        model.check_events(x * torch.nan, y)
    with pytest.raises(UserError, match="trains no classifier"):
        type(model).for_classifier(torch.nn.Linear(2, 2), x, 2)


def test_decays_are_asked_for():
    with pytest.raises(UserError, match="at least one decay"):
        HawkesMLE(2, decays=())
