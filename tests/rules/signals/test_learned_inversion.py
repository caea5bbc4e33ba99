"""Targets through time by a learned inverse, against the steps written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop import TPTT
from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.networks.sequences import SequenceReader

TIME, BATCH = 6, 3


def made():
    torch.manual_seed(0)
    network = SequenceReader(4, 3, hidden=5).double()
    rule = TPTT(network, target_step=0.3, mode="local")
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return rule, torch.randn(BATCH, TIME, 4).double(), torch.randint(3, (BATCH,))


def reversed_step(rule, u, v):
    return torch.tanh(v @ rule.inverse.weight.T + rule.inverse.bias + u @ rule.network.rnn.weight_ih_l0.T)


def test_targets_are_differences_of_the_learned_inverse():
    rule, x, y = made()
    h, v = rule.network.rnn(x)[0].detach().transpose(0, 1), rule.targets(x, y)["rnn.l0"].transpose(0, 1)
    last = h[-1].clone().requires_grad_()
    F.cross_entropy(rule.network.readout(last), y).backward()
    expected = last - 0.3 * last.grad
    torch.testing.assert_close(v[-1], expected)
    for t in range(TIME - 1, 0, -1):
        expected = h[t - 1] - reversed_step(rule, x[:, t], h[t]) + reversed_step(rule, x[:, t], expected)
        torch.testing.assert_close(v[t - 1], expected)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_inverse_learns_to_reconstruct_the_state_before(noise):
    rule, x, y = made()
    rule.noise = noise
    torch.manual_seed(4)
    found = rule.backward(x, y, "inverse")
    assert not rule.teaches_network("inverse")
    torch.manual_seed(4)
    rnn, h, lost = rule.network.rnn, torch.zeros(BATCH, 5).double(), 0.0
    drawn = noise * torch.randn(TIME, BATCH, 5, dtype=torch.float64) if noise else torch.zeros(TIME, 1, 1)
    for t in range(TIME):
        u, wanted = x[:, t : t + 1], (h + drawn[t]).detach()
        made_of = rnn(u, wanted[None].contiguous())[0][:, 0].detach()
        lost = lost + 0.5 * (reversed_step(rule, x[:, t], made_of) - wanted).square().sum() / BATCH
        h = rnn(u, h[None].contiguous())[0][:, 0].detach()
    torch.testing.assert_close(found, lost.detach())
    for parameter, gradient in zip(
        rule.inverse.parameters(), torch.autograd.grad(lost, list(rule.inverse.parameters())), strict=True
    ):
        torch.testing.assert_close(parameter.grad, gradient)
    assert all(p.grad is None for p in rule.network.parameters())


def test_each_phase_trains_its_own_part():
    rule, x, y = made()
    rule.backward(x, y, "network")
    assert all(p.grad is None for p in rule.inverse.parameters())
    assert all(p.grad is not None for p in rule.network.parameters())


def test_reconstruction_gets_better():
    torch.manual_seed(0)
    rule = TPTT(SequenceReader(4, 3, hidden=8), noise=0.1)
    optimizer = torch.optim.SGD(rule.inverse.parameters(), lr=0.05)
    x, y = torch.rand(20, 8, 4), torch.randint(3, (20,))

    def error():
        states = rule.network.rnn(x)[0]
        return (reversed_step(rule, x[:, 1:], states[:, 1:]) - states[:, :-1]).square().mean().item()

    before = error()
    for _ in range(60):
        optimizer.zero_grad()
        rule.backward(x, y, "inverse")
        optimizer.step()
    assert error() < 0.3 * before


def test_only_a_single_layer_of_tanh_units():
    for cell, layers in (("gru", 1), ("relu", 1), ("tanh", 2)):
        with pytest.raises(UnsupportedNetworkError, match=r"layer rnn .*tanh"):
            TPTT(SequenceReader(4, 3, hidden=5, cell=cell, layers=layers))
    with pytest.raises(UserError, match="noise"):
        TPTT(SequenceReader(4, 3, hidden=5), noise=-1.0)
    assert isinstance(TPTT(SequenceReader(4, 3, hidden=5)).inverse, nn.Linear)
