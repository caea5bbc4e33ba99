"""Moment-matched families: means, minima, ratios, against scipy and quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from scipy.special import gamma as gamma_function

from beyondprop.errors import UserError
from beyondprop.point_processes import LogNormalMixture, MomentMatched

MEAN, SHAPE = 1.7, {"gamma": 2.3, "weibull": 1.4, "log-normal": 0.6}
TRUE = {
    "exponential": stats.expon(scale=MEAN),
    "rayleigh": stats.rayleigh(scale=MEAN * math.sqrt(2 / math.pi)),
    "gamma": stats.gamma(2.3, scale=MEAN / 2.3),
    "weibull": stats.weibull_min(1.4, scale=MEAN / gamma_function(1 + 1 / 1.4)),
    "log-normal": stats.lognorm(0.6, scale=MEAN * math.exp(-(0.6**2) / 2)),
}
each_family = pytest.mark.parametrize("name", TRUE)


def made(name, **options):
    return MomentMatched(name, shape=SHAPE.get(name), **options).double()


def tensor(value):
    return torch.tensor(value, dtype=torch.double)


@each_family
def test_density_and_survival_are_those_of_the_distribution_with_this_mean(name):
    assert TRUE[name].mean() == pytest.approx(MEAN)
    gaps = np.array([0.05, 0.4, 1.0, 3.0, 7.0])
    mean = tensor(MEAN).expand(5)
    np.testing.assert_allclose(made(name).log_density_at(torch.tensor(gaps), mean), TRUE[name].logpdf(gaps))
    np.testing.assert_allclose(made(name).log_survival_at(torch.tensor(gaps), mean), TRUE[name].logsf(gaps), rtol=1e-6)


@each_family
def test_expected_loss_is_least_at_the_true_mean(name):
    family = made(name)

    def expected(mean):
        def integrand(gap):
            return -float(family.log_density_at(tensor(gap), tensor(mean))) * TRUE[name].pdf(gap)

        return sum(quad(integrand, a, b, limit=200)[0] for a, b in ((1e-9, 1), (1, 6), (6, 40)))

    around = [expected(MEAN * factor) for factor in (0.9, 0.99, 1.0, 1.01, 1.1)]
    assert min(around) == around[2]


@each_family
def test_likelihood_ratio_is_zero_at_its_best_positive_elsewhere_and_has_the_losss_gradient(name):
    family, gap = made(name), tensor(0.8)
    means = torch.linspace(0.05, 6, 4000, dtype=torch.double, requires_grad=True)
    ratio = family.likelihood_ratio(gap, means)
    assert ratio.min() >= -1e-12
    assert ratio.min() < 1e-5
    assert ratio.max() > 1
    (by_ratio,) = torch.autograd.grad(ratio.sum(), means)
    (by_loss,) = torch.autograd.grad(-family.log_density_at(gap, means).sum(), means)
    torch.testing.assert_close(by_ratio, by_loss)


def test_exponential_ratio_is_itakura_and_saitos():
    gap, mean = tensor(0.8), tensor(2.0)
    expected = 0.4 - math.log(0.4) - 1
    assert float(made("exponential").likelihood_ratio(gap, mean)) == pytest.approx(expected)


@pytest.mark.parametrize("name", SHAPE)
def test_learned_shape_finds_the_true_one(name):
    gaps = torch.from_numpy(TRUE[name].rvs(4000, random_state=0))
    family = MomentMatched(name, shape=1.0, learned=True).double()
    optimizer = torch.optim.Adam(family.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (-family.log_density_at(gaps, tensor(MEAN)).mean()).backward()
        optimizer.step()
    assert family.log_shape.exp().item() == pytest.approx(SHAPE[name], rel=0.08)


def test_shape_of_one_is_the_exponential():
    gap, mean = tensor(0.8), tensor(2.0)
    for name in ("gamma", "weibull"):
        assert float(MomentMatched(name).double().log_density_at(gap, mean)) == pytest.approx(-math.log(2) - 0.4)


def test_mixture_integrates_to_one_and_has_the_mean_up_to_the_horizon():
    torch.manual_seed(0)
    mixture = LogNormalMixture(3).double()
    outputs = torch.randn(1, 9, dtype=torch.double)

    def density(gap):
        return math.exp(float(mixture.log_density(tensor([gap]), outputs)))

    def integral(function, until):
        edges = [0, *(edge for edge in (0.001, 0.01, 0.1, 1, 10) if edge < until), until]
        return sum(quad(function, a, b, limit=200)[0] for a, b in itertools.pairwise(edges))

    assert integral(density, 2000.0) == pytest.approx(1, abs=1e-3)
    assert math.exp(float(mixture.log_survival(tensor([3.0]), outputs))) == pytest.approx(
        1 - integral(density, 3.0), abs=1e-6
    )
    expected = integral(lambda gap: gap * density(gap), 30.0) / integral(density, 30.0)
    assert float(mixture.mean(outputs, tensor(30.0))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "cauchy"}, "must be one of"),
        ({"family": "exponential", "shape": 2.0}, "has no shape"),
        ({"family": "gamma", "shape": -1.0}, "above 0"),
    ],
)
def test_unusable_families_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        MomentMatched(**arguments)
