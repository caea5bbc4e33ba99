"""Parts of a Hamiltonian: each flow against the differential equation, what it keeps, and the way back."""

import math

import pytest
import torch

from beyondprop.errors import UserError
from beyondprop.rules.relaxation.parts import Couplings, CrossKerr, Kerr, Mixing, Propagation

MODES = 12


def symmetric(count):
    drawn = torch.randn(count, count).double()
    return drawn + drawn.mT


def parts():
    torch.manual_seed(0)
    return {
        "couplings": Couplings(symmetric(MODES)),
        "couplings of some": Couplings(symmetric(5), slice(3, 8)),
        "kerr": Kerr(-1.3),
        "kerr with detuning": Kerr(0.7, torch.randn(2, MODES).double()),
        "kerr of some": Kerr(0.7, torch.randn(4).double(), slice(2, 6)),
        "cross-kerr": CrossKerr(1.1, slice(0, 6), slice(6, 12)),
        "cross-kerr, own, shared": CrossKerr(0.8, slice(0, 8), slice(8, 12), own=0.5),
        "mixing": Mixing(0.6, slice(0, 5), slice(5, 10)),
        "line": Propagation.diffraction((MODES,), 0.9),
        "plane, two channels": Propagation(plane_frequencies(), slice(0, 12)),
    }


def plane_frequencies():
    """Even in both directions, and not a square."""
    down, right = torch.fft.fftfreq(2).double(), torch.fft.fftfreq(3).double()
    return (3 * down[:, None] ** 2 + right[None] ** 2 + 0.4 * down[:, None].abs()).cos()


@pytest.fixture(params=list(parts()))
def part(request):
    return parts()[request.param]


def state(seed=1):
    torch.manual_seed(seed)
    return torch.randn(3, 2, MODES, dtype=torch.complex128)


def velocity(part, phi):
    """-i ∂H/∂φ* of the energy, by autograd: torch gives ∂H/∂Re + i ∂H/∂Im, which is twice ∂H/∂φ*."""
    free = phi.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(part.energy(free).sum(), free)
    return -0.5j * gradient


def test_the_flow_solves_the_equation_of_motion(part):
    """A flow by many small steps of a Runge-Kutta method that knows the energy alone."""
    phi, time, steps = state(), 0.3, 300
    slow, h = phi, time / steps
    for _ in range(steps):
        k1 = velocity(part, slow)
        k2 = velocity(part, slow + h / 2 * k1)
        k3 = velocity(part, slow + h / 2 * k2)
        k4 = velocity(part, slow + h * k3)
        slow = slow + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    torch.testing.assert_close(part.flow(phi, time), slow, rtol=1e-6, atol=1e-6)


def test_energy_and_norm_are_kept(part):
    phi = state()
    later = part.flow(phi, 1.7)
    torch.testing.assert_close(part.energy(later), part.energy(phi), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(later.norm(dim=-1), phi.norm(dim=-1), rtol=1e-13, atol=1e-13)
    assert (later - phi).norm() > 0.1


def test_time_can_be_reversed(part):
    phi = state()
    back = part.flow(part.flow(phi, 0.7).conj(), 0.7).conj()
    torch.testing.assert_close(back, phi, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", [torch.complex128, torch.complex64])
@pytest.mark.parametrize("place", [0, 1])
def test_the_stepper_does_what_the_flow_does(part, kind, place):
    phi = state().to(kind)
    part = part.float() if kind == torch.complex64 else part
    states = [torch.full_like(phi, torch.nan) for _ in range(2)]
    states[place].copy_(phi)
    states[1 - place].zero_()
    step = part.stepper(tuple(states), 0.3)
    found = states[step(step(place))]
    tolerance = {"rtol": 1e-13, "atol": 1e-13} if kind == torch.complex128 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found, part.flow(part.flow(phi, 0.3), 0.3), **tolerance)


def test_the_flow_leaves_its_argument_and_can_be_differentiated(part):
    phi = state().requires_grad_()
    before = phi.detach().clone()
    part.flow(phi, 0.2).real.sum().backward()
    assert torch.equal(phi.detach(), before)
    assert torch.autograd.gradcheck(lambda z: torch.view_as_real(part.flow(z, 0.2)), state()[:1].requires_grad_())


@pytest.mark.parametrize(
    "matrix",
    [torch.tensor([[0.0, 1.0], [0.5, 0.0]]), torch.tensor([[0, 1j], [-1j, 0]]), torch.zeros(2, 3)],
    ids=["not symmetric", "a phase, as in a magnetic field", "not square"],
)
def test_couplings_that_know_the_direction_of_time_are_refused(matrix):
    with pytest.raises(UserError, match="real symmetric"):
        Couplings(matrix)


def test_what_is_precomputed_follows_the_buffers():
    torch.manual_seed(0)
    ours, other, phi = Couplings(symmetric(MODES)), Couplings(symmetric(MODES)), state()
    assert not torch.equal(ours.flow(phi, 0.5), other.flow(phi, 0.5))
    ours.load_state_dict(other.state_dict())
    assert torch.equal(ours.flow(phi, 0.5), other.flow(phi, 0.5))
    ours.float().double()
    assert not torch.equal(ours.flow(phi, 0.5), other.flow(phi, 0.5))  # rounded


def test_a_plane_wave_diffracts_by_half_the_square_of_its_wave_number():
    down, right = torch.meshgrid(torch.arange(6.0).double(), torch.arange(8.0).double(), indexing="ij")
    k = (2 * math.pi * 2 / 6, -2 * math.pi * 3 / 8)
    wave = torch.exp(1j * (k[0] * down + k[1] * right)).flatten()
    part = Propagation.diffraction((6, 8), 0.7).double()
    omega = 0.7 * (k[0] ** 2 + k[1] ** 2) / 2
    torch.testing.assert_close(
        part.flow(wave, 0.5), wave * torch.exp(torch.tensor(-0.5j * omega)), rtol=1e-5, atol=1e-6
    )
