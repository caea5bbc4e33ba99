"""What Hamiltonian echoes refuse: options, networks, inputs, sizes and answers that do not fit."""

import math

import pytest
import torch
from light_systems import AMPLITUDES, X, Y, array
from torch import nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.layers.light import Amplitudes, Bits, Planes
from beyondprop.networks.hamiltonian_echo import (
    cavity_array,
    coupled_modes,
    disordered_array,
    photonic_layers,
    wave_fields,
)
from beyondprop.rules.relaxation.hamiltonian_echo import HamiltonianEcho
from beyondprop.rules.relaxation.noting_echo import SignCost


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"echo": "loud"}, "echo must be one of averaged, simple, alternating, autograd"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"mass": -1.0}, "mass"),
        ({"limit": 0.0}, "limit"),
        ({"damping": 0.0, "echo": "simple"}, "damping"),
        ({"damping": 1.0}, "finite damping"),
    ],
)
def test_what_is_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        HamiltonianEcho(coupled_modes(6, 3), **options)


def test_what_does_not_echo_is_refused():
    with pytest.raises(UnsupportedNetworkError, match=r"Linear is no HamiltonianSystem.*for_classifier"):
        HamiltonianEcho(nn.Linear(2, 2))
    system = coupled_modes(6, 3)
    system.encode = nn.Linear(6, system.psi_modes)
    with pytest.raises(UnsupportedNetworkError, match=r"encode\.weight: freeze it"):
        HamiltonianEcho(system)
    with pytest.raises(UserError, match="more than as many modes"):
        coupled_modes(6, 3, modes=6)
    with pytest.raises(UserError, match="grey images"):
        photonic_layers((3, 4, 4), 2)
    with pytest.raises(UserError, match="grey images"):
        photonic_layers((1, 40, 4), 2)


@pytest.mark.parametrize(
    ("encode", "x"),
    [
        (Amplitudes(8, 1.0, features=6), torch.rand(2, 5)),
        (Amplitudes(8, 1.0, features=6), torch.rand(2, 7)),
        (Amplitudes(8, 1.0), torch.rand(2, 8)),
        (Amplitudes(8, 1.0), torch.ones(2, 6, dtype=torch.long)),
        (Amplitudes(8, 1.0), torch.rand(6)),
        (Planes((1, 2, 3), 4, 1), torch.rand(2, 1, 3, 2)),
        (Planes((1, 2, 3), 4, 1), torch.rand(2, 1, 8, 8)),
        (Planes((1, 2, 3), 4, 1), torch.rand(2, 6)),
        (Planes((1, 2, 3), 4, 1), torch.ones(2, 1, 2, 3, dtype=torch.uint8)),
        (Bits(4, torch.ones(2)), torch.rand(2, 5)),
        (Bits(4, torch.ones(2)), torch.ones(2, 2, dtype=torch.long)),
    ],
)
def test_inputs_that_do_not_fit_are_refused(encode, x):
    with pytest.raises(UserError, match=r"light is written from .*numbers|images") as error:
        encode(x)
    assert "\n" not in str(error.value)


def test_a_systems_batch_of_another_width_is_refused():
    for system in (coupled_modes(6, 3), wave_fields(6, 3, steps=2)):
        with pytest.raises(UserError, match="6 numbers a sample"):
            HamiltonianEcho(system).backward(torch.rand(2, 5), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: coupled_modes(2, 8, modes=6), "8 classes one each: got modes=6"),
        (lambda: wave_fields(6, 3, points=6), "got points=6"),
        (lambda: photonic_layers((1, 1, 2), 5, side=2), "5 classes need a mode each"),
        (lambda: photonic_layers((1, 1, 2), 2, side=2, channels=3), "channels must be 1 or an even number"),
        (lambda: photonic_layers((1, 1, 2), 2, side=2, channels=0), "channels"),
        (lambda: cavity_array(torch.ones(2), torch.ones(2, 15)), r"theta must be of shape \(2, 16\)"),
        (lambda: cavity_array(torch.ones(2), torch.ones(3, 16)), r"theta must be of shape \(2, 16\)"),
        (
            lambda: disordered_array(torch.ones(2), torch.ones(2, 16), torch.ones(2, 16)),
            r"theta must be of shape \(2, 12\)",
        ),
        (
            lambda: disordered_array(torch.ones(2), torch.ones(2, 12), torch.ones(2, 12)),
            r"detuning must be of shape \(2, 16\)",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_answers_that_are_neither_yes_nor_no_are_refused():
    with pytest.raises(UserError, match=r"0\.\.1, got 7"):
        HamiltonianEcho(array(steps=2), SignCost(0.5 * AMPLITUDES)).backward(X, torch.tensor([0, 1, 7]))


def test_an_array_that_is_not_finite_is_told():
    system = array()
    with torch.no_grad():
        system.theta[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="layer read"):
        HamiltonianEcho(system, SignCost(0.5 * AMPLITUDES)).backward(X, Y)
    assert system.theta.grad is None
