"""Regularized inversion in networks around the recurrent layer, what it costs, and what is refused."""

import pytest
import torch
from small_readers import BATCH, CLASSES, HIDDEN, INPUTS, TIME, G, loss_of, made
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from beyondprop import TPRI, Backprop
from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.networks.sequences import CharacterModel, SequenceReader


class Around(nn.Module):
    """An embedding, a given first state, time first, and a readout of states and last state together."""

    def __init__(self, by_name=False):
        super().__init__()
        self.embedding, self.start = nn.Embedding(9, INPUTS), nn.Parameter(torch.randn(1, 1, HIDDEN))
        self.rnn = nn.RNN(INPUTS, HIDDEN, bias=False)
        self.readout, self.by_name = nn.Linear(2 * HIDDEN + INPUTS, CLASSES), by_name

    def forward(self, x):
        u, start = self.embedding(x).transpose(0, 1), self.start.expand(1, len(x), -1)
        states, last = self.rnn(input=u, hx=start) if self.by_name else self.rnn(u, start)
        return self.readout(torch.cat([states.mean(0), last[0], u.mean(0)], dim=1))


@pytest.mark.parametrize("by_name", [False, True])
def test_any_network_around_the_recurrent_layer(by_name):
    """With r so large that only the seeds stand, all of it learns what the sum of the steps' own losses says."""
    torch.manual_seed(0)
    network = Around(by_name).double()
    x, y = torch.randint(9, (BATCH, TIME)), torch.randint(CLASSES, (BATCH,))
    rule = TPRI(network, target_step=0.01, regularisation=1e12)
    Backprop(network).backward(x, y)
    exact = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    rule.backward(x, y)
    for name, parameter in network.named_parameters():
        factor = 0.01 if name.startswith("rnn") else 1.0
        torch.testing.assert_close(parameter.grad, factor * exact[name], rtol=1e-6, atol=1e-9)
    assert [g["name"] for g in rule.parameter_groups()] == ["recurrent", "readout"]
    assert [id(p) for p in rule.parameter_groups()[0]["params"]] == [id(p) for p in network.rnn.parameters()]


class Counting(TorchDispatchMode):
    """How many numbers all operations return."""

    def __init__(self):
        super().__init__()
        self.calls = self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.calls += 1
        if isinstance(result, torch.Tensor) and "view" not in str(function) and function.namespace == "aten":
            self.numbers += result.numel() if result._base is None else 0
        return result


@pytest.mark.parametrize("cell", ["tanh", "gru"])
def test_cost_grows_linearly_with_time(cell):
    network, _, y = made(cell=cell)
    rule = TPRI(network, target_step=G)
    counted = []
    for time in (50, 100, 200):
        x = torch.rand(BATCH, time, INPUTS).double() / 10
        with Counting() as count:
            rule.backward(x, y)
        counted.append((count.calls, count.numbers))
    for short, middle, long in zip(*counted, strict=True):
        assert long - middle == pytest.approx(2 * (middle - short), rel=0.05)


def test_characters_have_a_target_at_every_step():
    torch.manual_seed(0)
    network = CharacterModel(7, hidden=6).double()
    x, y = torch.randint(7, (2, 5)), torch.randint(7, (2, 5))
    rule = TPRI(network, loss_of, target_step=1.0, regularisation=1e12)
    states = network.rnn(F.one_hot(x, 7).double())[0].detach().requires_grad_()
    (seeds,) = torch.autograd.grad(loss_of(network.readout(states), y), states)
    torch.testing.assert_close(rule.targets(x, y)["rnn.l0"], states.detach() - seeds, rtol=0, atol=1e-9)
    assert (seeds.abs().amax(dim=(0, 2)) > 1e-3).all()


def test_targets_that_grow_beyond_all_bounds_are_told():
    torch.manual_seed(0)
    network = SequenceReader(4, 2, hidden=8)
    with torch.no_grad():
        network.rnn.weight_hh_l0.mul_(0.01)
        network.rnn.weight_ih_l0.mul_(100)  # saturated: every step divides by a small slope
    rule = TPRI(network, regularisation=1e-6)
    with pytest.raises(NonFiniteError, match=r"targets of layer rnn.*regularisation"):
        rule.backward(torch.randn(3, 200, 4), torch.tensor([0, 1, 0]))


def test_a_singular_weight_needs_regularisation():
    network = SequenceReader(4, 2, hidden=8)
    with torch.no_grad():
        network.rnn.weight_hh_l0.zero_()
    with pytest.raises(UserError, match=r"inverse of rnn.weight_hh_l0.*raise the regularisation"):
        TPRI(network, regularisation=0.0).backward(torch.randn(3, 5, 4), torch.tensor([0, 1, 0]))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Linear(4, 2), "no recurrent layer"),
        (nn.Sequential(nn.LSTM(4, 2)), r"layer 0 \(LSTM\)"),
        (nn.Sequential(nn.RNN(4, 2, bidirectional=True)), "both directions"),
        (nn.Sequential(nn.GRU(4, 2, num_layers=2, dropout=0.1)), "dropout"),
        (nn.Sequential(nn.RNN(4, 2), nn.GRU(2, 2)), "layer 1 is a second"),
    ],
)
def test_unsupported_networks_are_named(network, words):
    assert TPRI.supports(network)
    with pytest.raises(UnsupportedNetworkError, match=words):
        TPRI(network)


@pytest.mark.parametrize(
    ("options", "cell", "words"),
    [
        ({"target_step": 0.0}, "tanh", "target_step"),
        ({"regularisation": -1.0}, "tanh", "regularisation"),
        ({"mode": "remote"}, "tanh", "mode"),
        ({"targets": "none"}, "tanh", "targets"),
        ({"clip": 0.0}, "tanh", "clip"),
        ({"targets": "difference"}, "gru", "GRU"),
    ],
)
def test_options_out_of_range_are_refused(options, cell, words):
    with pytest.raises(UserError, match=words):
        TPRI(SequenceReader(4, 2, hidden=8, cell=cell), **options)


def test_plain_targets_need_one_layer():
    with pytest.raises(UserError, match="plain"):
        TPRI(SequenceReader(4, 2, hidden=8, layers=2), targets="plain")


class Twice(SequenceReader):
    def forward(self, x):
        return super().forward(x) + super().forward(x.flip(1))


class Packed(SequenceReader):
    def forward(self, x):
        return self.readout(self.rnn(pack_sequence(list(x)))[1][-1])


@pytest.mark.parametrize(("kind", "words"), [(Twice, "ran 2 times"), (Packed, "one length")])
def test_what_a_forward_pass_may_not_do_is_told(kind, words):
    with pytest.raises(UserError, match=words):
        TPRI(kind(4, 2, hidden=8)).backward(torch.randn(3, 5, 4), torch.tensor([0, 1, 0]))
    assert torch.is_grad_enabled()
