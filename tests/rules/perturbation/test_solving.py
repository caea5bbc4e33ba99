"""What a population notes of itself while it learns."""

import torch
from torch import nn

from beyondprop.networks.population import Population
from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent
from beyondprop.rules.perturbation.solving import NotingMGD

X = torch.tensor([[0.0], [1.0]])
Y = torch.tensor([0, 1])


def make(weights, **options):
    """Logistic copies with these weights and a bias of minus half of each."""
    population = Population(lambda: nn.Sequential(nn.Linear(1, 1), nn.Sigmoid()), len(weights))
    with torch.no_grad():
        population.get_parameter("0_weight").copy_(torch.tensor(weights).view(-1, 1, 1))
        population.get_parameter("0_bias").copy_(-torch.tensor(weights).view(-1, 1) / 2)
    return NotingMGD(population, X, Y, copies=len(weights), **options)


def test_the_first_step_at_which_a_copy_is_right_is_noted():
    rule = make([3.0, -3.0, -3.0], every=4, tau_x=2)
    assert rule.solved().tolist() == [True, False, False]
    for call in range(5):
        rule.backward(X, Y)
        if call == 2:  # six steps are taken: the look after the eighth finds it
            with torch.no_grad():
                rule.network.get_parameter("0_weight")[1] = 3.0
                rule.network.get_parameter("0_bias")[1] = -1.5
    assert rule.solved_at.tolist() == [0, 8, -1]
    assert "solved_at" in rule.state_dict()


def test_a_copy_has_to_be_right_about_every_pattern():
    rule = make([3.0, 3.0])
    with torch.no_grad():
        rule.network.get_parameter("0_bias")[1] = 5.0  # always yes
    assert rule.solved().tolist() == [True, False]


def test_answers_are_squared_errors_and_votes():
    rule = make([2.0, -4.0])
    outputs = rule.network(X).squeeze(-1)
    expected = (outputs - Y).square().mean(dim=1)
    torch.testing.assert_close(rule.backward(X, Y), expected.mean().detach())
    torch.testing.assert_close(rule(X).exp()[:, 1], outputs.mean(dim=0))
    torch.testing.assert_close(rule(X).exp().sum(dim=1), torch.ones(2))


def test_it_learns_as_the_rule_does():
    rule, other = make([1.0, -1.0], tau_x=30), make([1.0, -1.0])
    plain = MultiplexedGradientDescent(
        other.network, lambda out, y: (out.squeeze(-1) - y).square().mean(dim=1), tau_x=30, copies=2
    )
    for each in (rule, plain):
        torch.manual_seed(3)
        each.backward(X, Y)
    for p, q in zip(rule.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
