"""Learning by node perturbation: a task of memory, and decorrelation by a direction and a rate of its own."""

import pytest
import torch
from perturbed_sequences import SQUARES, sequences, vanilla

from beyondprop.networks.recurrent import VanillaRNN
from beyondprop.rules.perturbation.node_perturbation import NodePerturbation


def test_decorrelation_has_its_own_direction_group_and_rate():
    torch.manual_seed(0)
    network = VanillaRNN(2, 4, 1, decorrelate=True).double()
    with torch.no_grad():
        network.decorrelate.weight += 0.3 * torch.randn(4, 4)
    x, y = sequences(batch=5, time=6)
    rule = NodePerturbation(network, SQUARES, decorrelation=0.02)
    groups = {group["name"]: group for group in rule.parameter_groups()}
    assert [id(p) for p in groups["decorrelation"]["params"]] == [id(network.decorrelate.weight)]
    assert groups["decorrelation"]["lr"] == 0.02
    rule.backward(x, y)
    D, state, states = network.decorrelate.weight.detach(), x.new_zeros(5, 4), []
    for u in x.unbind(1):
        state = network.advance(u, state)
        states += list(state.detach())
    expected = torch.zeros(4, 4, dtype=x.dtype)
    for s in states:
        outer = torch.outer(s, s)
        expected += (outer - torch.diag(outer.diagonal())) / len(states)
    torch.testing.assert_close(network.decorrelate.weight.grad, expected @ D)

    def correlation():
        values = torch.stack(states_of(network, x))
        products = values.T @ values / len(values)
        return (products - torch.diag(products.diagonal())).square().sum().item()

    before = correlation()
    optimizer = torch.optim.SGD([network.decorrelate.weight], lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        rule.backward(x, y)
        optimizer.step()
    assert correlation() < 0.7 * before


def states_of(network, x):
    state, found = x.new_zeros(len(x), network.hidden), []
    with torch.no_grad():
        for u in x.unbind(1):
            state = network.advance(u, state)
            found += list(state)
    return found


@pytest.mark.parametrize("kind", ["activity", "weight"])
def test_without_a_rate_decorrelation_stays(kind):
    network, (x, y) = vanilla(4, decorrelate=True), sequences()
    rule = NodePerturbation(network, SQUARES, kind=kind)
    rule.backward(x, y)
    assert network.decorrelate.weight.grad is None
    assert [group["name"] for group in rule.parameter_groups()] == ["network"]


def test_learns_to_copy():
    """Two symbols over a pause, below what is possible without memory."""
    from beyondprop.data.sequences import copying_memory

    torch.manual_seed(0)
    train, test = copying_memory(2, 1, train=32, test=200)
    network = VanillaRNN(10, 12, 10)
    rule = NodePerturbation(network, SQUARES, sigma=1e-3, samples=4, noise="signs")
    optimizer = torch.optim.Adam(rule.parameter_groups(), lr=0.02)
    for epoch in range(150):
        fresh = train.of_epoch(epoch)
        optimizer.zero_grad()
        rule.backward(fresh.images, fresh.labels)
        optimizer.step()
    with torch.no_grad():
        error = SQUARES(network(test.images), test.labels).mean()
    assert error < 0.8 * 0.0875 * 2 / 5
