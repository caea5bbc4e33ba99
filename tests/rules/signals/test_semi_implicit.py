"""Semi-implicit back-propagation: written out once more by hand, its fixed points, its limit, what it refuses."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop import BPC, Backprop, SemiImplicit
from beyondprop.errors import UnsupportedNetworkError, UserError


def gradients(network, x, y, loss=None, kind=SemiImplicit, **options):
    """The rule's `.grad` by parameter name."""
    rule = kind(copy.deepcopy(network), loss, **options)
    rule.backward(x, y)
    return {name: p.grad for name, p in rule.network.named_parameters()}


def perceptron(activation=nn.ReLU):
    torch.manual_seed(0)
    layers = [nn.Linear(9, 8), activation(), nn.Linear(8, 7), activation(), nn.Linear(7, 3)]
    return nn.Sequential(*layers).double(), torch.randn(6, 9, dtype=torch.float64), torch.arange(6) % 3


def ridge(rows, aims, start, weight):
    """Find argmin |rows w - aims|^2 + weight |w - start|^2, as one least-squares problem."""
    size = rows.shape[1]
    above = torch.cat([rows, weight**0.5 * torch.eye(size, dtype=rows.dtype)])
    return torch.linalg.lstsq(above, torch.cat([aims, weight**0.5 * start])).solution


def test_three_layers_written_out():
    """Samples are rows; theta_i holds the weight above the bias."""
    network, x, y = perceptron()
    eta, lam = 0.7, 0.3
    ones = torch.ones(6, 1, dtype=torch.float64)
    theta = [torch.cat([network[i].weight, network[i].bias[:, None]], dim=1).T.detach() for i in (0, 2, 4)]
    f0 = x
    z1 = torch.cat([f0, ones], dim=1) @ theta[0]
    f1 = z1.clamp(min=0)
    z2 = torch.cat([f1, ones], dim=1) @ theta[1]
    f2 = z2.clamp(min=0)
    f3 = torch.cat([f2, ones], dim=1) @ theta[2]

    d3 = eta * (f3.softmax(dim=1) - F.one_hot(y, 3))
    new2 = ridge(torch.cat([f2, ones], dim=1), f3 - d3, theta[2], lam)
    d2 = d3 @ new2[:-1].T
    new1 = ridge(torch.cat([f1, ones], dim=1), z2 - (z2 > 0) * d2, theta[1], lam)
    d1 = ((z2 > 0) * d2) @ new1[:-1].T
    new0 = ridge(torch.cat([f0, ones], dim=1), z1 - (z1 > 0) * d1, theta[0], lam)

    found = gradients(network, x, y, step=eta, regularisation=lam)
    for i, (old, new) in enumerate(zip(theta, (new0, new1, new2), strict=True)):
        torch.testing.assert_close(found[f"{2 * i}.weight"], (old - new)[:-1].T)
        torch.testing.assert_close(found[f"{2 * i}.bias"], (old - new)[-1])


def test_sgd_with_rate_one_takes_the_step():
    network, x, y = perceptron()
    rule = SemiImplicit(copy.deepcopy(network))
    rule.backward(x, y)
    torch.optim.SGD(rule.parameters(), lr=1.0).step()
    found = gradients(network, x, y)
    for name, p in rule.network.named_parameters():
        assert torch.equal(p, network.get_parameter(name) - found[name])


def test_one_linear_layer_is_bpc_with_that_step():
    torch.manual_seed(1)
    network, x, y = nn.Linear(5, 3).double(), torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3
    found = gradients(network, x, y, step=0.2, regularisation=4.0)
    for name, g in gradients(network, x, y, kind=BPC, regularisation=4.0).items():
        torch.testing.assert_close(found[name], 0.2 * g)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Softplus, nn.Sigmoid])
def test_many_solves_reach_the_implicit_step(activation):
    """The true problem, with sigma in it, is stationary at theta'; it is not after one solve."""
    network, x, y = perceptron(activation)
    eta, lam = 2.0, 0.05
    slopes = {}
    for solves in (1, 200):
        found = gradients(network, x, y, step=eta, regularisation=lam, solves=solves)
        f2 = network[:4](x).detach()
        d3 = eta * (network(x).softmax(dim=1) - F.one_hot(y, 3)).detach()
        d2 = d3 @ (network[4].weight - found["4.weight"]).detach()
        layer = copy.deepcopy(network[2])
        with torch.no_grad():
            layer.weight -= found["2.weight"]
            layer.bias -= found["2.bias"]
        far = sum(
            (p - q.detach()).square().sum() for p, q in zip(layer.parameters(), network[2].parameters(), strict=True)
        )
        cost = (network[3](layer(network[:2](x).detach())) - (f2 - d2)).square().sum() / 2 + lam / 2 * far
        slopes[solves] = max(g.abs().max() for g in torch.autograd.grad(cost, list(layer.parameters())))
    assert slopes[200] < 1e-5
    assert slopes[1] > 100 * slopes[200]


def test_further_solves_never_lead_up():
    """A norm with a small deviation makes sigma steep, so that the ridge regression alone goes far too far."""
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    with torch.no_grad():
        network[0].weight.mul_(1e-2)
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)

    def left(solves):
        found = gradients(network, x, y, nn.MSELoss(), step=0.5, regularisation=1e-6, solves=solves)
        output = network(x).detach()
        d = (0.5 * 8 * 2 * (output - y) / y.numel()).detach()
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for name in ("0.weight", "0.bias"):
                moved.get_parameter(name).sub_(found[name])
        return (moved(x) - (output - d)).square().sum() / d.square().sum()

    assert left(1) > 1
    assert left(5) < 1


def test_large_lambda_is_a_gradient_step_on_the_sum_over_the_batch():
    """Direction and scale, for every parameter, those of norms and activations as well."""
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.PReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1, padding_mode="reflect"),
        nn.Sequential(nn.GroupNorm(2, 6), nn.Tanh()),
        nn.Flatten(),
        nn.Linear(24, 3, bias=False),
    ).double()
    x, y = torch.randn(5, 2, 8, 8, dtype=torch.float64), torch.arange(5) % 3
    found = gradients(network, x, y, step=0.5, regularisation=1e9)
    for name, gradient in gradients(network, x, y, kind=Backprop).items():
        torch.testing.assert_close(1e9 / 0.5 / 5 * found[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("images", [False, True], ids=["samples", "patches"])
def test_parameters_between_layers_step_by_their_derivative_over_lambda_and_the_rows(images):
    """With a lambda of the rows' own size, so that both count."""
    torch.manual_seed(10)
    layer, rows = (nn.Conv1d(2, 4, 3, groups=2), 5 * 4) if images else (nn.Linear(6, 4), 5)
    network = nn.Sequential(layer, nn.PReLU(4), nn.Flatten(), nn.Linear(16 if images else 4, 3)).double()
    x = torch.randn(5, *((2, 6) if images else (6,)), dtype=torch.float64)
    y = torch.arange(5) % 3
    found = gradients(network, x, y, step=0.7, regularisation=3.0)
    d = 0.7 * (network(x).softmax(dim=1) - F.one_hot(y, 3)).detach()
    passed = (d @ (network[3].weight - found["3.weight"]).detach()).view(5, 4, -1)
    z = layer(x).detach().view(5, 4, -1)
    slope = (passed * z.clamp(max=0)).sum(dim=(0, 2))
    torch.testing.assert_close(found["1.weight"], slope / (3.0 + rows))


class ClassesLast(nn.CrossEntropyLoss):
    def forward(self, scores, y):
        return super().forward(scores.transpose(1, 2), y)


@pytest.mark.parametrize(
    ("loss", "terms"),
    [
        (ClassesLast(), None),
        (ClassesLast(reduction="sum"), None),
        (lambda scores, y: 10 * F.cross_entropy(scores.transpose(1, 2), y), lambda y: y.numel() / 10),
        (ClassesLast(ignore_index=1), None),
    ],
    ids=["mean", "sum", "own count", "ignored"],
)
def test_a_tagger_is_its_positions_as_a_batch(loss, terms):
    network, _, _ = perceptron()
    x, y = torch.randn(4, 5, 9, dtype=torch.float64), torch.arange(20).view(4, 5) % 3
    options = {"step": 0.7, "regularisation": 0.3}
    found = gradients(network, x, y, loss, terms=terms, **options)
    one_by_one = {"ignore_index": 1} if getattr(loss, "ignore_index", -1) == 1 else {}
    expected = gradients(
        network, x.flatten(0, 1), y.flatten(), nn.CrossEntropyLoss(reduction="sum", **one_by_one), **options
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_accumulated_parts_of_a_batch_are_the_whole_only_for_large_lambda():
    network, x, y = perceptron()

    def compared(lam):
        rule = SemiImplicit(copy.deepcopy(network), step=0.5, regularisation=lam)
        for part in (slice(0, 3), slice(3, 6)):
            rule.backward(x[part], y[part])
        whole = gradients(network, x, y, step=0.5, regularisation=lam)["2.weight"]
        return (rule.network[2].weight.grad - whole).norm() / whole.norm()

    assert compared(1e9) < 1e-6
    assert compared(0.3) > 0.1


def test_a_convolution_learns_by_the_layer_above_as_it_is_afterwards():
    torch.manual_seed(4)
    conv, rest, top = nn.Conv2d(2, 3, 3, stride=2, dilation=2, padding=2), nn.Sequential(nn.Tanh(), nn.Flatten()), None
    top = nn.Linear(27, 3)
    network = nn.Sequential(conv, rest, top).double()
    x, y = torch.randn(4, 2, 6, 6, dtype=torch.float64), torch.arange(4) % 3
    found = gradients(network, x, y, step=0.8, regularisation=0.2)
    d = 0.8 * (network(x).softmax(dim=1) - F.one_hot(y, 3)).detach()
    z = conv(x).detach().requires_grad_()
    signal = torch.autograd.grad(F.linear(rest(z), top.weight - found["2.weight"]), z, d)[0]

    def towards(output, target):  # each sample's own derivative is output - target
        return (output - target).square().sum() / 2 / len(output)

    expected = gradients(conv, x, z.detach() - signal, towards, BPC, regularisation=0.2)
    torch.testing.assert_close(found["0.weight"], expected["weight"])
    torch.testing.assert_close(found["0.bias"], expected["bias"])


def regression():
    """More samples than weights: the least loss is not 0, and no sample's own error vanishes there."""
    torch.manual_seed(4)
    network = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 1)).double()
    x = torch.randn(30, 2, dtype=torch.float64)
    y = torch.tanh(x[:, :1] / 2 - x[:, 1:]) + 0.3 * torch.randn(30, 1, dtype=torch.float64)
    return network, x, y


def largest(found):
    return max(value.abs().max() for value in found.values())


def test_a_stationary_point_is_a_fixed_point():
    network, x, y = regression()
    search = torch.optim.LBFGS(
        network.parameters(), max_iter=400, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def cost():
        search.zero_grad()
        loss = F.mse_loss(network(x), y)
        loss.backward()
        return loss

    start = largest(gradients(network, x, y, nn.MSELoss(), step=1.0))
    search.step(cost)
    assert cost() > 0.03
    for solves in (1, 4):
        assert largest(gradients(network, x, y, nn.MSELoss(), step=1.0, solves=solves)) < 1e-6 * start


def test_a_fixed_point_is_a_stationary_point():
    network, x, y = regression()
    rule = SemiImplicit(network, nn.MSELoss(), step=0.1, regularisation=0.1)
    optimizer = torch.optim.SGD(rule.parameters(), lr=1.0, momentum=0.9, nesterov=True)
    first = largest(gradients(network, x, y, nn.MSELoss(), Backprop))
    for _ in range(600):
        optimizer.zero_grad()
        loss = rule.backward(x, y)
        optimizer.step()
    assert loss > 0.03
    assert largest(gradients(network, x, y, nn.MSELoss(), Backprop)) < 1e-5 * first


def test_dropout_keeps_its_mask_through_all_solves():
    """What was dropped for the whole batch has no part in the output, and stays."""
    torch.manual_seed(6)
    network = nn.Sequential(nn.Linear(4, 30), nn.Dropout(0.5), nn.Linear(30, 3)).double()
    x, y = torch.randn(1, 4, dtype=torch.float64), torch.tensor([1])
    rests = []
    for solves in (1, 5):
        torch.manual_seed(7)
        found = gradients(network, x, y, step=3.0, regularisation=0.1, solves=solves)
        rests.append(((found["0.weight"] == 0).all(dim=1), torch.get_rng_state()))
    assert 5 < rests[0][0].sum() < 25
    assert torch.equal(rests[0][0], rests[1][0])
    assert torch.equal(rests[0][1], rests[1][1])


def test_statistics_of_norms_move_once_however_often_it_solves():
    torch.manual_seed(8)
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    norms = []
    for kind, options in ((Backprop, {}), (SemiImplicit, {"solves": 5})):
        rule = kind(copy.deepcopy(network), **options)
        rule.backward(x, y)
        norms.append(rule.network[1])
    assert norms[1].num_batches_tracked == 1
    torch.testing.assert_close(norms[1].running_var, norms[0].running_var)


def test_a_frozen_layer_passes_the_difference_by_its_own_weight():
    network, x, y = perceptron()
    network[4].requires_grad_(False)
    found = gradients(network, x, y, step=0.5, regularisation=0.3)
    assert found["4.weight"] is None
    d3 = 0.5 * (network(x).softmax(dim=1) - F.one_hot(y, 3)).detach()
    z2 = network[:3](x).detach()
    theta = torch.cat([network[2].weight, network[2].bias[:, None]], dim=1).T.detach()
    rows = torch.cat([network[:2](x).detach(), torch.ones(6, 1, dtype=torch.float64)], dim=1)
    new = ridge(rows, z2 - (z2 > 0) * (d3 @ network[4].weight), theta, 0.3)
    torch.testing.assert_close(found["2.weight"], (theta - new)[:-1].T)


def test_under_autocast_it_computes_as_without():
    network, x, y = perceptron()
    network, x = network.float(), x.float()
    plain = gradients(network, x, y, solves=3)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(network, x, y, solves=3)
        from_half = gradients(network, x.bfloat16(), y)
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert all(value.dtype == torch.float32 for value in from_half.values())


def test_activations_in_place_change_nothing():
    network, x, y = perceptron()
    plain = gradients(network, x, y, solves=3, step=2.0)
    network[1].inplace = network[3].inplace = True
    found = gradients(network, x, y, solves=3, step=2.0)
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_channels_last_and_nested_chains_change_nothing():
    torch.manual_seed(9)
    layers = [nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)]
    x, y = torch.randn(5, 4, 4, 4), torch.arange(5) % 3
    plain = gradients(nn.Sequential(*layers), x, y)
    nested = nn.Sequential(nn.Sequential(layers[0], layers[1]), nn.Sequential(nn.Sequential(layers[2]), layers[3]))
    found = gradients(nested.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last), y)
    for mine, other in zip(found.values(), plain.values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.layer(x)


def tied():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


def twice():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Sequential(Residual())), "layer 1.0 (Residual)"),
        (Residual(), "layer network (Residual)"),
        (nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)), "layer 0 (Embedding)"),
        (nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2)), "layer 1 (TransformerEncoderLayer)"),
        (nn.Sequential(nn.Linear(4, 4), nn.ConvTranspose1d(4, 4, 1)), "layer 1 (ConvTranspose1d)"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))), "layer 0 (ParametrizedLinear)"),
        (nn.Sequential(nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 3)), "layer 1 (BatchNorm1d)"),
        (tied(), "layer 2 (Linear) shares a parameter with layer 0"),
        (twice(), "layer 2 (Linear) shares a parameter with layer 0"),
        (nn.Sequential(nn.Tanh(), nn.Flatten()), "nothing can be trained"),
    ],
    ids=lambda part: None if isinstance(part, str) else type(part).__name__,
)
def test_what_is_no_chain_of_affine_layers_is_refused_by_name(network, named, one_line):
    assert named in SemiImplicit.supports(network)
    with one_line(UnsupportedNetworkError, named):
        SemiImplicit(network)


@pytest.mark.parametrize("options", [{"step": 0.0}, {"regularisation": -1.0}, {"step": math.nan}, {"solves": 0}])
def test_options_out_of_range_are_refused(options, one_line):
    with one_line(UserError, next(iter(options))):
        SemiImplicit(nn.Linear(4, 3), **options)
