"""A population runs as its networks would, one by one."""

import torch
from torch import nn

from beyondprop.networks.population import Population


def test_copies_give_what_the_networks_give():
    networks = []

    def make():
        networks.append(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).eval())
        return networks[-1]

    torch.manual_seed(0)
    population, x = Population(make, 5).eval(), torch.randn(6, 3)
    torch.testing.assert_close(population(x), torch.stack([one(x) for one in networks]))
    assert not torch.equal(population(x)[0], population(x)[1])
    population(x).sum().backward()
    expected = torch.autograd.grad(networks[2](x).sum(), networks[2][0].weight)[0]
    torch.testing.assert_close(population.get_parameter("0_weight").grad[2], expected)


def test_a_population_is_saved_and_moved_as_any_module():
    torch.manual_seed(0)
    population, x = Population(lambda: nn.Linear(3, 2), 4), torch.randn(5, 3)
    twin = Population(lambda: nn.Linear(3, 2), 4)
    twin.load_state_dict(population.state_dict())
    assert torch.equal(twin(x), population(x))
    assert population.double()(x.double()).dtype == torch.float64
    assert {len(p) for p in population.parameters()} == {4}


def test_its_mode_is_that_of_the_copies():
    torch.manual_seed(0)
    population = Population(lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout()), 4)
    x = torch.randn(5, 3)
    assert (population(x) == 0).any()
    moved = population.state_dict()
    assert not torch.equal(moved["1_running_mean_"], torch.zeros(4, 8))
    population.eval()
    assert torch.equal(population(x), population(x))
    assert not (population(x) == 0).any()
    torch.testing.assert_close(population(x)[:, :1], population(x[:1]))  # by the statistics, not by the batch
