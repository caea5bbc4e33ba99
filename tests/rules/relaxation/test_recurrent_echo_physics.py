"""The physics that echo learning rests on: reversal in time, energy and stability."""

import copy

import pytest
import torch
from echoing_networks import UNITS, Pendulums, slope

from beyondprop.layers.hamiltonian import LinearHRU, NonlinearHRU
from beyondprop.rules.relaxation.recurrent_echo import echo_error, leapfrog_back


@pytest.mark.parametrize("kind", [LinearHRU, NonlinearHRU, Pendulums])
def test_without_a_nudge_the_echo_returns(kind):
    unit = kind(3, 6, step=0.5).double()
    assert echo_error(unit, torch.randn(60, 4, 3)) < 1e-12


@pytest.mark.parametrize("kind", [LinearHRU, NonlinearHRU, Pendulums])
def test_the_reversed_trajectory_is_the_forward_one(kind):
    unit = kind(3, 6, step=0.5).double()
    u = torch.randn(50, 4, 3).double()
    with torch.no_grad():
        phi, (end, pi) = unit.run(u)
        back, (start, turned) = unit.run(u.flip(0), (end, -pi))
        _, at, _ = leapfrog_back(unit, u, (end.unsqueeze(0), -pi.unsqueeze(0)), None)
    torch.testing.assert_close(back[:-1].flip(0), phi[:-1], rtol=0, atol=1e-11)
    assert max(start.abs().max(), turned.abs().max()) < 1e-11
    state = unit.rest(u)
    for t in range(len(u)):  # the kicks act where half a drift leads
        with torch.no_grad():
            torch.testing.assert_close(at[t, 0], state[0] + unit.step / 2 * unit.velocity(state[1]), rtol=0, atol=1e-11)
            _, state = unit.run(u[t : t + 1], state)


@pytest.mark.parametrize("kind", [LinearHRU, NonlinearHRU, Pendulums])
def test_energy_drifts_with_the_square_of_the_step(kind):
    """Without inputs, over the same time: the largest departure from the energy at the start."""
    unit, errors, sizes = kind(3, 6, step=1.0).double(), [], (0.1, 0.025)
    start = torch.randn(2, 4, 6).double()
    for step in sizes:
        twin = copy.copy(unit)
        stiffness = {name: getattr(unit, name).detach() for name in ("A", "alpha") if hasattr(unit, name)}
        twin.__class__ = type("Fixed", (kind,), stiffness)  # A is bounded by δ: here it is to stay
        twin.step = step
        state, energies = (start[0], start[1]), []
        with torch.no_grad():
            for _ in range(round(20 / step)):
                energies.append(twin.potential(state[0], torch.zeros(4, 3).double()) + twin.kinetic(state[1]))
                _, state = twin.run(torch.zeros(1, 4, 3).double(), state)
        energies = torch.stack(energies)
        errors.append(float((energies - energies[0]).abs().max()))
    assert slope(sizes, errors) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("kind", UNITS.values(), ids=UNITS)
def test_units_stay_bounded_whatever_is_learned(kind):
    """Coefficients at the ends of their range: the leapfrog stays stable."""
    unit = kind(3, 6, step=2.0).double()
    with torch.no_grad():
        for name in ("a", "spring"):
            if hasattr(unit, name):
                getattr(unit, name).fill_(3.0)
    with torch.no_grad():
        assert unit.run(torch.randn(3000, 2, 3).double())[0].abs().max() < 1e4
