"""Hamiltonian systems: order of the splitting, what is conserved, the way back, and what is refused."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from beyondprop.errors import UserError
from beyondprop.layers.light import Bits, OneMode
from beyondprop.networks.hamiltonian_echo import (
    cavity_array,
    coupled_modes,
    disordered_array,
    photonic_layers,
    square_lattice,
    wave_fields,
)
from beyondprop.rules.relaxation.hamiltonian import HamiltonianSystem, Segment
from beyondprop.rules.relaxation.parts import Couplings, Kerr, Part

X = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double()


def array(**options):
    torch.manual_seed(0)
    theta = torch.rand(2, 16).double()
    theta /= theta.norm(dim=1, keepdim=True)
    return cavity_array(torch.tensor([0.4, 0.5]).double(), theta, **options)


def systems():
    torch.manual_seed(0)
    return {
        "cavity array": array(steps=50),
        "cavity array, split": array(steps=50, split=True),
        "disordered array": disordered_array(
            torch.ones(2).double(), torch.randn(2, 12).double() / 3, torch.randn(2, 16).double(), steps=50
        ),
        "coupled modes": coupled_modes(2, 2, layers=3, modes=6, own=0.3).double(),
        "photonic layers": photonic_layers((1, 1, 2), 2, layers=2, channels=2, side=4, own=0.2).double(),
        "wave fields": wave_fields(2, 2, points=8, steps=20).double(),
    }


@pytest.fixture(params=list(systems()))
def system(request):
    return systems()[request.param]


def inputs(system):
    return X.view(2, 1, 1, 2) if type(system.encode).__name__ == "Planes" else X


def reference_step(phi, dt, *, side=4, g=-2.0, hop=10.0, kappa=0.3):
    """One step of the array as the paper tells it, in the sine waves of a lattice with hard walls; phi (20,)."""

    def linear(phi, dt):
        k = math.pi / (side + 1) * torch.arange(1, side + 1).double()
        sine = math.sqrt(2 / (side + 1)) * torch.sin(k[:, None] * torch.arange(1, side + 1).double())
        waves = sine.to(phi.dtype) @ phi[4:].view(side, side) @ sine.to(phi.dtype)
        waves = waves * torch.exp(-2j * hop * dt * (k.cos()[:, None] + k.cos()[None]))
        return torch.cat([phi[:4], (sine.to(phi.dtype) @ waves @ sine.to(phi.dtype)).flatten()])

    def kerr(phi, dt):
        return phi * torch.exp(-1j * g * phi.abs() ** 2 * dt)

    def ports(phi, dt):
        found = phi.clone()
        for port, corner in enumerate((0, side - 1, side * (side - 1), side**2 - 1)):
            a, b = phi[port], phi[4 + corner]
            found[port] = math.cos(kappa * dt) * a - 1j * math.sin(kappa * dt) * b
            found[4 + corner] = math.cos(kappa * dt) * b - 1j * math.sin(kappa * dt) * a
        return found

    phi = kerr(linear(phi, dt / 2), dt / 2)
    return linear(kerr(ports(phi, dt), dt / 2), dt / 2)


def test_the_split_array_is_the_papers_step_by_step():
    system = array(split=True, steps=7)
    start = system.start(X).detach()
    found = system.evolve(start)
    for sample, replica in itertools.product(range(2), range(2)):
        phi = start[sample, replica]
        for _ in range(7):
            phi = reference_step(phi, 0.04)
        torch.testing.assert_close(found[sample, replica], phi, rtol=1e-12, atol=1e-12)


def test_inputs_and_outputs_are_the_papers():
    system = array(steps=1)
    start = system.start(X).detach()
    torch.testing.assert_close(start[0, 0, :4].real, torch.tensor([0.4, -0.4, 0.0, 0.0]).double())
    torch.testing.assert_close(start[1, 1, :4].real, torch.tensor([0.5, 0.5, 0.0, 0.0]).double())
    assert torch.equal(start[0, :, 4:].real, system.theta)
    assert not start.imag.any()
    with torch.no_grad():
        assert torch.equal(system(X), system.evolve(start)[..., 3])
    assert system.replicas == 2


@pytest.mark.parametrize("split", [False, True])
def test_the_splitting_is_of_second_order(split):
    """Halving the step divides the error of the state, and of the energy, by four."""
    fine = array(split=split, time=0.5 / 2048, steps=2048)
    start = fine.start(X).detach()
    exact, energy, errors = fine.evolve(start), fine.energy(start), []
    for steps in (32, 64, 128):
        coarse = array(split=split, time=0.5 / steps, steps=steps)
        end = coarse.evolve(start)
        torch.testing.assert_close(end.norm(dim=-1), start.norm(dim=-1), rtol=1e-13, atol=1e-13)
        errors.append([(end - exact).norm(), (coarse.energy(end) - energy).norm()])
    slopes = -torch.tensor(errors).log2().diff(dim=0)
    assert slopes[:, 0].mean() == pytest.approx(2, abs=0.1)
    assert slopes[:, 1].mean() == pytest.approx(2, abs=0.3)


def test_the_energy_is_the_papers():
    system, phi = array(), torch.randn(20, dtype=torch.complex128)
    grid, expected = phi[4:].view(4, 4), -2.0 / 2 * (phi.abs() ** 4).sum()
    expected += 2 * 10 * ((grid[1:].conj() * grid[:-1]).real.sum() + (grid[:, 1:].conj() * grid[:, :-1]).real.sum())
    for port, (row, column) in enumerate(((0, 0), (0, 3), (3, 0), (3, 3))):
        expected += 2 * 0.3 * (phi[port].conj() * grid[row, column]).real
    torch.testing.assert_close(system.energy(phi), expected)
    torch.testing.assert_close(array(split=True).energy(phi), expected)


def test_the_way_back_leads_to_the_start(system):
    start = system.start(inputs(system)).detach()
    end = system.evolve(start)
    assert (end - start).norm() > 0.05 * start.norm()
    back = system.evolve(end.conj(), back=True).conj()
    torch.testing.assert_close(back, start, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(end.norm(dim=-1), start.norm(dim=-1), rtol=1e-12, atol=1e-12)


def test_with_one_hamiltonian_the_way_back_is_the_way_forward():
    system = array(split=True, steps=20)
    end = system.evolve(system.start(X).detach())
    assert torch.equal(system.evolve(end.conj(), back=True), system.evolve(end.conj()))


def test_unrolled_is_the_same_and_carries_a_graph(system):
    x = inputs(system)
    outputs = system.unrolled(x)
    with torch.no_grad():
        torch.testing.assert_close(outputs.detach(), system(x), rtol=1e-10, atol=1e-10)
        assert not system(x).requires_grad
    assert torch.equal(system(x), outputs)
    scores = torch.view_as_real(system(x) + 0j)
    # Unequal shares of the outputs: their plain sum may be a power that is conserved, whatever the modes are.
    (scores * torch.linspace(1, 2, scores.numel()).view_as(scores)).sum().backward()
    assert system.theta.grad is not None
    assert system.theta.grad.abs().max() > 0


def test_samples_and_replicas_do_not_hear_each_other(system):
    start = system.start(inputs(system)).detach()
    whole = system.evolve(start)
    torch.testing.assert_close(system.evolve(start[:1]), whole[:1], rtol=1e-12, atol=1e-12)
    if system.replicas:
        moved = start.clone()
        moved[:, 1] *= 1.3
        found = system.evolve(moved)
        torch.testing.assert_close(found[:, 0], whole[:, 0], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(found[:, 1], whole[:, 1])


def test_disorder_is_frozen_and_saved():
    first, second = (
        disordered_array(torch.ones(1), torch.ones(1, 12) / 4, torch.randn(1, 16), steps=9).double() for _ in range(2)
    )
    assert torch.equal(first(X), first(X))
    assert not torch.allclose(first(X), second(X))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(first(X), second(X))


def test_a_lattice_has_walls():
    assert square_lattice(2, 3).tolist() == [
        [0, 1, 0, 1, 0, 0],
        [1, 0, 1, 0, 1, 0],
        [0, 1, 0, 0, 0, 1],
        [1, 0, 0, 0, 1, 0],
        [0, 1, 0, 1, 0, 1],
        [0, 0, 1, 0, 1, 0],
    ]


def plain(parts, time=0.05, **options):
    return HamiltonianSystem(
        [Segment(parts, time, 4)], Bits(2, torch.ones(1)), OneMode(1), torch.ones(1, 2), modes=2, **options
    )


def velocity(parts, phi):
    free = phi.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(sum(part.energy(free).sum() for part in parts), free)
    return -0.5j * gradient


def euler(parts, phi, time):
    return phi + time * velocity(parts, phi)


def runge_kutta(parts, phi, time):
    k1 = velocity(parts, phi)
    k2 = velocity(parts, phi + time / 2 * k1)
    k3 = velocity(parts, phi + time / 2 * k2)
    k4 = velocity(parts, phi + time * k3)
    return phi + time / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def strang(parts, phi, time):
    coupled, kerr = parts
    return coupled.flow(kerr.flow(coupled.flow(phi, time / 2), time), time / 2)


def lie(parts, phi, time):
    coupled, kerr = parts
    return kerr.flow(coupled.flow(phi, time), time)


class Loss(Part):
    def energy(self, phi):
        return phi.abs().sum(dim=-1)

    def flow(self, phi, time):
        return phi * math.exp(-0.1 * time)


class OneWay(Part):
    """A hop with a phase, as in a magnetic field: it keeps the norm, and time has a direction."""

    def energy(self, phi):
        return 2 * (1j * phi[..., 0].conj() * phi[..., 1]).real

    def flow(self, phi, time):
        a, b, rest = phi[..., :1], phi[..., 1:2], phi[..., 2:]
        return torch.cat([math.cos(time) * a + math.sin(time) * b, math.cos(time) * b - math.sin(time) * a, rest], -1)


@pytest.mark.parametrize("integrator", [euler, runge_kutta, lie], ids=lambda f: f.__name__)
def test_integrators_that_do_not_come_back_are_refused(integrator):
    parts = [Couplings(3 * square_lattice(2, 2)), Kerr(1.0)]
    with pytest.raises(UserError, match=f"the integrator {integrator.__name__} is not reversible") as error:
        plain(parts, integrator=integrator)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("time", [1e-2, 3e-3, 1e-3])
def test_short_steps_hide_no_integrator_that_does_not_come_back(time):
    parts = [Couplings(3 * square_lattice(2, 2)), Kerr(1.0)]
    with pytest.raises(UserError, match="the integrator runge_kutta is not reversible"):
        plain(parts, time, integrator=runge_kutta)


@pytest.mark.parametrize("time", [1e-3, 0.05, 1.0])
def test_long_steps_of_what_comes_back_are_not_refused(time):
    plain([Couplings(3 * square_lattice(2, 2)), Kerr(15.0)], time, integrator=strang)


def test_an_integrator_that_comes_back_is_used():
    parts = [Couplings(3 * square_lattice(2, 2)), Kerr(1.0)]
    ours, own = plain(parts), plain(parts, integrator=strang)
    with torch.no_grad():
        expected = ours.double()(X)
        torch.testing.assert_close(own.double()(X), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own.unrolled(X).detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("part", [Loss(), OneWay()], ids=lambda part: type(part).__name__)
def test_parts_that_do_not_come_back_are_refused(part):
    with pytest.raises(UserError, match=f"{type(part).__name__} is not reversible"):
        plain([part])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": torch.ones(2, dtype=torch.complex64)}, "theta must be real"),
        ({"theta": torch.ones(1, 1, 2)}, "theta must be real"),
        ({"segments": []}, "at least one part"),
        ({"segments": [Segment([])]}, "at least one part"),
        ({"segments": [Segment([Kerr(1.0)], steps=0)]}, "steps"),
        ({"segments": [Segment([Kerr(1.0)], time=-1.0)]}, "time"),
        ({"modes": 0}, "modes"),
    ],
)
def test_what_is_no_system_is_refused(change, message):
    given = {"segments": [Segment([Kerr(1.0)])], "encode": nn.Identity(), "read": nn.Identity(), "theta": torch.ones(2)}
    with pytest.raises(UserError, match=message):
        HamiltonianSystem(**{**given, "modes": 2, **change})


def test_making_a_system_advances_no_generator():
    parts = [Kerr(1.0)]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    plain(parts)
    assert torch.equal(torch.get_rng_state(), before)
