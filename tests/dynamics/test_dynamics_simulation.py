"""Simulators against references of high order, closed forms and known exponents; noise by its moments."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from beyondprop.dynamics.lyapunov import largest_exponent
from beyondprop.dynamics.series import network_series
from beyondprop.dynamics.simulation import network_slope, observe, random_weights, simulate
from beyondprop.dynamics.systems import Chua, FitzHughNagumo, Lorenz
from beyondprop.errors import UserError

WEIGHTS = np.array([[0, 0.4, -0.2], [0, 0, 0.3], [0.5, 0, 0]])


def chua_slope(x, y, z, a=15.6, b=28.0):
    g = -5 / 7 * x + 0.5 * (-8 / 7 + 5 / 7) * (abs(x + 1) - abs(x - 1))
    return a * (y - x - g), x - y + z, -b * y


LOCAL = {
    "lorenz": (Lorenz(), lambda t, x, y, z: (10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z)),
    "chua": (Chua(), lambda t, x, y, z: chua_slope(x, y, z)),
    "fhn": (
        FitzHughNagumo(),
        lambda t, x, y: (x * (x - 1) * (1 - 10 * x) - y + 0.1 / 0.8105309046 * np.cos(0.8105309046 * t), x),
    ),
}


@pytest.mark.parametrize("name", LOCAL)
def test_networks_follow_an_independent_reference(name):
    """Written node by node and pair by pair, integrated by an implicit method of other origin."""
    system, local = LOCAL[name]
    starts = np.asarray(system.place) + 0.2 * np.arange(3)[:, None]

    def slope(t, flat):
        x = flat.reshape(3, -1)
        found = np.array([local(t, *x[k]) for k in range(3)])
        for k in range(3):
            for j in range(3):
                found[k, 0] += WEIGHTS[k, j] * (x[j, 0] - x[k, 0])
        return found.ravel()

    times = np.linspace(0, 1, 11)
    expected = solve_ivp(slope, (0, 1), starts.ravel(), "Radau", times, rtol=1e-9, atol=1e-9).y.T.reshape(11, 3, -1)
    found = simulate(system, WEIGHTS, 11, 0.1, starts=starts, tolerance=1e-10)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", LOCAL)
def test_jacobians_are_derivatives(name):
    system, _ = LOCAL[name]
    for x in np.random.default_rng(0).standard_normal((5, system.components)):
        e = 1e-6 * np.eye(system.components)
        expected = np.stack([(system.slope(0.3, x + d) - system.slope(0.3, x - d)) / 2e-6 for d in e], axis=1)
        np.testing.assert_allclose(system.jacobian(0.3, x), expected, atol=1e-6)


def test_chuas_diode_bends_at_one_and_at_the_limit():
    system = Chua(limit=3.0)
    slopes = [-(system.slope(0, np.array([u + 1e-6, 0, 0])) - system.slope(0, np.array([u, 0, 0])))[0] / 1e-6 / 15.6 - 1
              for u in (0.0, 2.0, -2.0, 4.0)]  # fmt: skip
    np.testing.assert_allclose(slopes, [-8 / 7, -5 / 7, -5 / 7, 1], atol=1e-6)
    several = Chua(a=(10.0, 20.0)).slope(0, np.ones((2, 3)))
    assert several[1, 0] == pytest.approx(2 * several[0, 0])


def test_driven_neurons_are_chaotic_at_0_129_and_not_at_0_11():
    options = {"washout": 100, "piece": 10, "tolerance": 1e-6}
    assert largest_exponent(FitzHughNagumo(f=0.129), time=500, **options) > 0.015
    assert largest_exponent(FitzHughNagumo(f=0.11), time=150, **options) < -0.05


def test_lorenz_has_its_known_exponent():
    assert largest_exponent(Lorenz(), time=100, washout=10, piece=2, tolerance=1e-6) == pytest.approx(0.906, abs=0.2)


def test_graphs_have_the_edges_and_weights_that_are_asked_for():
    w = random_weights(200, 0.1, mean=-0.5, deviation=0.05, seed=1)
    edges = w[w != 0]
    assert (np.diag(w) == 0).all()
    assert len(edges) / (200 * 199) == pytest.approx(0.1, abs=0.01)
    assert edges.mean() == pytest.approx(-0.5, abs=0.01)
    assert edges.std() == pytest.approx(0.05, abs=0.005)
    assert (w != w.T).any()


def test_noise_has_its_size():
    series = np.random.default_rng(0).standard_normal((2000, 5, 2)) * [1, 30]
    noise = observe(series, 0.05, seed=1) - series
    np.testing.assert_allclose(noise.std((0, 1)), 0.05 * series.std((0, 1)), rtol=0.05)


def test_process_noise_diffuses():
    """A neuron without slope is Brownian: variance grows by the squared deviation per unit of time."""

    class Still(Lorenz):
        def slope(self, t, x):
            return np.zeros_like(x)

    found = simulate(Still(), np.zeros((400, 400)), 3, 0.5, process_noise=0.3, starts=np.zeros((400, 3)), seed=2)
    assert (found[0] == 0).all()
    np.testing.assert_allclose(found[1:].var((1, 2)), [0.3**2 * 0.5, 0.3**2], rtol=0.15)


def test_the_noisy_scheme_without_noise_is_the_solvers_path():
    starts = np.asarray(Lorenz.place) + np.arange(9).reshape(3, 3)
    found = simulate(Lorenz(), WEIGHTS, 20, 0.02, starts=starts, process_noise=1e-12)
    np.testing.assert_allclose(found, simulate(Lorenz(), WEIGHTS, 20, 0.02, starts=starts), atol=1e-4)


def test_coupling_acts_in_its_components_alone():
    x = np.random.default_rng(0).standard_normal((3, 3))
    change = network_slope(Lorenz(), WEIGHTS, (1,), 0, x) - Lorenz().slope(0, x)
    expected = [sum(WEIGHTS[k, j] * (x[j, 1] - x[k, 1]) for j in range(3)) for k in range(3)]
    np.testing.assert_allclose(change[:, 1], expected)
    assert (change[:, [0, 2]] == 0).all()


def test_series_of_a_seed_are_its_own():
    def made(seed, **changes):
        options = {"nodes": 3, "probability": 0.5, "mean": 0.3, "deviation": 0.1, "steps": 40, "interval": 0.02}
        options["samples_alone"] = 100
        return network_series(Lorenz(), **options, washout=2, seed=seed, **changes)

    train, test = made(0, noise=0.1)
    assert train.images.shape == (1, 40, 9)
    np.testing.assert_array_equal(train.images[0, 1:], train.labels[0, :-1])
    share = (train.images[0].numpy().reshape(-1, 3, 3) - train.clean[:-1]).std((0, 1)) / train.clean.std((0, 1))
    np.testing.assert_allclose(share, 0.1, rtol=0.3)
    np.testing.assert_allclose(test.images[0].numpy().reshape(-1, 3, 3), test.clean[:-1], rtol=1e-5)
    assert (made(0, noise=0.1).train.images == train.images).all()
    assert (made(1).train.weights != train.weights).any()
    different = network_series(Chua(), nodes=3, probability=0.5, mean=-0.05, deviation=0.01, steps=5, interval=0.05,
                               washout=1, spread=0.1, samples_alone=50)  # fmt: skip
    assert len(set(different.train.system.a)) == 3


def test_what_cannot_be_simulated_is_told_in_one_line(one_line):
    with one_line(UserError, "probability"):
        random_weights(3, 1.5)
    with one_line(UserError, "weights"):
        simulate(Lorenz(), np.zeros((2, 3)), 5, 0.1)
    with one_line(UserError, "starts"):
        simulate(Lorenz(), WEIGHTS, 5, 0.1, starts=np.zeros((2, 3)))
    with one_line(UserError, "coupled"):
        simulate(Lorenz(), WEIGHTS, 5, 0.1, coupled=(3,))
    with one_line(UserError, "interval"):
        simulate(Lorenz(), WEIGHTS, 5, 0.0)
    with one_line(UserError, "bound"):
        simulate(Lorenz(), -1e3 * np.ones((3, 3)), 5, 1.0)
