"""Small systems of light and their samples, on which Hamiltonian echoes are tested."""

import torch

from beyondprop.networks.hamiltonian_echo import cavity_array, coupled_modes, photonic_layers, wave_fields

X = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]]).double()
Y = torch.tensor([1, 0, 0])
AMPLITUDES = torch.tensor([0.4, 0.5]).double()


def array(steps=80, **options):
    torch.manual_seed(0)
    theta = torch.rand(2, 16).double()
    return cavity_array(AMPLITUDES, theta / theta.norm(dim=1, keepdim=True), steps=steps, **options)


def systems():
    torch.manual_seed(0)
    return {
        "coupled modes": coupled_modes(2, 2, layers=3, modes=6, strength=1.0, own=0.3, gain=5.0).double(),
        "photonic layers": photonic_layers(
            (1, 1, 2), 2, layers=2, channels=2, side=4, strength=1.0, own=0.2, gain=5.0
        ).double(),
        "wave fields": wave_fields(2, 2, points=8, steps=20, gain=5.0).double(),
    }


def inputs(system):
    return X.view(3, 1, 1, 2) if type(system.encode).__name__ == "Planes" else X


def gradient(rule, x=X, y=Y, phase=None):
    rule.zero_grad()
    rule.backward(x, y, phase or rule.phases[0])
    return rule.network.theta.grad.clone()


def cost(system, loss, x, y):
    with torch.no_grad():
        return loss(system(x), y)
