"""A series of one's own: what is refused, appraisal without a truth, and kinds of networks beyond the plainest."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from beyondprop import NetworkInference
from beyondprop.dynamics.appraisal import OWN, appraise
from beyondprop.dynamics.checked import checked_series
from beyondprop.dynamics.closed_forms import closed_forms
from beyondprop.dynamics.comparison import valid_time
from beyondprop.dynamics.lyapunov import largest_exponent
from beyondprop.dynamics.regression import cubics
from beyondprop.dynamics.scores import edge_auc, valid_steps, weight_rmse
from beyondprop.dynamics.simulation import observe, random_weights, simulate
from beyondprop.dynamics.systems import FitzHughNagumo, Lorenz
from beyondprop.errors import NonFiniteError, UserError
from beyondprop.training.network_picture import draw_inference

WEIGHTS = random_weights(4, 0.5, seed=1)


def fitted(series, watch=lambda _part: None, **options):
    torch.manual_seed(0)
    given = {"interval": 0.01, "hidden": 6, "windows": 8, "rounds": 1, "sweeps": 20} | options
    return NetworkInference(series.shape[-2], series.shape[-1], **given).fit(series, watch=watch)


@pytest.fixture(scope="module")
def whole():
    """700 samples of four Lorenz systems, of which the last 200 are held out."""
    return observe(simulate(Lorenz(), WEIGHTS, 700, 0.01, washout=5, seed=2), 0.001)


@pytest.fixture(scope="module")
def told(whole):
    """The passes as a fit of the first 300 samples told them, and what it found."""
    passes = []
    return passes, fitted(whole[:300], watch=passes.append)


@pytest.fixture(scope="module")
def inference(told):
    return told[1]


def test_another_fit_begins_anew(whole):
    again = NetworkInference(4, 3, interval=0.01, hidden=4, windows=4, rounds=1, sweeps=10)
    again.fit(whole[300:360])
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        again.fit(whole[:60])
        found.append(again.weights.clone())
    assert torch.equal(*found)  # after another series, and after the same


def test_an_appraisal_sets_free_runs_beside_closed_forms(whole, inference):
    found = appraise(inference, whole[:300], whole[500:], starts=5, horizon=80)
    assert set(found.runs) == {OWN, *found.forms}
    assert found.truth.shape == found.runs[OWN].shape == (5, 81, 4, 3)
    np.testing.assert_array_equal(found.truth[:, 0], whole[500:][[0, 29, 59, 89, 119]])
    np.testing.assert_allclose(found.runs[OWN][:, 0], found.truth[:, 0], rtol=1e-6)
    assert 0.6 < found.valid_time[OWN] <= 0.8
    assert found.lasted[OWN] == np.mean(valid_steps(found.runs[OWN], found.truth, whole[500:].std((0, 1))) > 80)
    assert found.valid_time["least_squares"] == pytest.approx(0.8) or found.lasted["least_squares"] < 1
    assert weight_rmse(found.forms["least_squares"].weights, WEIGHTS) < 0.1
    # the threshold goes by the weights that were found, and with a large one nothing is left
    assert edge_auc(np.abs(found.forms["sparse_regression"].weights), WEIGHTS) > 0.8
    none = appraise(inference, whole[:300], whole[500:], starts=1, threshold=10.0)
    assert not none.forms["sparse_regression"].weights.any()
    picture = Image.open(io.BytesIO(draw_inference(inference, found, "Four Lorenz systems")))
    assert picture.size == (1265, 792)


def test_a_wrong_network_is_seen_on_what_is_held_out(whole, inference):
    wrong = NetworkInference(4, 3, interval=0.01, hidden=6)
    wrong.load_state_dict(inference.state_dict())
    wrong.weights.neg_()
    found, worse = (appraise(each, whole[:300], whole[500:], horizon=150) for each in (inference, wrong))
    assert worse.valid_time[OWN] < 0.5 * found.valid_time[OWN]


@pytest.mark.parametrize(("coupled", "bound"), [((1,), 0.03), ((0, 2), 0.06)])
def test_other_components_couple(coupled, bound):
    series = simulate(Lorenz(), WEIGHTS, 300, 0.01, washout=1, coupled=coupled, seed=2)  # before they move alike
    found = fitted(observe(series, 0.001), coupled=coupled)
    assert edge_auc(found.weights.abs().numpy(), WEIGHTS) == 1
    assert weight_rmse(found.weights.numpy(), WEIGHTS) < bound
    assert found.residual < 1e-5  # the noise's variance is 1e-6


def test_several_series_of_one_network():
    series = np.stack([simulate(Lorenz(), WEIGHTS, 120, 0.01, washout=5, seed=seed) for seed in (2, 3)])
    found = fitted(observe(series, 0.001))
    assert edge_auc(found.weights.abs().numpy(), WEIGHTS) == 1
    assert weight_rmse(found.weights.numpy(), WEIGHTS) < 0.03


def test_a_driven_network_is_found_and_runs_from_its_phase():
    """FitzHugh-Nagumo neurons feel a drive; 80 samples of a period, two substeps each."""
    system, weights = FitzHughNagumo(), -0.2 * WEIGHTS
    interval = system.period / 80
    series = simulate(system, weights, 400, interval, washout=5 * system.period, seed=2)
    found = fitted(series[:320], interval=interval, period=system.period, substeps=2, windows=(4, 16))
    assert edge_auc(found.weights.abs().numpy(), weights) == 1
    assert weight_rmse(found.weights.numpy(), weights) < 0.02
    truth = series[340:361]
    right, unaware = (np.abs(found.predict(truth[0], 20, at=at).numpy() - truth).max() for at in (340, 380))
    assert right < 0.2
    assert unaware > 5 * right
    own = appraise(found, series[:320], series[320:], horizon=70, begin=320, library=cubics)
    assert own.valid_time[OWN] > 30 * interval
    late = appraise(found, series[:320], series[320:], horizon=70, begin=360, library=cubics)
    assert late.valid_time[OWN] < own.valid_time[OWN]
    assert late.valid_time["least_squares"] < own.valid_time["least_squares"]


def test_growth_is_averaged_over_the_time_that_was_counted():
    """Pieces that do not fit into the time are whole, and count as what they are."""
    whole, broken = (largest_exponent(Lorenz(), time=time, washout=1, piece=2) for time in (6, 4.2))
    assert broken == pytest.approx(whole)
    assert largest_exponent(Lorenz(), time=1, washout=3, piece=2) > 0


def test_a_series_is_checked_in_one_line(one_line):
    good = np.random.default_rng(0).standard_normal((60, 3, 2))
    for bad, kind, text in (
        ("series.npy", UserError, "not str (load it first)"),
        (good[:, :, 0], UserError, "(time, nodes, components)"),
        (good.astype(complex), UserError, "complex128"),
        (good > 0, UserError, "bool"),
        ([[1, 2], [3]], UserError, "array of numbers"),
        (np.ma.masked_greater(good, 2), NonFiniteError, "masked"),
        (np.where(np.arange(60)[:, None, None] == 7, np.inf, good), NonFiniteError, "sample 7, node 0, component 0"),
    ):
        with one_line(kind, text):
            checked_series(bad)
    assert checked_series(torch.zeros(2, 3, 1, requires_grad=True)).dtype == np.float64
    assert checked_series(good[::-1])[0, 0, 0] == good[-1, 0, 0]
    inference = NetworkInference(3, 2, windows=8)
    still = good.copy()
    still[:, 1] = 0.5
    with one_line(UserError, "node 1 does not move"):
        inference.fit(still)
    with one_line(UserError, "subtract the mean"):
        inference.fit(good + 1e6)
    with one_line(UserError, "(3, 2), or (starts, 3, 2)"):
        inference.states = torch.zeros(1, 1, 3, 2)
        inference.predict(np.zeros(6), 5)
    with one_line(UserError, "a start must be an array"):
        inference.predict("a", 5)
    with one_line(NonFiniteError, "start"):
        inference.predict(np.full((3, 2), np.nan), 5)


def test_closed_forms_and_simulations_are_checked_as_the_inference_is(one_line):
    good = np.random.default_rng(0).standard_normal((60, 3, 2))
    with one_line(UserError, "(time, nodes, components)"):
        closed_forms(good[0], 0.1)
    with one_line(NonFiniteError, "NaN"):
        closed_forms(np.full((60, 3, 2), np.nan), 0.1)
    for coupled in ((5,), (0.5,), (), (0, 0)):
        with one_line(UserError, "coupled must name different components from 0 to 1"):
            closed_forms(good, 0.1, coupled=coupled)
        with one_line(UserError, "coupled must name different components"):
            NetworkInference(3, 2, coupled=coupled)
    with one_line(UserError, "coupled must name"):
        simulate(Lorenz(), np.zeros((2, 2)), 5, 0.01, coupled=3)
    np.testing.assert_array_equal(
        *(closed_forms(good, 0.1, coupled=c)["least_squares"].weights for c in (1, np.array([1])))
    )
    assert NetworkInference(3, 2, coupled=np.int64(1)).coupled == (1,)


def test_what_was_saved_knows_its_clock(inference, one_line):
    saved = inference.state_dict()
    with one_line(UserError, "interval=0.01, period=0: give NetworkInference the same"):
        NetworkInference(4, 3, interval=1.0, hidden=6).load_state_dict(saved)
    del saved["clock"]  # older ones had none
    NetworkInference(4, 3, interval=0.01, hidden=6).load_state_dict(saved)


def test_a_fit_tells_its_passes(told):
    passes, inference = told
    assert tuple(passes) == inference.passes


def test_an_appraisal_is_checked(whole, inference, one_line):
    with one_line(UserError, "4 nodes, 3 components"):
        appraise(inference, whole[:500], whole[500:, :3])
    with one_line(UserError, "a horizon of 300 needs 301"):
        appraise(inference, whole[:500], whole[500:], horizon=300)
    with one_line(UserError, "call fit first"):
        appraise(NetworkInference(4, 3), whole[:500], whole[500:])


def test_a_run_that_lasts_has_been_valid_for_as_long_as_it_is():
    truth = np.zeros((2, 11, 3, 1))
    run = truth.copy()
    run[1, 4:] = 9.0
    assert valid_time(run[:1], truth[:1], np.ones(1), interval=0.5) == 5.0
    assert valid_time(run, truth, np.ones(1), interval=0.5) == (5.0 + 2.0) / 2
