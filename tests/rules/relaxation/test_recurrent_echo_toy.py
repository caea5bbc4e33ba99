"""The paper's toy of coupled oscillators: finite differences, back-propagation and its springs."""

import pytest
import torch
from echoing_networks import distance, echoed, slope, through_time
from torch import nn
from torch.nn import functional as F

from beyondprop.networks.hamiltonian import Component, CoupledOscillators, HamiltonianNetwork


def toy():
    """Six oscillators with constants of their own, a push on the first, a target for the fourth at all times."""
    unit = CoupledOscillators(6, step=0.3).double()
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.mul_(0.5 + torch.rand_like(parameter))
    x, y = torch.randn(2, 3, 40, 1, dtype=torch.float64)
    return HamiltonianNetwork([unit], Component(3), pooling="every"), x, y


def test_toy_equals_finite_differences_with_the_half_of_the_energy():
    """-(δ/2ε) times differences of ∂H, of which ∂H/∂k_ij = ½ (φ_j - φ_i)²: the factor of H's springs stays.

    Without that half, as one may read the paper's formula for g_kij, gradients would be twice as large. Differences of
    the loss itself tell, in which no derivative of H occurs.
    """
    network, x, y = toy()
    _, found = echoed(network, x, y, nn.MSELoss(), eps=1e-3)
    step = 1e-5
    for parameter, gradient in zip(network.parameters(), found, strict=False):
        for n in range(parameter.numel()):
            losses = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.view(-1)[n] += sign * step
                    losses.append(float(F.mse_loss(network(x), y)))
                    parameter.view(-1)[n] -= sign * step
            assert float(gradient[n]) == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("two_sided", "order"), [(True, 2), (False, 1)], ids=["two sides", "one side"])
def test_toy_tends_to_back_propagation(two_sided, order):
    network, x, y = toy()
    expected = through_time(network, x, y, nn.MSELoss())[1]
    sizes = (0.4, 0.1)
    errors = [distance(echoed(network, x, y, nn.MSELoss(), eps=e, two_sided=two_sided)[1], expected) for e in sizes]
    if two_sided:  # of a quadratic energy; masses are in the denominator, but the momenta are squared
        assert max(errors) < 1e-10
    else:
        assert slope(sizes, errors) == pytest.approx(order, abs=0.1)
    assert distance(echoed(network, x, y, nn.MSELoss(), eps=1e-5, two_sided=two_sided)[1], expected) < 1e-4


def test_oscillators_move_as_their_matrix_of_springs_has_them():
    """M φ'' = -K φ - u e_1, with K_ii = k_i + Σ_j k_ij and K_ij = -k_ij: the energy is that of the paper's toy."""
    unit = toy()[0].units[0]
    K = torch.diag(unit.spring.detach())
    for i, j, k in zip(unit.first, unit.second, unit.coupling.tolist(), strict=True):
        K[i, i], K[j, j], K[i, j], K[j, i] = K[i, i] + k, K[j, j] + k, K[i, j] - k, K[j, i] - k
    phi, pi = torch.randn(2, 4, 6, dtype=torch.float64)
    u = torch.randn(1, 4, 1, dtype=torch.float64)
    push = F.pad(u[0], (0, 5))
    with torch.no_grad():
        torch.testing.assert_close(unit.kicks(u)(phi, pi, 0), pi - unit.step * (phi @ K + push))
        torch.testing.assert_close(unit.velocity(pi), pi / unit.mass)
