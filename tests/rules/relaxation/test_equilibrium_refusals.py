"""What equilibrium propagation refuses: what does not settle, settings, batches and networks."""

import math

import pytest
import torch
from nudged_networks import READOUTS, Hopfield, make
from settling_networks import batch, convolutional, perceptron
from torch import nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rules.relaxation.equilibrium import EquilibriumPropagation


def test_what_does_not_settle_is_named():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.fill_(10.0)
    rule = EquilibriumPropagation.for_classifier(layers, torch.zeros(1, 4), 3, free_steps=200)
    with pytest.raises(NonFiniteError, match=r"state of layer 1, which does not settle"):
        rule.backward(torch.ones(2, 4), torch.tensor([0, 1]))
    assert all(p.grad is None for p in layers.parameters())


def test_a_nudge_that_does_not_settle_is_named():
    x, y = batch(4)
    rule = make(perceptron(), x, "squared", beta=1e6, nudged_steps=100)
    with pytest.raises(NonFiniteError, match=r"gradient of .* lower beta"):
        rule.backward(x, y)
    assert all(p.grad is None for p in rule.parameters())


@pytest.mark.parametrize(
    "option",
    [{"beta": 0}, {"beta": math.nan}, {"free_steps": 0}, {"nudged_steps": 0}, {"tolerance": -1}, {"nudging": "both"}],
)
def test_settings_out_of_range_are_refused(option):
    with pytest.raises(UserError, match=next(iter(option))):
        make(perceptron(), batch(4)[0], **option)


@pytest.mark.parametrize("tolerance", [math.nan, math.inf, -1.0])
def test_a_prediction_checks_its_own_tolerance(tolerance):
    x, _ = batch(4)
    with pytest.raises(UserError, match="tolerance"):
        make(perceptron(), x)(x, tolerance=tolerance)


def test_options_of_a_classifier_that_contradict_each_other_are_refused():
    x, _ = batch(4)
    with pytest.raises(UserError, match="same_update"):
        EquilibriumPropagation.for_classifier(perceptron(), x, 3, same_update=True)
    for readout in READOUTS:
        with pytest.raises(UnsupportedNetworkError, match="3 scores, but there are 10 classes"):
            EquilibriumPropagation.for_classifier(perceptron(), x, 10, readout=readout)


@pytest.mark.parametrize("size", [(1, 14, 15), (2, 14, 14), (14, 14), ()])
def test_a_batch_of_other_samples_than_the_examples_is_told(size):
    x, y = batch(1, 14, 14)
    rule = make(convolutional(), x)
    other = torch.zeros(5, *size).double()
    for call in (rule, lambda x: rule.backward(x, y), rule.settling):
        with pytest.raises(UserError, match=r"x has shape \(5,.*made for \(batch, 1, 14, 14\)$"):
            call(other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.float16])
def test_a_batch_of_another_type_than_the_weights_is_told(dtype):
    x, _ = batch(1, 14, 14)
    rule = make(convolutional().float(), x.float())
    with pytest.raises(UserError, match=f"x is .*{str(dtype).removeprefix('torch.')} and the weights"):
        rule(x.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert rule(x.float()).isfinite().all()
        with pytest.raises(UserError, match="and the weights"):
            rule(x.to(torch.uint8))


def test_what_is_no_settling_network_is_refused():
    with pytest.raises(UserError, match="for_classifier"):
        EquilibriumPropagation(nn.Linear(4, 3))
    with pytest.raises(UserError, match="feedback"):
        EquilibriumPropagation.for_classifier(perceptron(), batch(4)[0], 3, feedback="none")
    assert EquilibriumPropagation.supports(Hopfield()) is None
    assert "no nn.Sequential" in EquilibriumPropagation.supports(nn.Linear(4, 3))
    assert "no activation" in EquilibriumPropagation.supports(nn.Sequential(nn.Linear(4, 3)))
    wrong = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    assert "layer 1 (LayerNorm)" in EquilibriumPropagation.supports(wrong)
    with pytest.raises(UnsupportedNetworkError, match=r"layer 1 \(LayerNorm\)"):
        EquilibriumPropagation.for_classifier(wrong, torch.zeros(1, 4), 3)


def test_both_ends_are_looked_through_for_what_is_not_finite():
    x, _ = batch(4)
    rule = make(perceptron(), x)
    free = rule.free(rule.settling_network.prepare(x))
    broken = [state.clone() for state in free]
    broken[1][0] = math.nan
    assert "which does not settle" in rule._where(x, free, broken)
    assert rule._where(x, free, broken) == rule._where(x, broken, free)
