"""Analog multiplexed gradient descent: its filters written out, its expected update, and what is carried."""

import pytest
import torch
from torch import nn

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.networks.population import Population
from beyondprop.rules.perturbation.analog import AnalogMultiplexedGradientDescent as Analog
from beyondprop.rules.perturbation.solving import NotingAnalogMGD


class Linear(nn.Module):
    """A cost that is linear in its parameters."""

    def __init__(self, size=6):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size).double())

    def forward(self, x):
        return x @ self.weight


def mean(value, _):
    return value.mean()


def present(rule, x, calls=1):
    """The `.grad` after each step of so many presentations; the parameters stay."""
    found = []
    for _ in range(calls):
        for phase in rule.phases:
            rule.zero_grad()
            rule.backward(x, x, phase)
            found.append(rule.network.weight.grad.clone())
    return torch.stack(found)


def test_filters_are_those_of_the_formula():
    """Written out step by step, from the costs that a linear network has at the perturbed parameters."""
    torch.manual_seed(0)
    x, steps = torch.randn(2, 6).double(), 9
    rule = Analog(Linear(), mean, norm=0.3, tau_x=steps, tau_p=2, tau_theta=3.0, tau_hp=1.6)
    torch.manual_seed(1)
    found = present(rule, x)
    twin = Analog(Linear(), mean, norm=0.3, tau_x=steps, tau_p=2)
    torch.manual_seed(1)
    wiggles = [twin.perturbations(1)[0, 0] for _ in range(steps)]
    change, last, gradient = 0.0, float((x @ wiggles[0]).mean()), torch.zeros(6).double()
    for step, wiggle in enumerate(wiggles):
        cost = float((x @ wiggle).mean())
        change, last = 1.6 / 2.6 * (change + cost - last), cost
        gradient = (6 * change * wiggle / 0.3**2 + 3 * gradient) / 4
        torch.testing.assert_close(found[step], gradient, rtol=1e-10, atol=1e-12)


def test_the_expected_update_is_the_gradient_times_the_filters_gain():
    """Of the random code: a (1 - 1/tau_x); five standard errors over independent presentations."""
    torch.manual_seed(0)
    x, tau_x = torch.randn(1, 6).double(), 5
    rule = Analog(Linear(), mean, tau_x=tau_x, tau_theta=0.0, tau_hp=1.6)
    parts = present(rule, x, 800).view(800, tau_x, 6).mean(dim=1)
    error = parts.std(dim=0) / len(parts) ** 0.5
    expected = 1.6 / 2.6 * (1 - 1 / tau_x) * x[0]
    assert ((parts.mean(dim=0) - expected).abs() < 5 * error).all()
    assert (error < 0.2 * expected.norm()).all()


def test_a_change_of_input_is_not_heard():
    """With a cost that depends on the input alone, nothing is left but what the first batch's answer was: none."""
    rule = Analog(Linear(), lambda value, y: (value - value.detach()).mean() + y.mean(), tau_x=3)
    for level in (0.0, 100.0, -40.0):
        for phase in rule.phases:
            rule.zero_grad()
            rule.backward(torch.ones(1, 6).double(), torch.full((1,), level).double(), phase)
            assert (rule.network.weight.grad == 0).all()


def test_what_the_filters_hold_is_saved():
    torch.manual_seed(0)
    x = torch.randn(2, 6).double()
    rule, twin = (Analog(Linear(), mean, tau_x=4) for _ in range(2))
    present(rule, x)
    twin.load_state_dict(rule.state_dict())
    found = []
    for each in (rule, twin):
        torch.manual_seed(2)
        found.append(present(each, 2 * x))
    assert torch.equal(*found)


def test_nan_moves_no_filter():
    rule = Analog(Linear(), mean, tau_x=2)
    present(rule, torch.ones(1, 6).double())
    before = {name: rule.state_dict()[name].clone() for name in ("change", "last", "gradient")}
    with pytest.raises(NonFiniteError, match="the input"):
        rule.backward(torch.full((1, 6), torch.nan).double(), torch.ones(1).double(), "step 1")
    for name, value in before.items():
        assert torch.equal(rule.state_dict()[name], value)


@pytest.mark.parametrize(
    "options",
    [
        {"code": "walsh"},
        {"code": "sequential"},
        {"tau_x": 1},
        {"tau_theta": -1.0},
        {"tau_hp": 0.0},
        {"cost_noise": -1.0},
    ],
)
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(UserError, match="must be"):
        Analog(Linear(), mean, **options)


def test_copies_have_filters_of_their_own():
    """A copy that has solved its task goes on hearing its own cost alone."""
    torch.manual_seed(0)
    population = Population(lambda: nn.Sequential(nn.Linear(1, 1), nn.Sigmoid()), 3)
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    rule = NotingAnalogMGD(population, x, y, copies=3, tau_x=4, every=2)
    for phase in rule.phases:
        rule.backward(x, y, phase)
    assert rule.change.shape == (3,)
    assert len(set(rule.change.tolist())) == 3
    assert int(rule.taken) == 4
    assert rule.solved_at.shape == (3,)
