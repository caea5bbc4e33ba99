"""Echo learning against back-propagation through time, in stacks and under every kind of loss."""

import pytest
import torch
from echoing_networks import POOLING, UNITS, Pendulums, batch, by_hand, distance, echoed, slope, stack, through_time
from torch import nn
from torch.nn import functional as F

from beyondprop.layers.hamiltonian import Hamiltonian, LinearHRU, NonlinearHRU
from beyondprop.measure import alignment
from beyondprop.networks.hamiltonian import hamiltonian_classifier
from beyondprop.rules.relaxation.recurrent_echo import RecurrentEcho


@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize("kind", [LinearHRU, NonlinearHRU, Pendulums])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_equals_back_propagation_in_a_stack(kind, pooling, residual):
    """All parameters, those between the units, input matrices and the inputs: each by itself, to the bias of eps²."""
    network = stack(kind, pooling, residual=residual)
    x, y, loss = batch(pooling)
    expected_loss, expected = through_time(network, x, y, loss)
    value, found = echoed(network, x, y, loss, eps=1e-4, chunk=5)
    torch.testing.assert_close(value, expected_loss)
    for part, wanted in zip(found, expected, strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(part, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", [LinearHRU, NonlinearHRU, Pendulums])
def test_forward_is_the_three_substeps(kind):
    for pooling in POOLING:
        network, x = stack(kind, pooling, residual=True), batch(pooling)[0]
        torch.testing.assert_close(network(x), by_hand(network, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("two_sided", "order"), [(True, 2), (False, 1)], ids=["two sides", "one side"])
@pytest.mark.parametrize("pooling", POOLING)
def test_bias_is_of_second_order_in_eps_and_of_first_for_one_side(pooling, two_sided, order):
    network = stack(NonlinearHRU, pooling)
    x, y, loss = batch(pooling)
    expected = through_time(network, x, y, loss)[1]
    sizes = (0.05, 0.0125)
    errors = [distance(echoed(network, x, y, loss, eps=e, two_sided=two_sided)[1], expected) for e in sizes]
    assert slope(sizes, errors) == pytest.approx(order, abs=0.1)


def test_of_linear_units_two_sides_have_no_bias():
    """Their energy is quadratic: its differences are exact for any eps, one side is not."""
    network = stack(LinearHRU, "last")
    x, y, loss = batch("last")
    expected = through_time(network, x, y, loss)[1]
    assert distance(echoed(network, x, y, loss, eps=1.0)[1], expected) < 1e-12
    assert distance(echoed(network, x, y, loss, eps=1.0, two_sided=False)[1], expected) > 1e-2


@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize("kind", [LinearHRU, NonlinearHRU, Pendulums])
def test_the_echo_is_seen_beside_back_propagations_gradient(kind, pooling):
    """Every unit and every layer between, read out and encoded, by name."""
    network = stack(kind, pooling)
    x, y, loss = batch(pooling)
    found = alignment(RecurrentEcho(network, loss, eps=1e-4), x, y)
    names = ["encoder", "units.0", "units.1", "between.0.0", "between.1.0", "readout"]
    assert list(found) == [f"network.{name}" for name in names]
    for each in found.values():
        assert each.angle < 1e-3
        assert each.norm_ratio == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, 22, 23, 24, 100])
@pytest.mark.parametrize("pooling", POOLING)
def test_chunks_change_nothing(pooling, chunk):
    network = stack(NonlinearHRU, pooling)
    x, y, loss = batch(pooling)
    expected = echoed(network, x, y, loss, eps=1e-3, chunk=7)[1]
    assert distance(echoed(network, x, y, loss, eps=1e-3, chunk=chunk)[1], expected) < 1e-9


@pytest.mark.parametrize("kind", UNITS.values(), ids=UNITS)
def test_written_out_gradients_are_those_of_the_energy(kind):
    """The two units against autograd of their own potential, at trajectories far apart."""
    unit = kind(3, 5, step=0.8).double()
    u, weight = torch.randn(4, 6, 3).double(), torch.rand(6, 1).double()
    phi = 5 * torch.randn(4, 2, 6, 5).double()
    found, of_u = unit.energy_gradients(phi, None, u, weight)
    expected, expected_of_u = Hamiltonian.energy_gradients(unit, phi, None, u, weight)
    torch.testing.assert_close(of_u, expected_of_u)
    for part, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(part, wanted)


@pytest.mark.parametrize("kind", UNITS.values(), ids=UNITS)
def test_written_out_kicks_are_the_slope_of_the_energy(kind):
    unit = kind(3, 5, step=0.8).double()
    u, phi, pi = torch.randn(4, 6, 3).double(), torch.randn(6, 5).double(), torch.randn(6, 5).double()
    with torch.no_grad():
        torch.testing.assert_close(unit.kicks(u)(phi, pi, 2), Hamiltonian.kicks(unit, u)(phi, pi, 2))


def test_losses_at_all_times_differ_from_that_of_the_last():
    """A loss on every step is the sum of those on each: here of the last, and of all others."""
    network = stack(NonlinearHRU, "every")
    x, y, _ = batch("every")

    def last(scores, target):
        return F.mse_loss(scores[:, -1], target[:, -1])

    def others(scores, target):
        return F.mse_loss(scores[:, :-1], target[:, :-1])

    parts = [echoed(network, x, y, loss, eps=1e-4)[1] for loss in (last, others)]
    both = echoed(network, x, y, lambda s, t: last(s, t) + others(s, t), eps=1e-4)[1]
    assert distance([a + b for a, b in zip(*parts, strict=True)], both) < 1e-6
    assert distance(parts[0], both) > 0.1
    assert distance(parts[0], through_time(network, x, y, last)[1]) < 1e-6


def test_a_mean_over_the_batch_is_one():
    """Twice the same samples give the same gradient, and a sum gives as many times that as there are."""
    network = stack(NonlinearHRU, "mean")
    x, y, loss = batch("mean", count=4)
    once = echoed(network, x, y, loss, eps=1e-4)[1][:-1]
    twice = echoed(network, torch.cat([x, x]), torch.cat([y, y]), loss, eps=1e-4)[1][:-1]
    summed = echoed(network, x, y, nn.CrossEntropyLoss(reduction="sum"), eps=1e-4)[1][:-1]
    assert distance(twice, once) < 1e-6
    assert distance([part / 4 for part in summed], once) < 1e-6


def test_samples_without_a_gradient_are_left_alone():
    network = stack(NonlinearHRU, "every")
    x, _, loss = batch("every")
    found = echoed(network, x, network(x).detach(), loss)[1]
    assert all(part.abs().max() < 1e-12 for part in found)  # targets differ by roundings from what the rule computes


def test_a_network_below_learns_from_the_inputs_gradient():
    network, below = stack(NonlinearHRU, "last"), nn.Linear(3, 3).double()
    x, y, loss = batch("last")
    loss(by_hand(network, below(x)), y).backward()
    expected = below.weight.grad.clone()
    below.zero_grad()
    RecurrentEcho(network, eps=1e-4).backward(below(x), y)
    torch.testing.assert_close(below.weight.grad, expected, rtol=1e-5, atol=1e-9)


def test_precise_enough_in_float32_by_default():
    for kind in UNITS.values():
        network, x, y, loss = stack(kind, "mean"), *batch("mean", count=32)
        expected = through_time(network, x, y, loss)[1]
        found = echoed(network.float(), x.float(), y, loss)[1]
        assert distance([part.double() for part in found], expected) < 1e-2


def test_precise_enough_in_float32_over_many_steps():
    """A mean over 400 steps tells each of them little: nudges are measured by all of them together."""
    network = hamiltonian_classifier(4, 3, size=16, blocks=2, unit="linear")
    x, y = torch.randn(8, 400, 4), torch.randint(3, (8,))
    found = echoed(network, x, y, nn.CrossEntropyLoss())[1]
    expected = echoed(network.double(), x.double(), y, nn.CrossEntropyLoss())[1]
    assert distance([part.double() for part in found], expected) < 1e-2
