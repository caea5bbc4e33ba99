"""Memory of echo learning does not grow with the sequence."""

import pytest
import torch
from torch import nn

from beyondprop.layers.hamiltonian import NonlinearHRU
from beyondprop.measure.memory import peak_live_bytes, peak_saved_bytes
from beyondprop.networks.hamiltonian import HamiltonianNetwork, hamiltonian_classifier
from beyondprop.rules.relaxation.recurrent_echo import RecurrentEcho


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_memory_does_not_grow_with_the_sequence(pooling):
    network = hamiltonian_classifier(4, 3, size=16, blocks=2, pooling=pooling)
    rule, y = RecurrentEcho(network, chunk=10), torch.randint(3, (8,))
    live, saved = [], []
    for steps in (60, 600):
        x = torch.randn(8, steps, 4)
        rule.backward(x, y)
        live.append(peak_live_bytes(lambda x=x: rule.backward(x, y), rule)["highest_activations"])
        saved.append(peak_saved_bytes(lambda x=x: rule.backward(x, y), rule))
    assert live[1] < 1.05 * live[0]
    assert saved[1] == saved[0]


def test_a_loss_on_every_step_keeps_its_derivative_alone():
    """That is, outputs and their derivatives, a few numbers a step, and not the states."""
    network = HamiltonianNetwork([NonlinearHRU(4, 64)], nn.Linear(64, 1), pooling="every")
    rule, live = RecurrentEcho(network, nn.MSELoss(), chunk=10), []
    for steps in (60, 600):
        x, y = torch.randn(8, steps, 4), torch.randn(8, steps, 1)
        rule.backward(x, y)
        live.append(peak_live_bytes(lambda x=x, y=y: rule.backward(x, y), rule)["highest_activations"])
    assert live[1] - live[0] < 540 * 8 * 4 * 10  # of 64 a step, at most 10
