"""Hamiltonian echoes: the kick against finite differences and autograd, orders of the error, and the paper's step."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.layers.light import Amplitudes, Bits, Intensities, Planes
from beyondprop.measure.alignment import alignment
from beyondprop.networks.hamiltonian_echo import (
    cavity_array,
    coupled_modes,
    disordered_array,
    photonic_layers,
    wave_fields,
)
from beyondprop.rules.relaxation.hamiltonian import HamiltonianSystem, Segment
from beyondprop.rules.relaxation.hamiltonian_echo import HamiltonianEcho
from beyondprop.rules.relaxation.noting_echo import NotingEcho, SignCost
from beyondprop.rules.relaxation.parts import Couplings, Kerr

X = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]]).double()
Y = torch.tensor([1, 0, 0])
AMPLITUDES = torch.tensor([0.4, 0.5]).double()


def array(steps=80, **options):
    torch.manual_seed(0)
    theta = torch.rand(2, 16).double()
    return cavity_array(AMPLITUDES, theta / theta.norm(dim=1, keepdim=True), steps=steps, **options)


def systems():
    torch.manual_seed(0)
    return {
        "coupled modes": coupled_modes(2, 2, layers=3, modes=6, strength=1.0, own=0.3, gain=5.0).double(),
        "photonic layers": photonic_layers(
            (1, 1, 2), 2, layers=2, channels=2, side=4, strength=1.0, own=0.2, gain=5.0
        ).double(),
        "wave fields": wave_fields(2, 2, points=8, steps=20, gain=5.0).double(),
    }


@pytest.fixture(params=list(systems()))
def system(request):
    return systems()[request.param]


def inputs(system):
    return X.view(3, 1, 1, 2) if type(system.encode).__name__ == "Planes" else X


def gradient(rule, x=X, y=Y, phase=None):
    rule.zero_grad()
    rule.backward(x, y, phase or rule.phases[0])
    return rule.network.theta.grad.clone()


def cost(system, loss, x, y):
    with torch.no_grad():
        return loss(system(x), y)


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


@pytest.mark.parametrize("kind", ["averaged", "simple", "autograd"])
def test_a_batch_gives_the_mean_of_its_samples(system, kind):
    x, rule = inputs(system), HamiltonianEcho(system, echo=kind, mass=1e-3)
    alone = torch.stack([gradient(rule, x[i : i + 1], Y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(gradient(rule, x), alone.mean(dim=0), rtol=1e-8, atol=1e-10)


def test_a_sum_of_losses_gives_the_sum_of_kicks(system):
    x = inputs(system)
    mean, total = HamiltonianEcho(system), HamiltonianEcho(system, nn.CrossEntropyLoss(reduction="sum"))
    torch.testing.assert_close(gradient(total, x), 3 * gradient(mean, x), rtol=1e-6, atol=1e-8)


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


@pytest.mark.parametrize("name", ["coupled modes", "photonic layers"])
def test_every_layer_of_light_meets_learning_modes_of_its_own(name):
    system = systems()[name]
    found = gradient(HamiltonianEcho(system), inputs(system)).view(-1, system.psi_modes)
    assert len(found) == {"coupled modes": 3, "photonic layers": 2}[name]
    assert (found.abs().amax(dim=1) > 1e-3).all()


def test_an_image_and_its_negative_look_different():
    """The plane wave: without it they differ by a phase, which no intensity tells."""
    encode, x = Planes((1, 2, 3), side=4, channels=2), torch.randn(1, 1, 2, 3)
    intensities = encode(torch.cat([x, -x])).square()
    assert intensities.mean(dim=1).tolist() == pytest.approx([1, 1])
    assert (intensities[0] - intensities[1]).abs().max() > 0.1
    system = systems()["photonic layers"]
    scores = system(torch.cat([inputs(system)[:1], -inputs(system)[:1]])).detach()
    assert (scores[0] - scores[1]).abs().max() > 1e-2


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


def test_a_layers_momentum_is_kept_for_resuming():
    system, loss = array(), SignCost(0.5 * AMPLITUDES)
    rules = [HamiltonianEcho(array(), loss, echo="simple", damping=0.5) for _ in range(2)]
    rules[0].backward(X, Y)
    rules[1].load_state_dict(rules[0].state_dict())
    assert rules[1].momentum.any()
    assert torch.equal(gradient(rules[0]), gradient(rules[1]))
    assert not torch.equal(gradient(rules[0]), gradient(HamiltonianEcho(system, loss, echo="simple", damping=0.5)))


def test_a_classifier_is_coupled_modes_of_its_task():
    network = nn.Linear(6, 3)
    rule = HamiltonianEcho.for_classifier(network, torch.rand(2, 2, 3).double(), 3, layers=2, modes=12, echo="simple")
    assert rule.network.theta.shape == (24,)
    assert rule.network.theta.dtype == torch.float64
    assert rule(torch.rand(4, 2, 3).double()).shape == (4, 3)
    assert not any(module is network for module in rule.modules())
    with pytest.raises(UnsupportedNetworkError, match="amplitudes"):
        HamiltonianEcho.for_classifier(network, torch.zeros(2, 6, dtype=torch.long), 3)


def test_amplitudes_and_detectors():
    psi = Amplitudes(5, power=8.0, reference=0.5)(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
    assert psi.square().sum(dim=1).tolist() == pytest.approx([8.0, 8.0])
    scale = (8 / 1.25) ** 0.5
    assert psi[0].tolist() == pytest.approx([0.6 * scale, -0.8 * scale, 0.5 * scale, 0, 0], rel=1e-6)
    assert psi[1].tolist() == pytest.approx([0, 0, 8**0.5, 0, 0], rel=1e-6)
    scores = Intensities(2, gain=10.0)(torch.tensor([1.0, 2j, 1 + 1j, 0, 3]))
    assert scores.tolist() == pytest.approx([10 * 3 / 16, 10 * 4 / 16])


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


def noting(points=3):
    table = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2))).double()
    return NotingEcho(
        array(), 0.5 * AMPLITUDES, table, torch.tensor([0, 1, 1, 0]), every=2, points=points, epsilon=1e-4
    )


def test_the_course_notes_the_answers_before_the_steps():
    rule = noting()
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1)
    seen = []
    for number in range(5):
        seen.append(rule.shares())
        optimizer.zero_grad()
        rule.backward(X[number % 3 :][:1], Y[number % 3 :][:1])
        optimizer.step()
    torch.testing.assert_close(torch.view_as_complex(rule.course), torch.stack(seen[::2]))
    assert not torch.equal(rule.course[0], rule.course[1])
    other = noting()
    other.load_state_dict(rule.state_dict())
    assert torch.equal(other.course, rule.course)
    assert int(other.taken) == 5


def test_costs_are_shares_of_the_squared_target():
    rule = noting()
    outputs, wanted = rule.network(rule.patterns), torch.tensor([[1], [-1], [-1], [1]]) * 0.5 * AMPLITUDES
    expected = ((outputs - wanted).abs().square() / (0.5 * AMPLITUDES) ** 2).mean(dim=0)
    torch.testing.assert_close(rule.costs(rule.shares()), expected)
    perfect = torch.tensor([1.0, -1.0, -1.0, 1.0]).to(torch.complex128)[:, None].expand(4, 2)
    assert rule.costs(perfect).tolist() == [0, 0]


def test_replicas_answer_by_their_mean():
    rule = noting()
    share = (rule.network(X).real / (0.5 * AMPLITUDES)).clamp(-1, 1).mean(dim=1)
    torch.testing.assert_close(rule(X), torch.stack([share, -share], dim=1))
    again, seen = torch.tensor([2, 0, 0, 1, 2]), []
    rule.network.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    torch.testing.assert_close(rule(X[again]), torch.stack([share, -share], dim=1)[again])
    assert seen == [3]
