"""Echo learning against back-propagation through time, finite differences and the physics it rests on, in float64."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.layers.hamiltonian import Hamiltonian, LinearHRU, NonlinearHRU
from beyondprop.measure import alignment
from beyondprop.measure.memory import peak_live_bytes, peak_saved_bytes
from beyondprop.networks.hamiltonian import Component, CoupledOscillators, HamiltonianNetwork, hamiltonian_classifier
from beyondprop.rules.relaxation.recurrent_echo import RecurrentEcho, echo_error, leapfrog_back

UNITS = {"linear": LinearHRU, "nonlinear": NonlinearHRU}
POOLING = ("mean", "last", "every")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Pendulums(Hamiltonian):
    """Of the user's own: a potential that is not quadratic, relativistic momenta, weights in both."""

    def __init__(self, inputs, size, **options):
        super().__init__(inputs, size, **options)
        self.length = nn.Parameter(0.5 + torch.rand(size))
        self.push = nn.Parameter(torch.randn(inputs, size) / 2)
        self.mass = nn.Parameter(1 + torch.rand(size))

    def potential(self, phi, u):
        return (self.length * (1 - phi.cos()) - phi * (u @ self.push)).sum(-1)

    def kinetic(self, pi):
        return (self.mass.square() + pi.square()).sqrt().sum(-1)


def by_hand(network, x):
    """The same network by the three substeps as the paper has them, one after another, under autograd."""
    h = network.encoder(x.transpose(0, 1))
    for unit, behind in zip(network.units, network.between, strict=True):
        half, phi = unit.step / 2, h.new_zeros(h.shape[1], unit.size)
        pi, positions = phi, []
        for u in h:
            phi = phi + half * derivative(unit.kinetic, pi)
            pi = pi - unit.step * derivative(partial(unit.potential, u=u), phi)
            phi = phi + half * derivative(unit.kinetic, pi)
            positions.append(phi)
        out = behind(torch.stack(positions))
        h = out + h if network.residual else out
    if network.pooling == "every":
        return network.readout(h).transpose(0, 1)
    return network.readout(h.mean(0) if network.pooling == "mean" else h[-1])


def derivative(energy, at):
    at = at if at.requires_grad else at.clone().requires_grad_()
    return torch.autograd.grad(energy(at).sum(), at, create_graph=True)[0]


def stack(kind, pooling, *, residual=False):
    first, second = kind(5, 7, step=0.7), kind(5, 6, step=1.1)
    between = [nn.Sequential(nn.Linear(7, 10), nn.GLU()), nn.Sequential(nn.Linear(6, 5), nn.Tanh())]
    return HamiltonianNetwork(
        [first, second], nn.Linear(5, 4), encoder=nn.Linear(3, 5), between=between, pooling=pooling, residual=residual
    ).double()


def batch(pooling, count=6, steps=23):
    x = torch.randn(count, steps, 3, dtype=torch.float64)
    if pooling == "every":
        return x, torch.randn(count, steps, 4, dtype=torch.float64), nn.MSELoss()
    return x, torch.randint(4, (count,)), nn.CrossEntropyLoss()


def through_time(network, x, y, loss):
    """The loss and its gradients by parameters and inputs, by autograd through the substeps."""
    x = x.clone().requires_grad_()
    value = loss(by_hand(network, x), y)
    return value.detach(), torch.autograd.grad(value, [*network.parameters(), x])


def echoed(network, x, y, loss, **options):
    x = x.clone().requires_grad_()
    network.zero_grad()
    value = RecurrentEcho(network, loss, **options).backward(x, y)
    found = [p.grad.clone() for p in network.parameters()] + [x.grad]
    network.zero_grad()
    return value, found


def distance(found, expected):
    gaps = sum(float((a - b).square().sum()) for a, b in zip(found, expected, strict=True))
    return (gaps / sum(float(b.square().sum()) for b in expected)) ** 0.5


def slope(sizes, errors):
    """Of the straight line through the logarithms of two errors."""
    return math.log(errors[0] / errors[1]) / math.log(sizes[0] / sizes[1])


# The gradient


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


# The toy of the paper


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


# Losses


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


# The physics


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


# What is kept


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_memory_does_not_grow_with_the_sequence(pooling):
    network = hamiltonian_classifier(4, 3, size=16, blocks=2, pooling=pooling)
    rule, y = RecurrentEcho(network, chunk=10), torch.randint(3, (8,))
    live, saved = [], []
    for steps in (60, 600):
        x = torch.randn(8, steps, 4)
        rule.backward(x, y)
        live.append(peak_live_bytes(lambda x=x: rule.backward(x, y), rule)["highest_activations"])
        saved.append(peak_saved_bytes(lambda x=x: rule.backward(x, y), rule))
    assert live[1] < 1.05 * live[0]
    assert saved[1] == saved[0]


def test_a_loss_on_every_step_keeps_its_derivative_alone():
    """That is, outputs and their derivatives, a few numbers a step, and not the states."""
    network = HamiltonianNetwork([NonlinearHRU(4, 64)], nn.Linear(64, 1), pooling="every")
    rule, live = RecurrentEcho(network, nn.MSELoss(), chunk=10), []
    for steps in (60, 600):
        x, y = torch.randn(8, steps, 4), torch.randn(8, steps, 1)
        rule.backward(x, y)
        live.append(peak_live_bytes(lambda x=x, y=y: rule.backward(x, y), rule)["highest_activations"])
    assert live[1] - live[0] < 540 * 8 * 4 * 10  # of 64 a step, at most 10


# What it refuses


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


# How it is used


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


def test_frozen_parts_stay_and_the_rest_learns():
    network = stack(NonlinearHRU, "mean")
    x, y, loss = batch("mean")
    expected = through_time(network, x, y, loss)[1]
    frozen = {"units.0.a", "units.1.B", "encoder.weight", "between.0.0.weight"}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    RecurrentEcho(network, eps=1e-4).backward(x, y)
    for (name, parameter), wanted in zip(network.named_parameters(), expected, strict=False):
        if name in frozen:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-8)


def test_your_own_energy_predicts_in_inference_mode():
    network = stack(Pendulums, "mean")
    rule, x = RecurrentEcho(network), batch("mean")[0]
    with torch.inference_mode():
        found = rule(x)
    torch.testing.assert_close(found.clone(), network(x).detach())


def test_an_embedding_below_learns():
    network = HamiltonianNetwork([NonlinearHRU(4, 6)], nn.Linear(6, 2), encoder=nn.Embedding(9, 4)).double()
    x, y = torch.randint(9, (5, 12)), torch.randint(2, (5,))
    F.cross_entropy(by_hand(network, x), y).backward()
    expected = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    RecurrentEcho(network, eps=1e-4).backward(x, y)
    assert distance([p.grad for p in network.parameters()], expected) < 1e-7


def test_a_classifier_reads_rows():
    rule = RecurrentEcho.for_classifier(nn.Linear(84, 5), torch.zeros(2, 3, 4, 7), 5)
    assert (rule.network.piece, rule.network.units[0].size) == (7, 84)
    assert rule(torch.zeros(2, 3, 4, 7)).shape == (2, 5)
    assert RecurrentEcho.for_classifier(nn.Linear(13, 5), torch.zeros(2, 13), 5).network.piece == 1
    own = hamiltonian_classifier(3, 2)
    assert RecurrentEcho.for_classifier(own, torch.zeros(2, 5, 3), 2).network is own


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
