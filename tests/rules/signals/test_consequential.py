"""BPC: what a step does to every sample's output, against loops and closed forms written out here."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop import BPC, Backprop, ProxProp, SemiImplicit
from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.recipes.classifiers import ClassifierSettings, make_optimizer
from beyondprop.training.assembly import make_scheduler

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


class Quadratic(nn.Module):
    """Half the mean squared distance to targets: each sample's own derivative is output - target."""

    def forward(self, output, target):
        return (output - target).square().sum() / 2 / len(output)


def backward(network, x, y, rule=BPC, **options):
    """The rule's `.grad` by parameter name, with the loss whose derivatives are output - target."""
    made = rule(copy.deepcopy(network), Quadratic(), **options)
    made.backward(x, y)
    return {name: p.grad for name, p in made.network.named_parameters()}


def problem(seed=0):
    torch.manual_seed(seed)
    network = nn.Linear(12, 3).double()
    return network, torch.randn(7, 12, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)


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


class Mixed(nn.Module):
    """Layers of every treatment: two that are projected, and others around and between them."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.norm = nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.first = nn.Linear(6, 6)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.unused_by_call = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 5, bias=False)
        self.tied.weight = self.embedding.weight
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        h = self.norm(self.embedding(x))
        h = h + self.attention(h, h, h)[0]
        h = self.normed(torch.relu(self.first(h)))
        h = F.linear(h, self.unused_by_call.weight, self.unused_by_call.bias)
        return self.last(self.tied(h).mean(dim=1))


def test_other_layers_have_their_ordinary_gradient():
    torch.manual_seed(7)
    network = Mixed()
    x, y = torch.randint(5, (4, 3)), torch.randn(4, 3)
    rule = BPC(network)
    assert {group["name"]: len(group["params"]) for group in rule.parameter_groups()} == {"affine": 6, "other": 10}
    found, gradient = backward(network, x, y), backward(network, x, y, Backprop)
    differ = {name.split(".")[0] for name in found if not torch.allclose(found[name], gradient[name], atol=1e-6)}
    assert differ == {"first", "last"}


def test_frozen_parameters_leave_the_rest_its_own_projection():
    network, x, y = problem()
    delta = (network(x) - y).detach()
    network.bias.requires_grad_(False)
    found = backward(network, x, y, regularisation=1e-9)
    assert found["bias"] is None
    torch.testing.assert_close(x @ found["weight"].T, delta, rtol=1e-6, atol=1e-7)
    network.bias.requires_grad_(True)
    network.weight.requires_grad_(False)
    found = backward(network, x, y, regularisation=0.5)
    torch.testing.assert_close(found["bias"], delta.sum(dim=0) / (7 + 0.5))
    network.bias.requires_grad_(False)
    assert backward(network, x, y) == {"weight": None, "bias": None}


def test_signals_pass_a_frozen_layer():
    torch.manual_seed(8)
    network = nn.Sequential(nn.Linear(12, 5), nn.Linear(5, 3)).double()
    _, x, y = problem()
    all_trained = backward(network, x, y)
    network[1].requires_grad_(False)
    found = backward(network, x, y)
    torch.testing.assert_close(found["0.weight"], all_trained["0.weight"])
    assert found["1.weight"] is None


def test_it_stands_under_every_optimizer():
    """`.grad` is where momentum and normalisation find it: two steps of each against the formulas on g."""
    for kind, options in (
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.RMSprop, {}),
        (torch.optim.Adam, {}),
    ):
        network, x, y = problem()
        mirror = copy.deepcopy(network)
        rule = BPC(network, Quadratic())
        optimizer, by_hand = kind(rule.parameters(), lr=0.1, **options), kind(mirror.parameters(), lr=0.1, **options)
        for _ in range(2):
            optimizer.zero_grad()
            rule.backward(x, y)
            delta = (mirror(x) - y).detach()
            rows = torch.cat([x, torch.ones(7, 1, dtype=torch.float64)], dim=1)
            g = torch.linalg.solve(rows.T @ rows + torch.eye(13, dtype=torch.float64), rows.T @ delta).T
            mirror.weight.grad, mirror.bias.grad = g[:, :-1].clone(), g[:, -1].clone()
            optimizer.step()
            by_hand.step()
        torch.testing.assert_close(network.weight, mirror.weight)
        torch.testing.assert_close(network.bias, mirror.bias)


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


def tagger(seed=13):
    """Scores and class indices for every position; fewer positions than inputs, so that all can move as meant."""
    torch.manual_seed(seed)
    network = nn.Linear(40, 5).double()
    return network, torch.randn(4, 6, 40, dtype=torch.float64), torch.randint(5, (4, 6))


def over_positions(**options):
    """A cross-entropy with the classes last, whose options nobody can see from outside."""
    return lambda scores, y: F.cross_entropy(scores.transpose(1, 2), y, **options)


class ClassesLast(nn.CrossEntropyLoss):
    def forward(self, scores, y):
        return super().forward(scores.transpose(1, 2), y)


@pytest.mark.parametrize(
    ("loss", "ignored", "terms"),
    [
        (over_positions(), None, None),
        (ClassesLast(reduction="sum"), None, None),
        (over_positions(reduction="sum"), None, lambda _y: 1),
        (ClassesLast(ignore_index=2), 2, None),
        (over_positions(ignore_index=2), 2, lambda y: (y != 2).sum()),
        (ClassesLast(ignore_index=2, reduction="sum"), 2, None),
    ],
    ids=["mean", "sum", "sum by function", "ignored", "ignored by function", "ignored, sum"],
)
def test_every_position_of_a_tagger_moves_by_its_own_delta(loss, ignored, terms):
    network, x, y = tagger()
    scores = network(x).detach()
    meant = scores.softmax(dim=2) - F.one_hot(y, 5)
    if ignored is not None:
        assert 0 < (y == ignored).sum() < y.numel()
        meant[y == ignored] = 0
    rule = BPC(network, loss, regularisation=1e-9, terms=terms)
    rule.backward(x, y)
    moved = x @ network.weight.grad.T + network.bias.grad
    torch.testing.assert_close(moved, meant, rtol=1e-6, atol=1e-7)


def test_integers_of_the_scores_shape_are_no_class_indices():
    """Several labels a sample: its own loss is over all of them."""
    network, x, _ = problem()
    y = torch.randint(2, (7, 3))
    meant = (network(x).sigmoid() - y).detach()
    rule = BPC(
        network, lambda scores, y: 3 * F.binary_cross_entropy_with_logits(scores, y.double()), regularisation=1e-9
    )
    rule.backward(x, y)
    torch.testing.assert_close(x @ network.weight.grad.T + network.bias.grad, meant, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("count", [0, -3, math.nan, math.inf])
def test_a_count_of_terms_that_is_none_is_refused(count, one_line):
    network, x, y = problem()
    with one_line(UserError, "terms"):
        BPC(network, Quadratic(), terms=lambda _y: count).backward(x, y)


class Overwriting(nn.Module):
    """What the first layer reads is changed when it has been read."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = x.clone()
        scores = self.last(torch.tanh(self.first(h)))
        h.mul_(2)
        return scores


@pytest.mark.parametrize("kind", [BPC, ProxProp])
def test_an_input_changed_in_place_is_refused_by_the_layers_name(kind, one_line):
    network, x, y = Overwriting(), torch.randn(5, 4), torch.arange(5) % 3
    with one_line(UserError, "layer first (Linear)"):
        kind(network).backward(x, y)
    assert all(p.grad is None for p in network.parameters())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        F.cross_entropy(network(x), y).backward()
    network.first.weight.requires_grad_(False)  # then nothing is made from the input, and autograd takes it too
    kind(network).backward(x, y)
    F.cross_entropy(network(x), y).backward()


class Tempered(nn.Module):
    """A loss that learns."""

    def __init__(self):
        super().__init__()
        self.scale, self.unused = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, scores, y):
        return F.cross_entropy(self.scale * scores * self.frozen, y)


@pytest.mark.parametrize("kind", [BPC, ProxProp, SemiImplicit])
def test_a_losss_own_parameters_learn(kind):
    """By the gradient; where a step is implicit, by eta times the batch's own, over lambda + n."""
    torch.manual_seed(14)
    network, loss = nn.Linear(4, 3), Tempered()
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    gradient = torch.autograd.grad(loss(network(x), y), loss.scale)[0]
    rule = kind(network, loss, **({"step": 0.5, "regularisation": 2.0} if kind is SemiImplicit else {}))
    rule.backward(x, y)
    torch.testing.assert_close(loss.scale.grad, gradient * (0.5 * 6 / (2 + 6) if kind is SemiImplicit else 1))
    assert loss.unused.grad is None
    assert loss.frozen.grad is None
    listed = {id(p) for group in rule.parameter_groups() for p in group["params"]}
    assert {id(loss.scale), id(network.weight), id(network.bias)} <= listed


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


def test_channels_last_changes_nothing():
    torch.manual_seed(11)
    network = nn.Conv2d(4, 8, 3, padding=1)
    x, y = torch.randn(3, 4, 6, 6), torch.randn(3, 8, 6, 6)
    plain = backward(network, x, y)
    network.to(memory_format=torch.channels_last)
    found = backward(network, x.to(memory_format=torch.channels_last), y)
    torch.testing.assert_close(found["weight"], plain["weight"], rtol=1e-4, atol=1e-6)
    assert found["weight"].is_contiguous(memory_format=torch.channels_last)


def test_activations_in_place_change_nothing():
    torch.manual_seed(12)
    found = []
    for inplace in (False, True):
        torch.manual_seed(12)
        network = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(12, 3))
        found.append(backward(network, torch.randn(4, 2, 6), torch.randn(4, 3)))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(
    "network",
    [nn.LSTM(4, 3), nn.Embedding(4, 3), nn.ConvTranspose2d(3, 2, 2), nn.Tanh()],
    ids=lambda network: type(network).__name__,
)
def test_networks_it_would_only_back_propagate_are_refused(network):
    with pytest.raises(UnsupportedNetworkError, match=rf"{type(network).__name__}.*use back-propagation"):
        BPC(network)


@pytest.mark.parametrize("options", [{"form": "both"}, {"regularisation": 0.0}, {"regularisation": math.nan}])
def test_options_out_of_range_are_refused(options, one_line):
    with one_line(UserError, next(iter(options))):
        BPC(nn.Linear(4, 3), **options)


@pytest.mark.parametrize("name", ["sgd", "nag", "rmsprop", "adam"])
def test_a_recipe_can_name_the_optimizer(name):
    """And the one-cycle schedule gives momentum to none that has none."""
    rule = BPC(nn.Linear(4, 3))
    settings = ClassifierSettings(optimizer=name, learning_rate=0.5, weight_decay=0.25, momentum=0.7)
    optimizer = make_optimizer(rule, settings)
    kinds = {"sgd": torch.optim.SGD, "nag": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}
    assert type(optimizer) is kinds[name]
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert (group.get("nesterov", False), group.get("momentum", 0)) == ((True, 0.7) if name == "nag" else (False, 0))
    make_scheduler(optimizer, "one-cycle", 10)
    assert (group.get("momentum", 0) > 0) == (name == "nag")
