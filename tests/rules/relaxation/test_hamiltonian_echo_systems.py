"""Systems that learn by Hamiltonian echoes: layers of light, how it is written and read, classifiers."""

import pytest
import torch
from light_systems import gradient, inputs, systems
from torch import nn

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.layers.light import Amplitudes, Intensities, Planes
from beyondprop.rules.relaxation.hamiltonian_echo import HamiltonianEcho


@pytest.mark.parametrize("name", ["coupled modes", "photonic layers"])
def test_every_layer_of_light_meets_learning_modes_of_its_own(name):
    system = systems()[name]
    found = gradient(HamiltonianEcho(system), inputs(system)).view(-1, system.psi_modes)
    assert len(found) == {"coupled modes": 3, "photonic layers": 2}[name]
    assert (found.abs().amax(dim=1) > 1e-3).all()


def test_an_image_and_its_negative_look_different():
    """The plane wave: without it they differ by a phase, which no intensity tells."""
    encode, x = Planes((1, 2, 3), side=4, channels=2), torch.randn(1, 1, 2, 3)
    intensities = encode(torch.cat([x, -x])).square()
    assert intensities.mean(dim=1).tolist() == pytest.approx([1, 1])
    assert (intensities[0] - intensities[1]).abs().max() > 0.1
    system = systems()["photonic layers"]
    scores = system(torch.cat([inputs(system)[:1], -inputs(system)[:1]])).detach()
    assert (scores[0] - scores[1]).abs().max() > 1e-2


def test_amplitudes_and_detectors():
    psi = Amplitudes(5, power=8.0, reference=0.5)(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
    assert psi.square().sum(dim=1).tolist() == pytest.approx([8.0, 8.0])
    scale = (8 / 1.25) ** 0.5
    assert psi[0].tolist() == pytest.approx([0.6 * scale, -0.8 * scale, 0.5 * scale, 0, 0], rel=1e-6)
    assert psi[1].tolist() == pytest.approx([0, 0, 8**0.5, 0, 0], rel=1e-6)
    scores = Intensities(2, gain=10.0)(torch.tensor([1.0, 2j, 1 + 1j, 0, 3]))
    assert scores.tolist() == pytest.approx([10 * 3 / 16, 10 * 4 / 16])


def test_a_classifier_is_coupled_modes_of_its_task():
    network = nn.Linear(6, 3)
    rule = HamiltonianEcho.for_classifier(network, torch.rand(2, 2, 3).double(), 3, layers=2, modes=12, echo="simple")
    assert rule.network.theta.shape == (24,)
    assert rule.network.theta.dtype == torch.float64
    assert rule(torch.rand(4, 2, 3).double()).shape == (4, 3)
    assert not any(module is network for module in rule.modules())
    with pytest.raises(UnsupportedNetworkError, match="amplitudes"):
        HamiltonianEcho.for_classifier(network, torch.zeros(2, 6, dtype=torch.long), 3)
