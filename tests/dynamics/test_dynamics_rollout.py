"""Gradients of the weights through time: equal to forward sensitivities and to finite differences; curvature."""

import pytest
import torch

from beyondprop.dynamics.alternation import Windows, window_gradients
from beyondprop.dynamics.coupling import coupling
from beyondprop.dynamics.curvature import curvature, others_of, sensitivities
from beyondprop.dynamics.local_model import LocalModel
from beyondprop.dynamics.rollout import roll_out

NODES, STEPS, H = 4, 12, 0.05
WANTED = {"interval": H, "coupled": (0,), "drive": None, "kept": 1, "parameters": True}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def problem(seed=0, drives=0):
    torch.manual_seed(seed)
    model = LocalModel(3, drives, 5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.mean.normal_()
    model.scale.uniform_(0.5, 2)
    model.rate.uniform_(0.5, 2)
    weights = torch.randn(NODES, NODES) * 0.5
    return model, weights, torch.randn(2, NODES, 3)


def loss_of(model, weights, starts, target, **options):
    return 0.5 * (roll_out(model, weights, starts, STEPS, H, **options) - target).square().sum()


def forward_sensitivities(model, weights, start, coupled):
    """Euler's recursion: S_k(t + 1) = (I + h Df(x_k)) S_k + h e_c [d_ki (x_j - x_i) + sum_l w_kl (S_l - S_k)]."""
    x, s = start, torch.zeros(NODES, NODES, NODES, 3)  # s[i, j, k]: dx_k / dw_ij
    states, found = [x], [s]
    for _ in range(STEPS):
        jacobians = [torch.autograd.functional.jacobian(model, x[k]) for k in range(NODES)]
        new = torch.zeros_like(s)
        for i in range(NODES):
            for j in range(NODES):
                for k in range(NODES):
                    new[i, j, k] = s[i, j, k] + H * jacobians[k] @ s[i, j, k]
                    for c in coupled:
                        new[i, j, k, c] += H * (i == k) * (x[j, c] - x[i, c])
                        for m in range(NODES):
                            new[i, j, k, c] += H * weights[k, m] * (s[i, j, m, c] - s[i, j, k, c])
        with torch.no_grad():
            given = torch.from_numpy(coupling(x.numpy(), weights.numpy(), coupled))
            x = x + H * (model(x) + given)
        s = new
        states.append(x)
        found.append(s)
    return torch.stack(states), torch.stack(found)


@pytest.mark.parametrize("coupled", [(0,), (1,), (0, 2)])
def test_gradient_through_time_equals_forward_sensitivities(coupled):
    model, weights, starts = problem()
    target = torch.randn(1, STEPS + 1, NODES, 3)
    weights.requires_grad_()
    loss_of(model, weights, starts[:1], target, coupled=coupled, scheme="euler").backward()
    states, s = forward_sensitivities(model, weights.detach(), starts[0], coupled)
    expected = torch.einsum("tkc,tijkc->ij", states - target[0], s)
    torch.testing.assert_close(weights.grad, expected)


@pytest.mark.parametrize("substeps", [1, 2])
def test_gradients_of_windows_equal_finite_differences(substeps):
    model, weights, starts = problem()
    scale = torch.tensor([1.0, 2.0, 0.5])
    observed = torch.randn(2, STEPS + 1, NODES, 3)
    windows = Windows(observed, starts, scale, H, (0, 2), substeps)
    loss, _, by_starts, by_weights, by_parameters = window_gradients(model, weights, starts, windows)

    def at(weights, starts):
        states = roll_out(model, weights, starts, STEPS, H, coupled=(0, 2), substeps=substeps)
        return 0.5 * ((states - observed) / scale).square().sum().item()

    assert loss == pytest.approx(at(weights, starts))
    e = 1e-6
    for i, j in ((0, 1), (2, 3), (3, 0)):
        step = torch.zeros_like(weights)
        step[i, j] = e
        slope = (at(weights + step, starts) - at(weights - step, starts)) / (2 * e)
        assert by_weights[i, j].item() == pytest.approx(slope, rel=1e-5)
    step = torch.zeros_like(starts)
    step[1, 2, 1] = e
    assert by_starts[1, 2, 1].item() == pytest.approx(
        (at(weights, starts + step) - at(weights, starts - step)) / (2 * e), rel=1e-5
    )
    with torch.no_grad():
        last = next(iter(model.parameters()))
        last[1, 2] += e
        above = at(weights, starts)
        last[1, 2] -= 2 * e
        below = at(weights, starts)
    assert by_parameters[1 * 3 + 2].item() == pytest.approx((above - below) / (2 * e), rel=1e-5)


def test_the_diagonal_has_no_effect():
    model, weights, starts = problem()
    other = weights + torch.diag(torch.randn(NODES))
    torch.testing.assert_close(roll_out(model, weights, starts, 5, H), roll_out(model, other, starts, 5, H))


def test_runge_and_kutta_have_order_four_and_euler_one():
    model, weights, starts = problem()
    for scheme, order in (("rk4", 4), ("euler", 1)):
        ends = [roll_out(model, weights, starts, n, 1.0 / n, scheme=scheme)[:, -1] for n in (8, 16, 512)]
        ratio = (ends[0] - ends[2]).norm() / (ends[1] - ends[2]).norm()
        assert order - 0.4 < torch.log2(ratio) < order + 0.6


def test_a_drive_is_read_at_start_middle_and_end():
    """dx/dt = u(t) alone: Simpson's rule, exact for cubics."""
    t = torch.linspace(0, 1, 2 * 4 + 1)
    found = roll_out(
        lambda x: x[..., 1:], torch.zeros(2, 2), torch.zeros(1, 2, 1), 4, 0.25, drive=t[None, :, None] ** 3
    )
    torch.testing.assert_close(found[0, :, 0, 0], torch.arange(5) ** 4 / 4**5)


def test_jacobians_equal_automatic_ones():
    model, _, _ = problem(drives=2)
    x = torch.randn(6, 5)
    by_state, by_parameters = model.jacobians(x)
    own = dict(model.named_parameters())
    expected = torch.func.vmap(torch.func.jacrev(model))(x)
    torch.testing.assert_close(by_state, expected[..., :3])
    each = torch.func.vmap(
        torch.func.jacrev(lambda p, one: torch.func.functional_call(model, p, (one,))), in_dims=(None, 0)
    )(own, x)
    torch.testing.assert_close(by_parameters, torch.cat([each[name].flatten(2) for name in own], dim=2))


def test_sensitivities_are_those_of_the_trajectory():
    """Where nodes do not feel each other they are exact, but for the scheme's error."""
    model, _, starts = problem()
    steps, none, own = 6, torch.zeros(NODES, NODES), dict(model.named_parameters())

    def run(starts, weights, *parameters):
        named = dict(zip(own, parameters, strict=True))
        return roll_out(lambda x: torch.func.functional_call(model, named, (x,)), weights, starts, steps, 0.01)[0]

    arguments = (starts[:1], none, *own.values())
    by_start, by_weights, *by_parameters = torch.func.jacrev(run, tuple(range(len(arguments))))(*arguments)
    states = run(*arguments).detach()[None]
    found = sensitivities(model, none, states, torch.arange(NODES), **WANTED | {"interval": 0.01})
    shape, others = (NODES, steps + 1, 3), others_of(NODES)
    exact = torch.stack([by_start[:, k, :, 0, k] for k in range(NODES)])
    torch.testing.assert_close(found.start.view(*shape, 3), exact, rtol=1e-3, atol=1e-5)
    exact = torch.stack([by_weights[:, k, :, k][..., others[k]] for k in range(NODES)])
    torch.testing.assert_close(found.weights.view(*shape, NODES - 1), exact, rtol=1e-3, atol=1e-5)
    exact = torch.cat([part.flatten(3) for part in by_parameters], dim=3).transpose(0, 1)
    torch.testing.assert_close(found.parameters.view(*shape, -1), exact, rtol=1e-2, atol=1e-5)


def test_curvature_is_that_of_the_squared_error_without_the_starts():
    """Against one dense matrix of all sensitivities, from which the starts are taken out by projection."""
    model, weights, starts = problem()
    scale = torch.tensor([1.0, 2.0, 0.5])
    states = roll_out(model, weights, starts, STEPS, H).detach()
    found = curvature(model, weights, states, scale, stride=1, chunk=3, **WANTED)
    s = sensitivities(model, weights, states, torch.arange(NODES), **WANTED)
    units = 1 / scale.repeat(STEPS + 1)[:, None]
    for k in range(NODES):
        gram, mixed = 0, 0
        for w in range(2):
            start, row, theta = (part[w * NODES + k] * units for part in s)
            basis, _ = torch.linalg.qr(start)
            row, theta = row - basis @ (basis.T @ row), theta - basis @ (basis.T @ theta)
            gram, mixed = gram + row.T @ row, mixed + row.T @ theta
        torch.testing.assert_close(found.rows[k], gram)
        torch.testing.assert_close(found.mixed[k], mixed)
