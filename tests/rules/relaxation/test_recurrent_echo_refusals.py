"""What echo learning refuses: what time does not reverse, options, networks and sequences that do not fit."""

import math

import pytest
import torch
from echoing_networks import Pendulums
from torch import nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.layers.hamiltonian import Hamiltonian, LinearHRU, NonlinearHRU
from beyondprop.networks.hamiltonian import HamiltonianNetwork, hamiltonian_classifier
from beyondprop.rules.relaxation.recurrent_echo import RecurrentEcho


class Damped(NonlinearHRU):
    """With friction, by which energy is lost: time cannot be reversed."""

    def kicks(self, u):
        kick = super().kicks(u)
        return lambda phi, pi, t: kick(phi, (1 - 1e-4) * pi, t)


class Euler(LinearHRU):
    """In steps of the explicit Euler rule."""

    def run(self, u, state=None):
        (phi, pi), kick, positions = state or self.rest(u), self.kicks(u), []
        for t in range(len(u)):
            phi, pi = phi + self.step * pi, kick(phi, pi, t)
            positions.append(phi)
        return torch.stack(positions), (phi, pi)


class Lopsided(Pendulums):
    """Of a kinetic energy that is not even."""

    def kinetic(self, pi):
        return (0.5 * pi.square() + 0.3 * pi).sum(-1)


class Mixing(nn.Module):
    """What looks at other steps."""

    def forward(self, h):
        return h.cumsum(0)


@pytest.mark.parametrize("kind", [Damped, Euler, Lopsided])
def test_what_does_not_return_is_refused(kind):
    network = HamiltonianNetwork([LinearHRU(3, 4), kind(4, 5)], nn.Linear(5, 2))
    with pytest.raises(
        UnsupportedNetworkError, match=rf"units\.1 \({kind.__name__}\) does not return.*reversed"
    ) as told:
        RecurrentEcho(network)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("behind", "told"),
    [
        (Mixing(), r"between\.0 \(Mixing\) does not act on each time step"),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1)), r"between\.0\.1 \(Dropout\)"),
        (nn.BatchNorm1d(4), r"between\.0 \(BatchNorm1d\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_lies_between_must_be_the_same_again(behind, told):
    with pytest.raises(UnsupportedNetworkError, match=told):
        RecurrentEcho(HamiltonianNetwork([LinearHRU(3, 4)], nn.Linear(4, 2), between=[behind]))


def test_other_networks_are_named():
    with pytest.raises(UnsupportedNetworkError, match=r"Linear is no HamiltonianNetwork.*for_classifier"):
        RecurrentEcho(nn.Linear(3, 2))


@pytest.mark.parametrize("options", [{"eps": 0}, {"eps": math.nan}, {"chunk": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match="must be"):
        RecurrentEcho(hamiltonian_classifier(3, 2), **options)


def test_echoes_that_are_not_finite_name_the_block():
    class Steep(Hamiltonian):
        def potential(self, phi, u):
            return (phi.pow(4) - phi * u).sum(-1)

    network = HamiltonianNetwork([Steep(3, 3, step=0.1)], nn.Linear(3, 2))
    with pytest.raises(NonFiniteError, match=r"block units\.0"):
        RecurrentEcho(network, eps=1e20).backward(torch.randn(4, 20, 3), torch.tensor([0, 1, 0, 1]))


@pytest.mark.parametrize("shape", [(4,), (4, 0, 3)])
def test_what_is_no_sequence_is_refused(shape):
    with pytest.raises(UserError, match=r"shape \(batch, time"):
        RecurrentEcho(hamiltonian_classifier(3, 2)).backward(torch.zeros(shape), torch.zeros(4, dtype=torch.long))


def test_pieces_must_fit():
    with pytest.raises(UserError, match="cannot be cut into pieces of 3"):
        RecurrentEcho(hamiltonian_classifier(3, 2, piece=3))(torch.zeros(2, 10))


@pytest.mark.parametrize("options", [{"between": []}, {"pooling": "first"}])
def test_networks_that_do_not_fit_are_refused(options):
    with pytest.raises(UserError, match=r"between|pooling"):
        HamiltonianNetwork([LinearHRU(3, 4)], nn.Linear(4, 2), **options)


@pytest.mark.parametrize(
    ("x", "encoder"),
    [
        (torch.zeros(4, 5), None),
        (torch.zeros(4, 7, 3), None),
        (torch.zeros(4, 7, 2, 5), None),
        (torch.zeros(4, 7, 5, dtype=torch.uint8), None),
        (torch.zeros(4, 7, 5), nn.Linear(5, 4)),
    ],
    ids=["2-d", "width", "4-d", "uint8", "encoder"],
)
def test_sequences_that_do_not_fit_are_refused(x, encoder):
    network = HamiltonianNetwork([LinearHRU(5, 6)], nn.Linear(6, 2), encoder=encoder)
    for call in (network, lambda x: RecurrentEcho(network).backward(x, torch.tensor([0, 1, 1, 0]))):
        with pytest.raises(UserError, match=r"the first unit takes sequences of shape \(batch, time, 5\)") as error:
            call(x)
        assert "\n" not in str(error.value)
