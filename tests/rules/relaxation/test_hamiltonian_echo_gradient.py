"""Hamiltonian echoes: the kick against finite differences and autograd, and orders of the error."""

import math

import pytest
import torch
from light_systems import AMPLITUDES, X, Y, array, cost, gradient, inputs, systems
from torch import nn
from torch.nn import functional as F

from beyondprop.layers.light import Amplitudes, Intensities
from beyondprop.measure.alignment import alignment
from beyondprop.networks.hamiltonian_echo import coupled_modes, disordered_array
from beyondprop.rules.relaxation.hamiltonian import HamiltonianSystem, Segment
from beyondprop.rules.relaxation.hamiltonian_echo import HamiltonianEcho
from beyondprop.rules.relaxation.noting_echo import SignCost
from beyondprop.rules.relaxation.parts import Couplings, Kerr


@pytest.fixture(params=list(systems()))
def system(request):
    return systems()[request.param]


def differences(system, loss, x, y, h=1e-5):
    """∂C/∂θ by central differences, one learning mode after another; all replicas at once, for they are apart."""
    found = torch.zeros_like(system.theta)
    for place in range(system.theta.shape[-1]):
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                system.theta[..., place] += sign * h
                sides.append(cost(system, loss, x, y))
                system.theta[..., place] -= sign * h
        found[..., place] = (sides[0] - sides[1]) / (2 * h)
    return found


def test_an_echo_without_an_error_returns_to_its_start():
    """With the paper's 499 steps, to rounding."""
    system = array(steps=499)
    with torch.no_grad():
        start = system.start(X)
        back = system.evolve(system.evolve(start).conj(), back=True).conj()
    assert (back - start).abs().max() < 1e-12


def test_the_kick_is_the_gradient_by_finite_differences(system):
    x = inputs(system)
    rule = HamiltonianEcho(system, epsilon=1e-4)
    expected = differences(system, F.cross_entropy, x, Y)
    torch.testing.assert_close(gradient(rule, x), expected, rtol=1e-5, atol=1e-7)
    assert expected.abs().max() > 1e-3


def test_the_kick_is_the_gradient_where_light_and_learning_modes_exchange_power():
    """The power of Ψ then depends on θ, and so does what scores are shares of."""
    torch.manual_seed(0)
    drawn = torch.randn(8, 8).double() / 4
    parts, read = [Couplings(drawn + drawn.mT), Kerr(0.6)], Intensities(2, gain=5.0)
    theta = torch.rand(4).double()
    system = HamiltonianSystem([Segment(parts, 0.1, 10)], Amplitudes(4, 4.0), read, theta, modes=4)
    kept = system.evolve(system.start(X))[:, :4].abs().square().sum(dim=1)
    assert (kept - 4).abs().min() > 0.1
    expected = differences(system, F.cross_entropy, X, Y)
    torch.testing.assert_close(gradient(HamiltonianEcho(system, epsilon=1e-4)), expected, rtol=1e-5, atol=1e-7)


def test_the_kick_of_an_array_is_the_gradient_by_finite_differences():
    system, loss = array(), SignCost(0.5 * AMPLITUDES)
    rule = HamiltonianEcho(system, loss, epsilon=1e-4)
    torch.testing.assert_close(gradient(rule), differences(system, loss, X, Y), rtol=1e-5, atol=1e-7)


def test_the_kick_is_the_gradient_by_autograd_through_all_steps(system):
    x = inputs(system)
    echo, unrolled = (HamiltonianEcho(system, echo=kind) for kind in ("averaged", "autograd"))
    torch.testing.assert_close(gradient(echo, x), gradient(unrolled, x), rtol=1e-6, atol=1e-7)


def test_the_kick_is_seen_beside_back_propagations_gradient(system):
    found = alignment(HamiltonianEcho(system), inputs(system), Y)
    assert list(found) == ["network"]
    assert found["network"].angle < 1
    assert found["network"].norm_ratio == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("split", [False, True])
def test_the_kick_of_an_array_is_the_gradient_by_autograd(split):
    system, loss = array(split=split), SignCost(0.5 * AMPLITUDES)
    echo, unrolled = (HamiltonianEcho(system, loss, echo=kind) for kind in ("averaged", "autograd"))
    torch.testing.assert_close(gradient(echo), gradient(unrolled), rtol=1e-6, atol=1e-8)
    assert echo.backward(X, Y) == pytest.approx(float(unrolled.backward(X, Y)))


@pytest.mark.parametrize(("kind", "order"), [("simple", 1), ("averaged", 2)])
def test_the_error_has_the_order_of_theory_in_epsilon(kind, order):
    """Of the momentum alone: the mass that weighs the displacement is as good as none."""
    system, loss = array(steps=499), SignCost(0.5 * AMPLITUDES)
    exact = gradient(HamiltonianEcho(system, loss, echo="autograd"))
    sizes, errors = [3e-2, 1e-2, 3e-3], []
    for epsilon in sizes:
        rule = HamiltonianEcho(system, loss, echo=kind, epsilon=epsilon, mass=1e-9)
        errors.append((gradient(rule) - exact).norm() / exact.norm())
    slope = (math.log(errors[0]) - math.log(errors[-1])) / (math.log(sizes[0]) - math.log(sizes[-1]))
    assert slope == pytest.approx(order, abs=0.15)


def by_momentum(system, loss):
    """∂C/∂π at rest, by autograd from a start that may move."""
    momentum = torch.zeros_like(system.theta).requires_grad_()
    phi = system.start(X).detach()
    phi = torch.cat([phi[..., : system.psi_modes], phi[..., system.psi_modes :] + 1j * momentum], dim=-1)
    for part, time in system._flows(system.plan):
        phi = system.parts[part].flow(phi, time)
    (found,) = torch.autograd.grad(loss(system.read(phi[..., : system.psi_modes]), Y).sum(), momentum)
    return found


def test_a_simple_echo_has_the_displacement_as_its_bias():
    """θ moves by -ε/(2m) ∂C/∂θ + ε/2 ∂C/∂π: in units of ε/(2m), the bias is -m ∂C/∂π."""
    system, loss, mass = array(), SignCost(0.5 * AMPLITUDES), 0.7
    exact = gradient(HamiltonianEcho(system, loss, echo="autograd"))
    bias = by_momentum(system, loss)
    simple = gradient(HamiltonianEcho(system, loss, echo="simple", epsilon=1e-6, mass=mass))
    torch.testing.assert_close(simple, exact - mass * bias, rtol=1e-4, atol=1e-6)
    assert (mass * bias).norm() > 0.1 * exact.norm()


@pytest.mark.parametrize("kind", ["averaged", "simple", "autograd"])
def test_a_batch_gives_the_mean_of_its_samples(system, kind):
    x, rule = inputs(system), HamiltonianEcho(system, echo=kind, mass=1e-3)
    alone = torch.stack([gradient(rule, x[i : i + 1], Y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(gradient(rule, x), alone.mean(dim=0), rtol=1e-8, atol=1e-10)


def test_a_sum_of_losses_gives_the_sum_of_kicks(system):
    x = inputs(system)
    mean, total = HamiltonianEcho(system), HamiltonianEcho(system, nn.CrossEntropyLoss(reduction="sum"))
    torch.testing.assert_close(gradient(total, x), 3 * gradient(mean, x), rtol=1e-6, atol=1e-8)


def test_disorder_shifts_what_is_learned():
    torch.manual_seed(0)
    theta, detuning = torch.randn(2, 12).double() / 4, torch.randn(2, 16).double()
    system = disordered_array(torch.ones(2).double(), theta, detuning, steps=100)
    loss = SignCost(0.25 * torch.ones(2).double())
    found = gradient(HamiltonianEcho(system, loss))
    torch.testing.assert_close(found, differences(system, loss, X, Y), rtol=1e-4, atol=1e-7)


def test_single_precision_gives_the_gradient_to_a_thousandth(system):
    x = inputs(system)
    exact = gradient(HamiltonianEcho(system, echo="autograd"), x)
    found = gradient(HamiltonianEcho(system.float()), x.float())
    assert found.dtype == torch.float32
    assert (found.double() - exact).norm() < 2e-3 * exact.norm()


def test_nothing_is_differentiated_but_the_cost_by_the_output():
    saved = []
    system = coupled_modes(6, 3)
    rule = HamiltonianEcho(system)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        rule.backward(torch.rand(5, 6), torch.tensor([0, 1, 2, 0, 1]))
    assert all(math.prod(shape) <= 5 * 2 * system.psi_modes for shape in saved)


def test_any_loss_may_read_complex_amplitudes():
    """Squared error by torch, and a loss that is real of complex outputs: the factor 1/2 of ∂C/∂Ψ* in either."""
    system = array()
    losses = (
        lambda out, y: F.mse_loss(torch.view_as_real(out), torch.zeros(3, 2, 2).double()),
        lambda out, y: (out.real + 2 * out.imag * out.real).mean(),
    )
    for loss in losses:
        echo, unrolled = (HamiltonianEcho(system, loss, echo=kind) for kind in ("averaged", "autograd"))
        torch.testing.assert_close(gradient(echo, X, X), gradient(unrolled, X, X), rtol=1e-5, atol=1e-8)


def test_frozen_learning_modes_get_no_gradient():
    system = coupled_modes(6, 3)
    system.theta.requires_grad_(False)
    for kind in ("averaged", "autograd"):
        HamiltonianEcho(system, echo=kind).backward(torch.rand(2, 6), torch.tensor([0, 1]))
    assert system.theta.grad is None
