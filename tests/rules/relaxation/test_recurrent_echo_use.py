"""How echo learning is used: with frozen parts, an energy of one's own, an embedding, as a classifier."""

import torch
from echoing_networks import Pendulums, batch, by_hand, distance, stack, through_time
from torch import nn
from torch.nn import functional as F

from beyondprop.layers.hamiltonian import NonlinearHRU
from beyondprop.networks.hamiltonian import HamiltonianNetwork, hamiltonian_classifier
from beyondprop.rules.relaxation.recurrent_echo import RecurrentEcho


def test_frozen_parts_stay_and_the_rest_learns():
    network = stack(NonlinearHRU, "mean")
    x, y, loss = batch("mean")
    expected = through_time(network, x, y, loss)[1]
    frozen = {"units.0.a", "units.1.B", "encoder.weight", "between.0.0.weight"}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    RecurrentEcho(network, eps=1e-4).backward(x, y)
    for (name, parameter), wanted in zip(network.named_parameters(), expected, strict=False):
        if name in frozen:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-8)


def test_your_own_energy_predicts_in_inference_mode():
    network = stack(Pendulums, "mean")
    rule, x = RecurrentEcho(network), batch("mean")[0]
    with torch.inference_mode():
        found = rule(x)
    torch.testing.assert_close(found.clone(), network(x).detach())


def test_an_embedding_below_learns():
    network = HamiltonianNetwork([NonlinearHRU(4, 6)], nn.Linear(6, 2), encoder=nn.Embedding(9, 4)).double()
    x, y = torch.randint(9, (5, 12)), torch.randint(2, (5,))
    F.cross_entropy(by_hand(network, x), y).backward()
    expected = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    RecurrentEcho(network, eps=1e-4).backward(x, y)
    assert distance([p.grad for p in network.parameters()], expected) < 1e-7


def test_a_classifier_reads_rows():
    rule = RecurrentEcho.for_classifier(nn.Linear(84, 5), torch.zeros(2, 3, 4, 7), 5)
    assert (rule.network.piece, rule.network.units[0].size) == (7, 84)
    assert rule(torch.zeros(2, 3, 4, 7)).shape == (2, 5)
    assert RecurrentEcho.for_classifier(nn.Linear(13, 5), torch.zeros(2, 13), 5).network.piece == 1
    own = hamiltonian_classifier(3, 2)
    assert RecurrentEcho.for_classifier(own, torch.zeros(2, 5, 3), 2).network is own
