"""The ways from noise to a label: orders of convergence, and a Gaussian problem whose answer is known."""

import math

import pytest
import torch

from beyondprop.errors import UserError
from beyondprop.rules.local.noprop.integrators import check_steps, diffuse, integrate, integrate_exponentially
from beyondprop.rules.local.noprop.learned_schedule import LearnedSchedule

COUNTS = (64, 128, 256, 512)  # enough that the errors of the first steps, of either sign, have gone
MEAN, SPREAD = 1.5, 0.6
"""The clean variable of the Gaussian problem: u ~ N(MEAN, SPREAD²)."""


def slope(errors):
    """Of log error against log steps, by least squares, sign turned: the order."""
    x = torch.log(torch.tensor(COUNTS, dtype=torch.float64))
    y = torch.log(torch.tensor(errors, dtype=torch.float64))
    x, y = x - x.mean(), y - y.mean()
    return -float((x * y).sum() / (x * x).sum())


@pytest.fixture(scope="module")
def schedule():
    return LearnedSchedule(clean=-4.0, noisy=5.0).double()


def grid(steps):
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def gaussian_denoiser(schedule):
    """E[u | z_t] where u ~ N(MEAN, SPREAD²) and z_t = sqrt(ᾱ) u + sqrt(1 - ᾱ) ε, by Gaussian conditioning."""

    def denoise(z, t):
        keep = torch.sigmoid(-schedule(t).detach())
        variance = keep * SPREAD**2 + 1 - keep
        return MEAN + SPREAD**2 * keep.sqrt() / variance * (z - keep.sqrt() * MEAN)

    return denoise


def gaussian_flow(schedule, z):
    """Where the probability flow carries z of t = 0: it keeps the quantile of the Gaussian marginal."""
    ends = []
    for t in (0.0, 1.0):
        keep = torch.sigmoid(-schedule(torch.tensor(t, dtype=torch.float64)).detach())
        ends.append((keep.sqrt() * MEAN, (keep * SPREAD**2 + 1 - keep).sqrt()))
    (mean_0, deviation_0), (mean_1, deviation_1) = ends
    return mean_1 + deviation_1 * (z - mean_0) / deviation_0


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("adams-bashforth", 2)])
def test_order_of_the_solvers(method, order):
    """dz/dt = cos(t) z from 1: the answer at 1 is exp(sin 1)."""
    start = torch.ones((), dtype=torch.float64)
    exact = math.exp(math.sin(1))
    errors = [abs(float(integrate(lambda z, t: torch.cos(t) * z, start, grid(n), method)) - exact) for n in COUNTS]
    assert slope(errors) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("order", [1, 2])
def test_order_of_the_exponential_solvers(schedule, order):
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(-1)
    exact = gaussian_flow(schedule, z)
    errors = []
    for n in COUNTS:
        times = grid(n)
        reached = integrate_exponentially(gaussian_denoiser(schedule), z, times, schedule(times).detach(), order)
        errors.append(float((reached - exact).abs().max()))
    assert slope(errors) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_order_on_the_probability_flow(schedule, method, order):
    """The non-singular form of the equation, against the closed form of its Gaussian case."""
    denoise = gaussian_denoiser(schedule)

    def velocity(z, t):
        gamma, rate = (value.detach() for value in schedule.gamma_and_slope(t))
        keep = torch.sigmoid(-gamma)
        return -0.5 * rate * (keep.sqrt() * denoise(z, t) - keep * z)

    z = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(-1)
    exact = gaussian_flow(schedule, z)
    errors = [float((integrate(velocity, z, grid(n), method) - exact).abs().max()) for n in COUNTS]
    assert slope(errors) == pytest.approx(order, abs=0.25)


def test_one_exponential_step_from_noise_gives_the_answer_itself(schedule):
    """From γ = infinity to γ = -infinity in one step: z is û(z_0)."""
    z = torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    ends = torch.tensor([60.0, -60.0], dtype=torch.float64)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    reached = integrate_exponentially(lambda z, t: 7 + 0 * z, z, times, ends, 1)
    torch.testing.assert_close(reached, torch.full_like(z, 7.0))


def test_samplers_agree_in_distribution_with_the_known_answer(schedule):
    """From z_0 of the true marginal, diffusion and flow both end at N(sqrt(ᾱ_1) μ, ᾱ_1 s² + 1 - ᾱ_1)."""
    torch.manual_seed(0)
    count, times = 40_000, grid(200)
    gamma = schedule(times).detach()
    keep = torch.sigmoid(-gamma)
    first, last = ((keep[i].sqrt() * MEAN, (keep[i] * SPREAD**2 + 1 - keep[i]).sqrt()) for i in (0, -1))
    z = first[0] + first[1] * torch.randn(count, 1, dtype=torch.float64)
    denoise = gaussian_denoiser(schedule)
    for ends in (diffuse(denoise, z, times, gamma), integrate_exponentially(denoise, z, times, gamma, 2)):
        standard = ((ends - last[0]) / last[1]).flatten()
        assert abs(standard.mean()) < 5 / math.sqrt(count)
        assert abs(standard.var() - 1) < 5 * math.sqrt(2 / count) + 0.01  # the steps' own bias
        normal = torch.distributions.Normal(0.0, 1.0).cdf(standard.sort().values)
        uniform = (torch.arange(count) + 0.5) / count
        assert (normal - uniform).abs().max() < 2.0 / math.sqrt(count)  # Kolmogorov-Smirnov, far beyond 99.9 %


def test_diffusion_has_the_coefficients_of_discrete_time():
    """One step of `diffuse` is the update (3) with `DiscreteSchedule.coefficients`."""
    from beyondprop.rules.local.noprop import DiscreteSchedule

    levels = (0.2, 0.7)
    a, b, c = DiscreteSchedule(levels).coefficients(1)
    gamma = torch.tensor([math.log(1 / level - 1) for level in levels], dtype=torch.float64)
    z = torch.full((200_000, 1), 0.8, dtype=torch.float64)
    torch.manual_seed(0)
    after = diffuse(lambda z, t: torch.full_like(z, -1.1), z, torch.tensor([0.0, 1.0]), gamma)
    assert float(after.mean()) == pytest.approx(a * -1.1 + b * 0.8, abs=0.01)
    assert float(after.var()) == pytest.approx(c, rel=0.02)


def test_diffusion_keeps_the_marginals_of_a_known_label(schedule):
    """With û = u the chain maps q(z_s | y) exactly onto q(z_t | y), however long the step."""
    torch.manual_seed(0)
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    gamma = schedule(times).detach()
    keep = torch.sigmoid(-gamma)
    z = keep[0].sqrt() * 2 + (1 - keep[0]).sqrt() * torch.randn(200_000, 1, dtype=torch.float64)
    z = diffuse(lambda z, t: torch.full_like(z, 2.0), z, times, gamma)
    assert float(z.mean()) == pytest.approx(float(keep[-1].sqrt() * 2), abs=0.005)
    assert float(z.var()) == pytest.approx(float(1 - keep[-1]), rel=0.02)


def test_unknown_methods_and_steps_are_refused():
    with pytest.raises(UserError, match="method"):
        integrate(lambda z, t: z, torch.ones(1), torch.linspace(0, 1, 3), "rk9")
    for steps in (0, -3, 2.5, True):
        with pytest.raises(UserError, match="steps"):
            check_steps(steps)
