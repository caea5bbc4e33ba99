"""Regularized inversion against a network written out step by step, least squares, finite differences, closed forms."""

import math

import pytest
import torch
from small_readers import BATCH, CLIP, HIDDEN, TIME, G, R, loss_of, made
from torch import nn

from beyondprop import TPRI, Backprop
from beyondprop.rules.signals.recurrent_layers import Layer, linearise, weights_of
from beyondprop.rules.signals.ridge_inverse import ridge_inverse

ALL = [
    pytest.param({"cell": "tanh"}, "linearised", id="tanh"),
    pytest.param({"cell": "tanh"}, "difference", id="tanh-difference"),
    pytest.param({"cell": "tanh"}, "plain", id="tanh-plain"),
    pytest.param({"cell": "relu"}, "linearised", id="relu"),
    pytest.param({"cell": "relu"}, "difference", id="relu-difference"),
    pytest.param({"cell": "gru"}, "linearised", id="gru"),
    pytest.param({"cell": "tanh", "layers": 3}, "linearised", id="tanh-stack"),
    pytest.param({"cell": "tanh", "layers": 2}, "difference", id="tanh-stack-difference"),
    pytest.param({"cell": "gru", "layers": 2}, "linearised", id="gru-stack"),
    pytest.param({"cell": "tanh", "every_step": True}, "linearised", id="every-step"),
    pytest.param({"cell": "gru", "every_step": True, "layers": 2}, "linearised", id="every-step-gru-stack"),
]
modes = pytest.mark.parametrize("mode", ["local", "through_time"])


def cell_step(cell, weights, u, h):
    """One step as torch's documentation has it."""
    wi, wh, bi, bh = weights
    if cell != "gru":
        return getattr(torch, cell)(u @ wi.T + bi + h @ wh.T + bh)
    (ir, iz, i_n), (hr, hz, hn) = (v.chunk(3, dim=1) for v in (u @ wi.T + bi, h @ wh.T + bh))
    r, z = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
    return (1 - z) * torch.tanh(i_n + r * hn) + z * h


def ridge(weight, wanted):
    """argmin_h ‖W h - wanted‖² + R ‖h‖², row by row, by least squares of the stacked system."""
    stacked = torch.cat([weight, math.sqrt(R) * torch.eye(weight.shape[1], dtype=weight.dtype)])
    right = torch.cat([wanted, wanted.new_zeros(len(wanted), weight.shape[1])], dim=1)
    return torch.linalg.lstsq(stacked, right.T).solution.T


def phi_inverse(cell, v):
    return torch.atanh(v.clamp(CLIP - 1, 1 - CLIP)) if cell == "tanh" else v.clamp(min=0)


def back(kind, weights, which, step):
    """The displacement of a step's state (which = 1) or of its input (which = 0) that asks h for d."""
    (cell, how), (u, before, h, d) = kind, step
    wi, wh, bi, bh = weights
    weight = weights[which]
    if cell != "gru":
        if how == "difference":
            return ridge(weight, phi_inverse(cell, h + d) - phi_inverse(cell, h))
        if how == "plain":
            return ridge(weight, phi_inverse(cell, h + d) - u @ wi.T - bi - bh) - before
        slope = 1 - h.clamp(CLIP - 1, 1 - CLIP) ** 2 if cell == "tanh" else torch.where(h > 0, 1.0, torch.inf)
        return ridge(weight, d / slope)
    (ir, iz, i_n), (hr, hz, a) = (v.chunk(3, dim=1) for v in (u @ wi.T + bi, before @ wh.T + bh))
    r, z = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
    n = torch.tanh(i_n + r * a)
    to_n = d * (1 - z) * (1 - n**2)  # what dn is asked for, through the slope of its tanh
    w_r, w_z, w_n = weight.chunk(3)
    asked = ridge(w_z, d * (before - n) / (z * (1 - z))) + ridge(w_r, to_n * a / (r * (1 - r)))
    return asked + ridge(w_n, to_n * r) + d * z if which else asked + ridge(w_n, to_n)


def oracle(network, x, y, how, mode):
    """Targets, and the gradient of the distance from them by autograd through a network written out in full."""
    cell = "gru" if isinstance(network.rnn, nn.GRU) else network.rnn.nonlinearity
    weights = [weights_of(network.rnn, number) for number in range(network.rnn.num_layers)]
    inputs, states = [x.unbind(1)], []
    for layer in weights:
        h, own = x.new_zeros(len(x), HIDDEN), []
        for u in inputs[-1]:
            local = mode == "local"
            h = cell_step(cell, layer, u.detach() if local else u, h.detach() if local else h)
            own.append(h)
        states.append(own)
        inputs.append(own)
    tops = [h.detach().requires_grad_() for h in states[-1]]
    scores = network.readout(torch.stack(tops, 1) if network.every_step else tops[-1])
    gradients = torch.autograd.grad(loss_of(scores, y), tops, allow_unused=True)
    with torch.no_grad():
        asked = [[h * 0 for h in own] for own in states]
        asked[-1] = [h * 0 if grad is None else -G * grad for h, grad in zip(tops, gradients, strict=True)]
        for number in reversed(range(len(weights))):
            for t in reversed(range(TIME)):
                before = states[number][t - 1] if t else torch.zeros_like(tops[0])
                here = (inputs[number][t], before, states[number][t], asked[number][t])
                if t:
                    asked[number][t - 1] = asked[number][t - 1] + back((cell, how), weights[number], 1, here)
                if number:
                    asked[number - 1][t] = asked[number - 1][t] + back((cell, how), weights[number], 0, here)
    distance = sum(
        0.5 * (h - (h + d).detach()).square().sum()
        for own, ds in zip(states, asked, strict=True)
        for h, d in zip(own, ds, strict=True)
    )
    aimed = [
        torch.stack([(h + d).detach() for h, d in zip(own, ds, strict=True)], 1)
        for own, ds in zip(states, asked, strict=True)
    ]
    return aimed, torch.autograd.grad(distance, list(network.rnn.parameters()))


@pytest.mark.parametrize(("options", "how"), ALL)
@modes
def test_gradient_and_targets_are_those_of_the_stated_loss(options, how, mode):
    network, x, y = made(**options)
    aimed, expected = oracle(network, x, y, how, mode)
    rule = TPRI(network, loss_of, target_step=G, regularisation=R, targets=how, mode=mode, clip=CLIP)
    loss = rule.backward(x, y)
    torch.testing.assert_close(loss, loss_of(network(x), y))
    for parameter, gradient in zip(network.rnn.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
    targets = rule.targets(x, y)
    assert list(targets) == [f"rnn.l{number}" for number in range(options.get("layers", 1))]
    for found, wanted in zip(targets.values(), aimed, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_readout_learns_by_its_own_gradient():
    network, x, y = made()
    TPRI(network, target_step=G).backward(x, y)
    learned = [p.grad.clone() for p in network.readout.parameters()]
    network.zero_grad()
    Backprop(network).backward(x, y)
    for got, parameter in zip(learned, network.readout.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad)


def test_the_inverse_solves_its_ridge_problem():
    torch.manual_seed(0)
    weight, wanted = torch.randn(2, 6, 4).double(), torch.randn(3, 6).double()
    found = ridge_inverse(weight, R, "W")
    for square, one in zip(weight, found, strict=True):
        torch.testing.assert_close(wanted @ one, ridge(square, wanted))


def test_orthogonal_weights_have_their_transpose_over_one_plus_r():
    weight = nn.init.orthogonal_(torch.empty(7, 7).double())
    torch.testing.assert_close(ridge_inverse(weight, 3.0, "W"), weight / 4)


def test_linearised_targets_are_the_first_order_of_difference_targets():
    network, x, y = made()
    x = x / 5  # no state lies where both are clipped, differently
    gaps = []
    for g in (1e-3, 1e-4):
        v, w = (
            TPRI(network, target_step=g, regularisation=R, targets=how, clip=CLIP).targets(x, y)["rnn.l0"]
            for how in ("linearised", "difference")
        )
        gaps.append((v - w).norm())
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.1)  # of second order, and there


def test_for_large_r_through_time_is_back_propagation_and_local_the_last_step():
    """Displacements of a step earlier fall with 1/r: only the last target remains, whose gradient is g times BP's."""
    network, x, y = made()
    network.zero_grad()
    Backprop(network).backward(x, y)
    exact = network.rnn.weight_hh_l0.grad.clone()
    gaps = []
    for r in (1e5, 1e6):
        network.zero_grad()
        TPRI(network, target_step=G, regularisation=r).backward(x, y)
        gaps.append((network.rnn.weight_hh_l0.grad / G - exact).norm())
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.02)
    rule = TPRI(network, target_step=G, regularisation=1e12, mode="local")
    network.zero_grad()
    rule.backward(x, y)
    h = network.rnn(x)[0].detach()
    last = ((h - rule.targets(x, y)["rnn.l0"])[:, -1] * (1 - h[:, -1] ** 2)).T @ h[:, -2]
    torch.testing.assert_close(network.rnn.weight_hh_l0.grad, last, rtol=1e-6, atol=1e-10)


@modes
def test_local_credit_does_not_pass_through_time(mode):
    """Where only the last state has a target, the local rule moves no earlier input; through time it does."""
    network, x, y = made()
    x.requires_grad_()
    TPRI(network, target_step=G, regularisation=1e15, mode=mode).backward(x, y)
    earlier = x.grad[:, :-1].abs().max()
    assert x.grad[:, -1].abs().max() > 1e-3
    assert (earlier < 1e-12) == (mode == "local")


def test_linearised_targets_are_proportional_to_their_step():
    network, x, y = made(cell="gru")
    found = []
    for g in (1.0, 1e-3):
        network.zero_grad()
        TPRI(network, target_step=g).backward(x, y)
        found.append((network.rnn.weight_ih_l0.grad / g, network.readout.weight.grad.clone()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("cell", ["tanh", "relu", "gru"])
def test_slopes_are_the_derivative_of_torchs_own_step(cell):
    network, x, _ = made(cell=cell)
    weights = weights_of(network.rnn, 0)
    before, u = torch.randn(BATCH, HIDDEN).double().tanh(), x[:, 0]

    def step(u, h):
        return network.rnn(u[:, None], h[None])[0][:, 0]

    layer = Layer(cell, weights, u[None], step(u, before)[None].detach(), before)
    with torch.no_grad():
        linear = linearise(layer, CLIP)
    jacobians = torch.autograd.functional.jacobian(step, (u, before))
    for jacobian, slopes, weight, keep in zip(
        jacobians, (linear.of_input, linear.of_state), weights[:2], (None, linear.keep), strict=True
    ):
        for sample in range(BATCH):
            gates = weight.unflatten(0, (-1, HIDDEN))
            expected = torch.einsum("gh,ghi->hi", slopes[0, sample], gates)
            if keep is not None:
                expected = expected + torch.diag(keep[0, sample])
            torch.testing.assert_close(jacobian[sample, :, sample], expected)


@pytest.mark.parametrize("regularisation", [0.5, 1.0, 10.0, 1000.0])
def test_targets_do_not_grow_on_their_way_back(regularisation):
    """Whatever the weights are, also where W's singular values are the worst, √r, and units are saturated."""
    network, x, y = made()
    generator = torch.Generator().manual_seed(3)
    recurrent, size = network.rnn.weight_hh_l0, network.rnn.hidden_size
    rotation = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=recurrent.dtype)).Q
    grown = {}
    for clip in (None, 1e-3):
        with torch.no_grad():
            recurrent.copy_(rotation * regularisation**0.5)
        rule = TPRI(network, loss_of, target_step=G, regularisation=regularisation, clip=clip)
        states = network.rnn(3 * x)[0]
        moved = (rule.targets(3 * x, y)["rnn.l0"] - states).norm(dim=2).detach()
        grown[clip] = float((moved[:, :-1] / moved[:, 1:]).max())
    assert grown[None] <= 1 + 1e-6
    assert grown[1e-3] > 2, grown


def test_saturated_units_ask_no_more_than_the_clip_allows():
    layer = Layer(
        "tanh", weights_of(nn.RNN(1, 2), 0), torch.zeros(1, 1, 1), torch.tensor([[[1.0, 0.5]]]), torch.zeros(1, 2)
    )
    steepness = linearise(layer, CLIP).back_to_state.flatten()
    torch.testing.assert_close(steepness, torch.tensor([1 / (1 - (1 - CLIP) ** 2), 1 / 0.75]))


def test_saturated_gates_ask_no_more_than_the_clip_allows():
    """With a gate's slope far below clip (1 - clip), the displacement is divided by that in its place."""
    gru = nn.GRU(1, 1)
    with torch.no_grad():
        for parameter, value in zip(gru.parameters(), (0.0, 0.0, 0.0, 0.0), strict=True):
            parameter.fill_(value)
        gru.bias_ih_l0[:2] = 50.0  # both gates open beyond all doubt
        gru.bias_ih_l0[2], gru.bias_hh_l0[2] = 0.3, 0.7
    n = math.tanh(0.3 + 0.7)
    layer = Layer("gru", weights_of(gru, 0), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.full((1, 1), 0.5))
    back_r, back_z, _ = linearise(layer, 0.1).back_to_state.flatten().tolist()
    assert back_r == pytest.approx(0.0, abs=1e-6)  # (1 - z) is zero
    assert back_z == pytest.approx((0.5 - n) / (0.1 * 0.9), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_are_factored_in_float32(dtype):
    weight = torch.randn(5, 4, dtype=dtype)
    found = ridge_inverse(weight, 0.5, "W")
    assert found.dtype == dtype
    torch.testing.assert_close(found, ridge_inverse(weight.double(), 0.5, "W").to(dtype), rtol=2e-2, atol=2e-2)
