"""BPC: what a step does to every sample's output, against loops and closed forms written out here."""

import copy

import pytest
import torch
from bpc_problems import Quadratic, backward, problem
from torch import nn
from torch.nn import functional as F

from beyondprop import BPC, Backprop
from beyondprop.errors import UserError

CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": (3, 2), "stride": (2, 3)},
    "dilated": {"kernel_size": 3, "dilation": (1, 2), "padding": 2},
    "grouped": {"kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"kernel_size": 2, "groups": 4, "bias": False},
    "same": {"kernel_size": 4, "padding": "same", "dilation": 2},
    "reflected": {"kernel_size": 3, "padding": (2, 1), "padding_mode": "reflect"},
    "circular, without bias": {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "bias": False},
}


def test_a_step_of_sgd_moves_every_sample_by_its_own_delta():
    network, x, y = problem()
    rule = BPC(network, Quadratic(), regularisation=1e-9)
    before = rule(x).detach()
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.3)
    rule.backward(x, y)
    optimizer.step()
    torch.testing.assert_close(rule(x).detach() - before, -0.3 * (before - y), rtol=1e-6, atol=1e-8)


def test_the_gradient_does_not():
    """The property above tells the rules apart: samples disturb each other under back-propagation."""
    network, x, y = problem()
    delta = (network(x) - y).detach()
    moved = x @ backward(network, x, y, Backprop)["weight"].T
    assert F.cosine_similarity(moved.flatten(), delta.flatten(), dim=0) < 0.95


def test_every_patch_of_a_convolution_moves_by_its_own_delta():
    """Fewer patches than weights of a kernel: all can be satisfied at once."""
    torch.manual_seed(1)
    network = nn.Conv2d(4, 3, 3, stride=2).double()
    x, y = torch.randn(2, 4, 5, 7, dtype=torch.float64), torch.randn(2, 3, 2, 3, dtype=torch.float64)
    rule = BPC(network, Quadratic(), regularisation=1e-9)
    before = rule(x).detach()
    rule.backward(x, y)
    torch.optim.SGD(rule.parameters(), lr=0.5).step()
    torch.testing.assert_close(rule(x).detach() - before, -0.5 * (before - y), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("count", [5, 40], ids=["fewer samples than inputs", "more samples than inputs"])
def test_both_gram_matrices_give_the_closed_form(count):
    network, _, _ = problem()
    x, y = torch.randn(count, 12, dtype=torch.float64), torch.randn(count, 3, dtype=torch.float64)
    delta = (network(x) - y).detach()
    X = torch.cat([x, torch.ones(count, 1, dtype=torch.float64)], dim=1).T  # samples as columns
    over_inputs = delta.T @ X.T @ torch.linalg.inv(X @ X.T + 0.7 * torch.eye(13))
    over_samples = delta.T @ torch.linalg.inv(X.T @ X + 0.7 * torch.eye(count)) @ X.T
    torch.testing.assert_close(over_inputs, over_samples)
    found = backward(network, x, y, regularisation=0.7)
    torch.testing.assert_close(torch.cat([found["weight"], found["bias"][:, None]], dim=1), over_inputs)


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
@pytest.mark.parametrize("size", [5, 9], ids=["few places", "many places"])
def test_convolutions_solve_their_own_least_squares(options, size):
    """The matrix of the convolution is built by the convolution itself, one weight after the other."""
    torch.manual_seed(2)
    network = nn.Conv2d(4, 8, **options).double()
    x = torch.randn(2, 4, size, size, dtype=torch.float64)
    y = torch.randn_like(network(x))
    parameters = list(network.parameters())
    sizes = [p.numel() for p in parameters]
    columns = []
    for unit in torch.eye(sum(sizes), dtype=torch.float64):
        parts = [part.view_as(p) for part, p in zip(unit.split(sizes), parameters, strict=True)]
        columns.append(torch.func.functional_call(network, dict(zip(("weight", "bias"), parts, strict=False)), (x,)))
    if len(parameters) == 1:
        assert network.bias is None
    A = torch.stack([column.flatten() for column in columns], dim=1)
    delta = (network(x) - y).detach().flatten()
    best = torch.linalg.solve(A.T @ A + 0.5 * torch.eye(A.shape[1], dtype=torch.float64), A.T @ delta)
    found = backward(network, x, y, regularisation=0.5)
    torch.testing.assert_close(torch.cat([value.flatten() for value in found.values()]), best)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
def test_convolutions_of_other_dimensions(kind):
    torch.manual_seed(3)
    network = kind(2, 3, 2, stride=2, padding=1).double()
    x = torch.randn(3, 2, *[4] * (1 if kind is nn.Conv1d else 3), dtype=torch.float64)
    y = torch.randn_like(network(x))
    found = backward(network, x, y, regularisation=1e-9)
    # More places than weights: what is left after a whole step has no part that any weight could still take away.
    network.weight.data -= found["weight"]
    network.bias.data -= found["bias"]
    left = backward(network, x, y, Backprop)
    assert all(value.abs().max() < 1e-7 for value in left.values())


@pytest.mark.parametrize("form", ["projection", "normalised"])
def test_one_sample_is_the_normalised_lms_filter(form):
    network, x, y = problem()
    x, y, c = x[:1], y[:1], 0.3
    delta = (network(x) - y).detach()[0]
    found = backward(network, x, y, form=form, regularisation=c)
    length = x.square().sum() + 1 + c  # the bias is a weight with input 1
    torch.testing.assert_close(found["weight"], torch.outer(delta, x[0]) / length)
    torch.testing.assert_close(found["bias"], delta / length)


def test_the_normalised_form_is_the_mean_of_every_samples_own_filter():
    network, x, y = problem()
    each = [backward(network, x[i : i + 1], y[i : i + 1], form="normalised", regularisation=2.0) for i in range(7)]
    found = backward(network, x, y, form="normalised", regularisation=2.0)
    for name, value in found.items():
        torch.testing.assert_close(value, sum(one[name] for one in each) / 7)


def test_the_normalised_form_of_a_convolution_is_the_mean_over_patches():
    torch.manual_seed(4)
    network = nn.Conv2d(2, 3, 2).double()
    x, y = torch.randn(2, 2, 4, 4, dtype=torch.float64), torch.randn(2, 3, 3, 3, dtype=torch.float64)
    delta = (network(x) - y).detach()
    expected = torch.zeros_like(network.weight)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                patch = x[b, :, i : i + 2, j : j + 2]
                expected += delta[b, :, i, j].view(3, 1, 1, 1) * patch / (patch.square().sum() + 1 + 0.4)
    found = backward(network, x, y, form="normalised", regularisation=0.4)
    torch.testing.assert_close(found["weight"], expected.detach() / 18)


def test_large_regularisation_is_the_gradient_of_the_sum():
    network = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    _, x, y = problem()
    found = backward(network, x, y, regularisation=1e9)
    for name, gradient in backward(network, x, y, Backprop).items():
        torch.testing.assert_close(1e9 * found[name], 7 * gradient, rtol=1e-6, atol=1e-8)


def test_a_layer_run_twice_projects_onto_all_its_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(9, 9)

        def forward(self, x):
            return self.layer(x[:, 0]) + 3 * self.layer(x[:, 1])

    torch.manual_seed(5)
    network = Twice().double()
    x, y = torch.randn(2, 2, 9, dtype=torch.float64), torch.randn(2, 9, dtype=torch.float64)
    delta = (network(x) - y).detach()
    found = backward(network, x, y, regularisation=1e-9)
    change = x @ found["layer.weight"].T + found["layer.bias"]
    torch.testing.assert_close(change, torch.stack([delta, 3 * delta], dim=1), rtol=1e-6, atol=1e-7)


def test_sequences_have_a_row_for_every_position():
    torch.manual_seed(6)
    network = nn.Linear(8, 4).double()
    x, y = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    delta = (network(x) - y).detach()
    found = backward(network, x, y, regularisation=1e-9)
    torch.testing.assert_close(x @ found["weight"].T + found["bias"], delta, rtol=1e-6, atol=1e-7)


def test_under_autocast_the_linear_algebra_is_float32():
    torch.manual_seed(9)
    network = nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(16, 40), torch.randn(16, 3)
    rule = BPC(copy.deepcopy(network), Quadratic(), regularisation=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        rule.backward(x, y)
    # By the same activations and errors, which are bfloat16's, but in float64 from there on.
    with torch.autocast("cpu", torch.bfloat16):
        hidden = network[1](network[0](x)).detach().requires_grad_()
        scores = network[2](hidden)
        delta = torch.autograd.grad(Quadratic()(scores, y), scores)[0].double() * 16
    rows = torch.cat([hidden.double(), torch.ones(16, 1)], dim=1)
    best = torch.linalg.solve(rows.T @ rows + 0.1 * torch.eye(9), rows.T @ delta).T
    assert rule.network[2].weight.grad.dtype == torch.float32
    torch.testing.assert_close(rule.network[2].weight.grad, best[:, :-1].float(), rtol=1e-4, atol=1e-5)


def test_samples_that_repeat_need_float64_and_have_it():
    torch.manual_seed(10)
    network = nn.Linear(50, 3)
    x = 100 * torch.randn(1, 50).expand(20, 50)
    found = backward(network, x, torch.randn(20, 3), regularisation=1e-2)
    assert found["weight"].isfinite().all()
    assert found["weight"].abs().max() < 1
    with pytest.raises(UserError, match="singular"):
        backward(network, x, torch.randn(20, 3), regularisation=1e-30)


def in_halves(network, x, y, **options):
    """The sum of the `.grad` of two equal parts."""
    rule = BPC(copy.deepcopy(network), Quadratic(), **options)
    for part in (slice(0, 3), slice(3, 6)):
        rule.backward(x[part], y[part])
    return rule.network.weight.grad


def test_what_holds_of_accumulated_parts_of_a_batch():
    """The normalised form is a mean over rows; a projection is the sum only where it is hardly one."""
    network, x, y = problem()
    x, y = x[:6], y[:6]
    options = {"form": "normalised", "regularisation": 0.5}
    torch.testing.assert_close(in_halves(network, x, y, **options) / 2, backward(network, x, y, **options)["weight"])
    weak = {"regularisation": 1e9}
    torch.testing.assert_close(
        in_halves(network, x, y, **weak), backward(network, x, y, **weak)["weight"], rtol=1e-6, atol=0
    )
    strong = {"regularisation": 0.5}
    halves, whole = in_halves(network, x, y, **strong), backward(network, x, y, **strong)["weight"]
    assert (halves - whole).norm() > 0.1 * whole.norm()
