"""The recipes of quaternion networks: twins of equal widths and of equally many parameters, and the Lorenz system."""

import dataclasses

import numpy as np
import pytest
import torch

from beyondprop import data
from beyondprop.catalogue import find_recipe
from beyondprop.data.lorenz import lorenz, lorenz_series
from beyondprop.errors import DataError
from beyondprop.layers.quaternion import QLSTM, QuaternionBatchNorm2d, QuaternionConv2d, QuaternionLinear
from beyondprop.networks.quaternion import convolutional
from beyondprop.rules.signals.quaternion import QuaternionBackprop

PAIRS = ("digits", "mnist", "cifar-10", "lorenz")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("variant", PAIRS)
def test_twins_differ_in_their_algebra_alone(variant):
    settings = find_recipe(f"quaternion/{variant}").settings
    assert find_recipe(f"bp/{variant}-quaternion").settings == dataclasses.replace(settings, algebra="real")


def test_small_twins_have_as_many_parameters():
    made = {}
    for name in ("quaternion/cifar-10", "bp/cifar-10-quaternion", "bp/cifar-10-quaternion-small"):
        settings = find_recipe(name).settings
        made[name] = convolutional((3, 32, 32), 10, width=settings.width, algebra=settings.algebra, norm=settings.norm)
    quaternion, real, small = (parameters(network) for network in made.values())
    assert quaternion < 0.26 * real
    assert abs(small - quaternion) < 0.02 * quaternion
    kinds = [type(m) for m in made["quaternion/cifar-10"].modules() if list(m.parameters(recurse=False))]
    assert kinds.count(QuaternionConv2d) == 6
    assert kinds.count(torch.nn.Conv2d) == kinds.count(torch.nn.Linear) == 1


def test_batch_norm_is_by_modulus_or_of_each_component():
    for norm, kind in (("modulus", QuaternionBatchNorm2d), ("split", torch.nn.BatchNorm2d)):
        network = convolutional((3, 32, 32), 10, width=8, algebra="quaternion", norm=norm)
        assert isinstance(network[1], kind)
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_perceptrons_are_built_and_count_their_parameters(digits):
    for name in ("quaternion/digits", "bp/digits-quaternion"):
        recipe = find_recipe(name)
        experiment = recipe.build(recipe.settings, digits)
        network = experiment.rule.network
        assert experiment.measures(()) == {"parameters": parameters(network)}
        layers = [m for m in network if list(m.parameters())]
        assert isinstance(experiment.rule, QuaternionBackprop) == (recipe.settings.algebra == "quaternion")
        assert [isinstance(m, QuaternionLinear) for m in layers] == [recipe.settings.algebra == "quaternion"] * 2 + [
            False
        ]


@pytest.mark.slow
def test_the_forecaster_is_built_and_stands_beside_filters():
    recipe = find_recipe("quaternion/lorenz")
    settings = dataclasses.replace(recipe.settings, steps=200, window=20, series=1, hidden=8, taps=2)
    splits = settings.data()
    experiment = recipe.build(settings, splits)
    assert isinstance(experiment.rule.network.memory, QLSTM)
    found = experiment.measures(())
    assert set(found) == {"parameters", "memoryless_mse", "linear_filter_mse", "target_variance"}
    loss = experiment.rule.backward(splits.train.images, splits.train.labels)
    assert loss.isfinite()
    twin = find_recipe("bp/lorenz-quaternion-small")
    real = twin.build(dataclasses.replace(twin.settings, taps=1), twin.settings.data())
    own = recipe.build(dataclasses.replace(recipe.settings, taps=1), recipe.settings.data())
    assert parameters(real.rule) == pytest.approx(parameters(own.rule), rel=0.15)


def test_lorenz_against_many_small_euler_steps():
    found = lorenz_series(5, seed=3, washout=0)[0]
    place = np.array([1.0, 1.0, 25.0]) + np.random.default_rng(3).standard_normal((1, 3))[0]
    fine = 20_000
    for sample in found[:2]:
        for _ in range(fine):
            x, y, z = place
            move = np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])
            place = place + 0.05 / fine * move
        torch.testing.assert_close(sample, torch.tensor(place).float(), rtol=1e-3, atol=1e-3)


def test_lorenz_windows_are_pure_quaternions_with_targets_ahead():
    train, test = lorenz(shift=3, steps=60, window=20, series=2)
    assert train.images.shape == (6, 20, 4)
    assert train.labels.shape == test.labels.shape == (6, 20, 3)
    assert not train.images[..., 0].any()
    torch.testing.assert_close(train.labels[0, :-3], train.images[0, 3:, 1:])
    assert not torch.equal(train.images, test.images)
    raw = lorenz_series(63, series=4)[:2]
    scale = float(raw[0, 0, 0] - raw[0, 1, 0]) / float(train.images[0, 0, 1] - train.images[0, 1, 1])
    other = float(raw[0, 0, 2] - raw[0, 1, 2]) / float(train.images[0, 0, 3] - train.images[0, 1, 3])
    assert scale == pytest.approx(other, rel=1e-3)  # one scale for all directions
    with pytest.raises(DataError, match="shift"):
        lorenz(shift=0)
    with pytest.raises(DataError, match="no window"):
        lorenz(steps=5, window=20)
