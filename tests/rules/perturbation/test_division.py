"""Evaluations shared out among processes, more of them than there are evaluations too."""

import pytest
import torch
from torch import nn

from beyondprop.rules.perturbation.division import Division
from beyondprop.rules.perturbation.layerwise import LayerwisePerturbation
from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_evaluation_is_of_one_process(ranks, count):
    rows = torch.cat([Division(rank, ranks).rows(count) for rank in range(ranks)])
    assert sorted(rows.tolist()) == list(range(count))


def network():
    torch.manual_seed(0)
    layers = nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Tanh(), nn.Linear(4, 2)
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize(
    "make",
    [
        lambda: MultiplexedGradientDescent(network(), tau_x=1),
        lambda: LayerwisePerturbation(network(), steps=2),
        lambda: LayerwisePerturbation(network(), perturb="weights", steps=2),
    ],
)
def test_processes_without_an_evaluation_of_their_own_take_the_same_step(make):
    """Five processes, at most two evaluations: what each hears of the others stands in for what they send."""
    torch.manual_seed(1)
    x, y = torch.randn(6, 3).double(), torch.arange(6) % 2
    heard = []

    def gradient(division):
        rule = make()
        rule.division = division
        torch.manual_seed(2)
        loss = rule.backward(x, y)
        return [loss, *(p.grad for p in rule.network.parameters())]

    alone = gradient(Division(0, 1, lambda costs: heard.append(costs.clone())))
    for rank in range(5):
        parts = iter(heard)

        def exchange(costs, rank=rank, parts=parts):
            whole = next(parts)
            own = torch.zeros(len(whole), dtype=torch.bool)
            own[rank::5] = True
            assert torch.equal(costs[~own], torch.zeros_like(costs[~own]))
            torch.testing.assert_close(costs[own], whole[own])
            costs.copy_(whole)

        torch.testing.assert_close(gradient(Division(rank, 5, exchange)), alone)
