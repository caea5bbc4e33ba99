"""Memory of target projection does not grow with depth; that of back-propagation does."""

import pytest
import torch
from torch import nn

from beyondprop.measure import peak_live_bytes, peak_saved_bytes
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.direct_feedback import DFA
from beyondprop.rules.signals.target_projection import DRTP, TPSGD

BATCH, WIDTH = 512, 32  # so that activations, 64 kB a layer, count for more than a weight's gradient, 4 kB


def activation_bytes(rule_class, depth):
    """What is alive beside parameters, feedback, gradients and the batch; and what autograd keeps for backward."""
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    network = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    x, y = torch.randn(BATCH, WIDTH), torch.randint(10, (BATCH,))
    rule = rule_class.for_classifier(network, x, 10)

    def step():
        rule.zero_grad()
        rule.backward(x, y)

    step()
    return peak_live_bytes(step, rule)["highest_activations"], peak_saved_bytes(step, rule)


@pytest.mark.parametrize("rule_class", [DRTP, TPSGD])
def test_activations_of_sixteen_layers_take_the_memory_of_four(rule_class):
    (live_4, saved_4), (live_16, saved_16) = (activation_bytes(rule_class, depth) for depth in (4, 16))
    assert live_16 < 1.03 * live_4
    assert saved_16 == saved_4


@pytest.mark.parametrize("rule_class", [Backprop, DFA])
def test_activations_of_rules_that_wait_for_the_error_grow_with_depth(rule_class):
    (live_4, saved_4), (live_16, saved_16) = (activation_bytes(rule_class, depth) for depth in (4, 16))
    assert 2.5 * live_4 < live_16
    assert 3 * saved_4 < saved_16 < 4 * saved_4
