"""The paper's own steps by Hamiltonian echoes: SGD takes them, within limits, for replicas that are apart."""

import math

import pytest
import torch
from light_systems import AMPLITUDES, X, Y, array, cost, gradient

from beyondprop.networks.hamiltonian_echo import cavity_array
from beyondprop.rules.relaxation.hamiltonian_echo import HamiltonianEcho
from beyondprop.rules.relaxation.noting_echo import SignCost


def machine(system, loss, *, damping, limit):
    """The paper's step for one sample, an echo and a decay, written out: from complex θ to complex θ."""

    def echo_and_decay(theta, epsilon, mass):
        psi = system.encode(X[:1]).to(torch.complex128)
        end = system.evolve(torch.cat([psi, theta[None]], dim=-1))
        output = end[..., system.psi_modes - 1]
        target = (1 - 2 * Y[:1])[:, None] * loss.targets
        end[..., system.psi_modes - 1] -= 1j * epsilon * (output - target)
        back = system.evolve(end.conj()).conj()[0, :, system.psi_modes :]
        kick = back.imag * (1 - math.exp(-damping)) / mass
        kick = kick / (1 + kick**2 / limit**2).sqrt()
        return torch.complex(back.real + kick, back.imag * math.exp(-damping))

    return echo_and_decay


def test_sgd_takes_the_papers_own_simple_steps():
    """The learning rate is ε/(2m); damping that leaves momentum for the next step, and the soft limit, included."""
    system, loss = array(split=True), SignCost(0.5 * AMPLITUDES)
    epsilon, mass, damping, limit = 1e-2, 5e-3, 1.5, 1e-2
    step = machine(system, loss, damping=damping, limit=limit)
    theta = system.theta.detach().to(torch.complex128)
    rule = HamiltonianEcho(system, loss, echo="simple", epsilon=epsilon, mass=mass, damping=damping, limit=limit)
    optimizer = torch.optim.SGD(rule.parameters(), lr=epsilon / (2 * mass))
    for _ in range(3):
        theta = step(theta, epsilon, mass)
        optimizer.zero_grad()
        rule.backward(X[:1], Y[:1])
        optimizer.step()
        torch.testing.assert_close(system.theta.detach(), theta.real, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(rule.momentum, theta.imag, rtol=1e-10, atol=1e-14)
    assert theta.imag.abs().max() > 1e-5


def test_sgd_takes_the_papers_own_averaged_steps():
    """Two phases: (ε, m), and (-ε, -m) from where the first has ended."""
    system, loss = array(split=True), SignCost(0.5 * AMPLITUDES)
    epsilon, mass, limit = 1e-3, 5e-3, 0.1
    step = machine(system, loss, damping=math.inf, limit=limit)
    theta = system.theta.detach().to(torch.complex128)
    rule = HamiltonianEcho(system, loss, echo="alternating", epsilon=epsilon, mass=mass, limit=limit)
    optimizer = torch.optim.SGD(rule.parameters(), lr=epsilon / (2 * mass))
    assert rule.phases == ("+", "-")
    before = theta
    for _ in range(2):
        theta = step(step(theta, epsilon, mass), -epsilon, -mass)
        for phase in rule.phases:
            optimizer.zero_grad()
            rule.backward(X[:1], Y[:1], phase)
            optimizer.step()
        torch.testing.assert_close(system.theta.detach(), theta.real, rtol=1e-10, atol=1e-12)
    assert (theta - before).abs().max() > 1e-2


def test_the_averaged_rule_takes_the_same_step_to_lowest_order():
    """SGD with ε/m: one step of the alternating machine, but for what the second echo sees of the first."""
    system, loss, mass = array(), SignCost(0.5 * AMPLITUDES), 1.0
    start, errors = system.theta.detach().clone(), []
    for epsilon in (1e-2, 1e-3):
        ends = []
        for kind, rate in (("averaged", epsilon / mass), ("alternating", epsilon / (2 * mass))):
            rule = HamiltonianEcho(system, loss, echo=kind, epsilon=epsilon, mass=mass)
            optimizer = torch.optim.SGD(rule.parameters(), lr=rate)
            with torch.no_grad():
                system.theta.copy_(start)
            for phase in rule.phases:
                optimizer.zero_grad()
                rule.backward(X[:1], Y[:1], phase)
                optimizer.step()
            ends.append(system.theta.detach().clone() - start)
        errors.append(float((ends[0] - ends[1]).norm() / ends[0].norm()))
    assert errors[1] < 0.15 * errors[0] < 0.15


def test_the_limit_of_an_averaged_echo_holds_for_each_of_both():
    system, loss, epsilon, mass, limit = array(), SignCost(0.5 * AMPLITUDES), 1e-4, 1e-3, 5e-3
    free = gradient(HamiltonianEcho(system, loss, epsilon=epsilon), X[:1], Y[:1])
    half = epsilon / (2 * mass) * free
    found = gradient(HamiltonianEcho(system, loss, epsilon=epsilon, mass=mass, limit=limit), X[:1], Y[:1])
    expected = 2 * half / (1 + (half / limit) ** 2).sqrt() * (mass / epsilon)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert (found.abs() < 0.9 * free.abs()).any()


def test_replicas_are_independent():
    """Each learns what it would alone; moving one of them changes nothing of the other."""
    system, loss = array(), SignCost(0.5 * AMPLITUDES)
    both = gradient(HamiltonianEcho(system, loss))
    for number in range(2):
        alone = cavity_array(AMPLITUDES[number : number + 1], system.theta[number : number + 1].detach(), steps=80)
        rule = HamiltonianEcho(alone, SignCost(0.5 * AMPLITUDES[number : number + 1]))
        torch.testing.assert_close(gradient(rule)[0], both[number], rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        system.theta[1] *= 1.5
    moved = gradient(HamiltonianEcho(system, loss))
    assert torch.equal(moved[0], both[0])
    assert not torch.allclose(moved[1], both[1])


def test_the_loss_of_replicas_is_their_mean():
    system, loss = array(), SignCost(0.5 * AMPLITUDES)
    returned = HamiltonianEcho(system, loss).backward(X, Y)
    assert returned == pytest.approx(float(cost(system, loss, X, Y).mean()))
    wanted = torch.tensor([[-0.2, -0.25], [0.2, 0.25], [0.2, 0.25]])
    assert returned == pytest.approx(float((system(X).detach() - wanted).abs().square().mean()))


def test_intensity_and_kerr_effect_count_by_their_product_alone():
    """All amplitudes times s and g by 1/s²: SGD takes the same course, times s, at the same rate."""
    torch.manual_seed(0)
    theta, s = torch.rand(2, 16).double() / 2, 0.79
    ends = []
    for scale in (1.0, s):
        system = cavity_array(scale * AMPLITUDES, scale * theta, kerr=-2.0 / scale**2, steps=80)
        rule = HamiltonianEcho(system, SignCost(0.5 * scale * AMPLITUDES), limit=0.02 * scale, mass=3e-3, epsilon=1e-4)
        optimizer = torch.optim.SGD(rule.parameters(), lr=1e-4 / 3e-3)
        for number in range(4):
            optimizer.zero_grad()
            rule.backward(X[number % 3 :][:1], Y[number % 3 :][:1])
            optimizer.step()
        ends.append((system.theta.detach() - scale * theta) / scale)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-5, atol=1e-7)
    assert ends[0].norm() > 1e-3


def test_a_layers_momentum_is_kept_for_resuming():
    system, loss = array(), SignCost(0.5 * AMPLITUDES)
    rules = [HamiltonianEcho(array(), loss, echo="simple", damping=0.5) for _ in range(2)]
    rules[0].backward(X, Y)
    rules[1].load_state_dict(rules[0].state_dict())
    assert rules[1].momentum.any()
    assert torch.equal(gradient(rules[0]), gradient(rules[1]))
    assert not torch.equal(gradient(rules[0]), gradient(HamiltonianEcho(system, loss, echo="simple", damping=0.5)))
