"""What node perturbation refuses: options, networks, sequences, and layers that do not see the batch first."""

import math

import pytest
import torch
from perturbed_sequences import SQUARES, sequences, vanilla
from time_first import TimeFirst
from torch import nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rules.perturbation.node_perturbation import NodePerturbation


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "nodes"}, "kind must be one of 'activity', 'node', 'weight'"),
        ({"noise": "uniform"}, "noise must be one of"),
        ({"credit": "past"}, "credit must be one of"),
        ({"sigma": 0.0}, "sigma must be a number above 0"),
        ({"sigma": math.nan}, "sigma must be a number above 0"),
        ({"samples": 0}, "samples must be a whole number of at least 1"),
        ({"windows": 1.5}, "windows must be a whole number of at least 1"),
        ({"decorrelation": -1.0}, "decorrelation must be a number of at least 0"),
        ({"windows": 2}, "windows divide the time of a sequence network"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        NodePerturbation(nn.Linear(2, 2), **options)


def test_what_cannot_be_perturbed_is_named():
    with pytest.raises(UnsupportedNetworkError, match=r"layer 0 \(GRU\) runs over time inside itself"):
        NodePerturbation(nn.Sequential(nn.GRU(2, 2)))

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.layer = nn.Parameter(torch.ones(2)), nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(self.scale * x)

    with pytest.raises(UnsupportedNetworkError, match="parameter scale belongs to no innermost layer"):
        NodePerturbation(Scaled())
    NodePerturbation(Scaled(), kind="weight").backward(torch.randn(3, 2), torch.tensor([0, 1, 0]))
    attention = nn.TransformerEncoderLayer(4, 2, 4, batch_first=True)
    with pytest.raises(UnsupportedNetworkError, match=r"layer self_attn .* perturb weights"):
        NodePerturbation(attention, SQUARES).backward(torch.randn(2, 3, 4), torch.randn(2, 3, 4))

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            z = self.layer(x)
            return z if z.sum().item() > 0 else -z

    with pytest.raises(UnsupportedNetworkError, match="evaluations cannot be batched"):
        NodePerturbation(Branching()).backward(torch.randn(3, 2), torch.tensor([0, 1, 0]))


def test_sequences_that_do_not_fit_are_refused():
    network, (x, y) = vanilla(), sequences()
    with pytest.raises(UserError, match="cannot be divided into 9 windows"):
        NodePerturbation(network, SQUARES, windows=9).backward(x, y, "window 1")
    with pytest.raises(UserError, match="one number an example"):
        NodePerturbation(network, lambda scores, y: (scores - y).square().mean(dim=0)).backward(x, y)
    x[1, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="the input"):
        NodePerturbation(network, SQUARES).backward(x, y)


def test_layers_that_do_not_see_the_batch_first_are_told():
    x, y = torch.randn(4, 5, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(UserError, match="layer first gives 5 rows for 4 examples"):
        NodePerturbation(TimeFirst(), kind="node", samples=2).backward(x, y)
    NodePerturbation(TimeFirst(), nn.CrossEntropyLoss(), kind="node", samples=2).backward(x, y)


def test_a_dimension_as_long_as_the_batch_is_not_taken_for_it():
    """Four steps of four examples: the noise of a step would be credited with the loss of an example."""
    x, y = torch.randn(4, 4, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(UserError, match="layer first gives 4 rows for 4 examples, and for one more as many"):
        NodePerturbation(TimeFirst(), kind="node", samples=2).backward(x, y)
    NodePerturbation(TimeFirst(), nn.CrossEntropyLoss(), kind="node", samples=2).backward(x, y)
