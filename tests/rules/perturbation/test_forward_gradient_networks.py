"""What networks forward gradients teach, by what credit for each sample, and what is refused."""

import pytest
import torch
from differentiated_networks import make
from time_first import TimeFirst
from torch import nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rules.perturbation.forward_gradient import ForwardGradient


def test_each_sample_has_a_signal_of_its_own():
    """What one sample adds does not depend on the labels of the others, given the noise."""
    network, x, y = make("perceptron")
    found = []
    for labels in (y, torch.cat([y[:1], 1 - y[1:]])):
        rule = ForwardGradient(network)
        rule.zero_grad()
        torch.manual_seed(5)
        with torch.no_grad():
            kept = x.clone()
            kept[1:] = 0.0  # the first layer's weight sees the first sample alone
        rule.backward(kept, labels)
        found.append(network[0].weight.grad.clone())
    torch.testing.assert_close(*found)


def test_a_dimension_as_long_as_the_batch_is_not_taken_for_it():
    """Four steps of four examples: a step's noise is credited with the whole loss, as where the loss is one number."""
    x, y, network = torch.randn(4, 4, 2), torch.tensor([0, 1, 0, 1]), TimeFirst()
    found = []
    for loss in (None, nn.CrossEntropyLoss()):
        network.zero_grad()
        torch.manual_seed(5)
        ForwardGradient(network, loss).backward(x, y)
        found.append((network.first.weight.grad, network.last.weight.grad))
    assert torch.allclose(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])  # the batch comes first there


def test_dropout_has_one_mask_for_all_directions_and_statistics_move_once():
    torch.manual_seed(0)
    seen = []
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    dropout = network[2]  # not in evaluation mode, as where a first batch is looked at

    def note(module, args, out):
        if module.training:
            seen.append((out == 0) & (args[0] != 0))

    dropout.register_forward_hook(note)
    x, y = torch.randn(6, 3), torch.arange(6) % 2
    for perturb in ("activities", "weights"):
        seen.clear()
        ForwardGradient(network, perturb=perturb, directions=3).backward(x, y)
        assert len(seen) == 3
        assert all(torch.equal(mask, seen[0]) for mask in seen)
        assert seen[0].any()
    assert network[1].num_batches_tracked == 2


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.read = nn.LSTMCell(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        state = (x.new_zeros(len(x), 4), x.new_zeros(len(x), 4))
        for step in x.unbind(dim=1):
            state = self.cell(step, state)
        return self.read(state[0])


def test_cells_in_a_loop_are_taught_and_whole_recurrences_refused():
    torch.manual_seed(0)
    network, x, y = Recurrent(), torch.randn(4, 3, 3), torch.tensor([0, 1, 0, 1])
    rule = ForwardGradient(network, perturb="weights")
    rule.backward(x, y)
    assert all(p.grad is not None for p in network.parameters())
    with pytest.raises(UnsupportedNetworkError, match=r"layer 0 \(LSTM\)"):
        ForwardGradient(nn.Sequential(nn.LSTM(3, 4)))


class Scaled(nn.Module):
    """Holds a parameter itself, beside a layer."""

    def __init__(self):
        super().__init__()
        self.scale, self.read = nn.Parameter(torch.ones(3)), nn.Linear(3, 2)

    def forward(self, x):
        return self.read(x * self.scale)


def test_a_parameter_that_no_layers_noise_would_teach_is_refused_by_name():
    network = Scaled()
    with pytest.raises(UnsupportedNetworkError, match=r'parameter scale belongs to no innermost layer.*"weights"'):
        ForwardGradient(network)
    ForwardGradient(network, perturb="weights").backward(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    assert network.scale.grad is not None
    network.scale.requires_grad_(False)
    ForwardGradient(network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perturb": "inputs"}, "perturb must be"),
        ({"directions": 0}, "directions"),
        ({"perturb": "weights", "orthogonal": True, "directions": 99}, "no 99 orthogonal"),
    ],
)
def test_what_is_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        ForwardGradient(make("perceptron")[0], **options)


def test_nan_is_told_and_nothing_is_added():
    network, x, y = make("perceptron")
    x[1, 2] = torch.nan
    for perturb in ("activities", "weights"):
        with pytest.raises(NonFiniteError, match="the input"):
            ForwardGradient(network, perturb=perturb).backward(x, y)
    assert all(p.grad is None for p in network.parameters())
    with pytest.raises(UserError, match="one number a sample"):
        ForwardGradient(network, lambda z, _: z).backward(x.nan_to_num(), y)
