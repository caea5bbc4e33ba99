"""What stands around a recurrent layer that learns by targets, and what its stack and its first state are given."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop import TPRI, TPTT, Backprop
from beyondprop.errors import UserError
from beyondprop.measure import alignment
from beyondprop.networks.sequences import SequenceReader
from beyondprop.rules.signals.regularized_inversion import steady_clip

BATCH, TIME, HIDDEN, CLASSES = 3, 6, 5, 3


class Around(nn.Module):
    """An embedding, a learned first state, and a readout of the last states of all layers of the stack."""

    def __init__(self, kind, layers=1):
        super().__init__()
        self.embedding, self.start = nn.Embedding(9, 4), nn.Parameter(torch.randn(layers, 1, HIDDEN))
        self.rnn = kind(4, HIDDEN, num_layers=layers, batch_first=True)
        self.readout = nn.Linear(HIDDEN, CLASSES)

    def run(self, x):
        return self.rnn(self.embedding(x), self.start.expand(-1, len(x), -1).contiguous())

    def forward(self, x):
        return self.readout(self.run(x)[1].sum(0))


def made(kind, layers=1):
    torch.manual_seed(0)
    return Around(kind, layers).double(), torch.randint(9, (BATCH, TIME)), torch.randint(CLASSES, (BATCH,))


def gradients(rule, x, y):
    rule.zero_grad()
    rule.backward(x, y)
    return {name: p.grad.clone() for name, p in rule.network.named_parameters()}


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("step", [1.0, 1e-3])
def test_for_large_r_only_the_recurrent_layers_gradient_has_the_targets_step_in_it(layers, step):
    """And it is back-propagation's; an embedding and a first state learn at the readout's scale."""
    network, x, y = made(nn.RNN, layers)
    exact = gradients(Backprop(network), x, y)
    for name, gradient in gradients(TPRI(network, target_step=step, regularisation=1e12), x, y).items():
        factor = step if name.startswith("rnn") else 1.0
        torch.testing.assert_close(gradient, factor * exact[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
def test_what_stands_before_descends_the_distance_from_the_targets(kind):
    """By autograd through torch's own layer, for the targets that the rule tells: through all of time, over g."""
    network, x, y = made(kind)
    rule = TPRI(network, target_step=0.3, regularisation=0.7)
    found = gradients(rule, x, y)
    (targets,) = rule.targets(x, y).values()
    distance = 0.5 * (network.run(x)[0] - targets).square().sum()
    before = {name: p for name, p in network.named_parameters() if not name.startswith("readout")}
    for name, wanted in zip(before, torch.autograd.grad(distance, list(before.values())), strict=True):
        factor = 1.0 if name.startswith("rnn") else 1 / 0.3
        torch.testing.assert_close(found[name], factor * wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [lambda n: TPRI(n, target_step=1e-3), lambda n: TPTT(n, target_step=1e-3)])
def test_autocast_leaves_small_displacements_their_digits(make):
    torch.manual_seed(0)
    network = SequenceReader(4, CLASSES, hidden=16)
    x, y = torch.randn(BATCH, TIME, 4), torch.randint(CLASSES, (BATCH,))
    rule, found = make(network), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            rule.zero_grad()
            rule.backward(x, y, rule.phases[-1])
            found.append(network.rnn.weight_hh_l0.grad.clone().flatten())
    assert F.cosine_similarity(*found, dim=0) > 0.99  # the states themselves are bfloat16's


def test_measures_take_the_phase_that_teaches_the_network():
    network = SequenceReader(4, CLASSES, hidden=HIDDEN)
    rule, x, y = TPTT(network), torch.randn(BATCH, TIME, 4), torch.randint(CLASSES, (BATCH,))
    assert alignment(rule, x, y) == alignment(rule, x, y, "network")


def test_statistics_stay_while_the_inverse_learns():
    network = nn.Sequential(nn.BatchNorm1d(TIME), SequenceReader(4, CLASSES, hidden=HIDDEN))
    rule = TPTT(network)
    rule.backward(torch.randn(BATCH, TIME, 4), torch.randint(CLASSES, (BATCH,)), "inverse")
    assert network[0].num_batches_tracked == 0


@pytest.mark.parametrize(
    ("cell", "options", "clip"),
    [
        ("tanh", {"regularisation": 10.0}, steady_clip(10.0)),
        ("tanh", {"regularisation": 10.0, "clip": 0.001}, 0.001),
        ("tanh", {"regularisation": 10.0, "targets": "difference"}, 0.001),
        ("tanh", {"regularisation": 10.0, "targets": "plain"}, 0.001),
        ("relu", {"regularisation": 10.0}, 0.001),
        ("gru", {"regularisation": 10.0}, 0.001),
        ("tanh", {"regularisation": 0.0}, 0.5),
    ],
)
def test_slopes_are_bounded_where_linearised_targets_of_tanh_units_divide(cell, options, clip):
    assert TPRI(SequenceReader(4, 2, hidden=8, cell=cell), **options).clip == clip


def test_without_regularisation_states_are_clipped_to_half_of_their_range_and_no_more():
    assert 1 - (1 - steady_clip(0.0)) ** 2 == steady_clip(1e-9) + 0.25 == 0.75


@pytest.mark.parametrize("make", [lambda n: TPRI(n, target_step=math.inf), lambda n: TPTT(n, noise=math.inf)])
def test_infinite_settings_are_refused(make):
    with pytest.raises(UserError, match="must be a number"):
        make(SequenceReader(4, 2, hidden=8))
