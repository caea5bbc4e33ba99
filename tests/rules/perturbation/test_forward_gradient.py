"""Forward gradients: exact over a basis, unbiased on average, with the variance of the paper, and no reverse graph."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.measure.memory import peak_saved_bytes
from beyondprop.rules.perturbation.forward_gradient import ForwardGradient, layers_into_relu


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.read = nn.Linear(6, 2)

    def forward(self, x):
        return self.read(self.encoder(x).mean(dim=1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.read = nn.LSTMCell(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        state = (x.new_zeros(len(x), 4), x.new_zeros(len(x), 4))
        for step in x.unbind(dim=1):
            state = self.cell(step, state)
        return self.read(state[0])


NETWORKS = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), (3,)),
    "convolutional": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 2)),
        (1, 4, 4),
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)),
        (3,),
    ),
    "layer norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)), (3,)),
    "attention": (Attending, (5, 6)),
}


def make(name, count=6):
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    return build().double(), torch.randn(count, *shape).double(), torch.arange(count) % 2


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def gradient_of(rule):
    return flat(p.grad for p in rule.network.parameters())


def true_gradient(network, x, y):
    return flat(torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters())))


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_along_a_whole_basis_give_the_gradient(name):
    """As many orthogonal directions as parameters: nothing is left to chance."""
    network, x, y = make(name)
    rule = ForwardGradient(network, perturb="weights", directions=flat(network.parameters()).numel(), orthogonal=True)
    loss = rule.backward(x, y)
    network.eval() if name == "batch norm" else None
    torch.testing.assert_close(gradient_of(rule), true_gradient(network.train(), x, y))
    torch.testing.assert_close(loss, F.cross_entropy(network(x), y).detach())


class Sharing(nn.Module):
    """Uses a linear layer's weight by itself, a frozen weight with a bias that learns, and one weight twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.second.weight.requires_grad_(False)

    def forward(self, x):
        h = self.second(torch.tanh(self.first(x)))
        return self.third(torch.tanh(F.linear(h, self.first.weight) + self.second.bias))


def test_weights_are_followed_wherever_they_are_used():
    torch.manual_seed(0)
    network, x, y = Sharing().double(), torch.randn(4, 3).double(), torch.tensor([0, 1, 1, 0])
    trained = [p for p in network.parameters() if p.requires_grad]
    rule = ForwardGradient(network, perturb="weights", directions=flat(trained).numel(), orthogonal=True)
    rule.backward(x, y)
    expected = torch.autograd.grad(F.cross_entropy(network(x), y), trained)
    torch.testing.assert_close(flat(p.grad for p in trained), flat(expected))


@pytest.mark.parametrize("name", ["perceptron", "convolutional", "layer norm"])
def test_activities_along_a_whole_basis_give_the_gradient(name, monkeypatch):
    """One unit of one layer moves at a time, for all samples; the estimates are added."""
    network, x, y = make(name)
    rule, sizes = ForwardGradient(network), []
    monkeypatch.setattr(
        rule, "noise", lambda value, generator: sizes.append(value[0].numel()) or torch.zeros_like(value)
    )
    rule.backward(x, y)
    layers = list(sizes)
    rule.zero_grad()
    for layer, size in enumerate(layers):
        for unit in range(size):
            calls = []

            def one(value, generator, layer=layer, unit=unit, calls=calls):
                calls.append(value)
                noise = torch.zeros_like(value)
                if len(calls) == layer + 1:
                    noise.flatten(1)[:, unit] = 1.0
                return noise

            monkeypatch.setattr(rule, "noise", one)
            rule.backward(x, y)
    torch.testing.assert_close(gradient_of(rule), true_gradient(network, x, y))


class Tabled(nn.Module):
    """Has a layer that looks the same for every batch, beside one with an example a row."""

    def __init__(self):
        super().__init__()
        self.table, self.read = nn.Linear(2, 3), nn.Linear(3, 2)
        self.register_buffer("rows", torch.randn(4, 2, generator=torch.Generator().manual_seed(2)))

    def forward(self, x):
        return self.read(x * torch.tanh(self.table(self.rows)).mean(dim=0))


ORTHOGONAL = {
    "perceptron": 6,
    "convolutional": 10,
    "layer norm": 10,
    "batch norm": 40,
    "one loss": 24,
    "rows of no example": 20,
}


@pytest.mark.parametrize("case", ORTHOGONAL)
def test_orthogonal_activities_of_a_whole_basis_give_the_gradient(case):
    """As many directions as a sample has units, or the whole batch where samples share a signal."""
    network, x, y = make(case if case in NETWORKS else "perceptron", count=4)
    if case == "rows of no example":
        network = Tabled().double()
    units = ORTHOGONAL[case]
    rule = ForwardGradient(network, F.cross_entropy if case == "one loss" else None, directions=units, orthogonal=True)
    rule.backward(x, y)
    torch.testing.assert_close(gradient_of(rule), true_gradient(network, x, y))
    too_many = ForwardGradient(network, rule.loss, directions=units + 1, orthogonal=True)
    with pytest.raises(UserError, match=f"no {units + 1} orthogonal directions among {units} units"):
        too_many.backward(x, y)


def test_orthogonal_activities_of_a_whole_basis_lose_nothing_by_rounding():
    """In float32, one pass of orthogonalisation leaves an error about ten times as large."""
    errors = []
    for seed in range(3):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 2))
        x, y = torch.randn(4, 3), torch.arange(4) % 2
        rule = ForwardGradient(network, directions=42, orthogonal=True)
        rule.backward(x, y)
        true = true_gradient(network, x, y)
        errors.append(((gradient_of(rule) - true).norm() / true.norm()).item())
    assert max(errors) < 6e-7


class Numbers(nn.Module):
    """A layer that gives one number a sample, shape (batch,)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x @ self.weight


@pytest.mark.parametrize("orthogonal", [False, True])
def test_a_layer_may_give_one_number_a_sample(orthogonal):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), Numbers()).double()
    x = torch.randn(4, 3).double()
    rule = ForwardGradient(network, lambda z, y: (z - y).square(), directions=4, orthogonal=orthogonal)
    rule.backward(x, torch.ones(4).double())
    found = gradient_of(rule)
    expected = torch.autograd.grad((network(x) - 1).square().mean(), list(network.parameters()))
    if orthogonal:  # as many directions as units
        torch.testing.assert_close(found, flat(expected))
    assert found.isfinite().all()


@pytest.mark.parametrize("perturb", ["weights", "activities"])
def test_orthogonal_directions_in_bfloat16(perturb):
    """Of as many as there are numbers, rounded to a few hundredths, the estimate is nearly the gradient."""
    torch.manual_seed(0)
    network, x, y = nn.Linear(3, 2).bfloat16(), torch.randn(4, 3).bfloat16(), torch.arange(4) % 2
    count = {"weights": 8, "activities": 2}[perturb]
    rule = ForwardGradient(network, perturb=perturb, directions=count, orthogonal=True)
    rule.backward(x, y)
    found, true = gradient_of(rule).float(), true_gradient(network, x, y).float()
    assert (found - true).norm() < 0.05 * true.norm()


@pytest.mark.slow
def test_orthogonal_activities_are_unbiased_and_vary_less():
    """With K orthogonal directions of U a share of about (1 - K / U) of the variance is left; here K is 4 of 6."""
    network, x, y = make("perceptron")
    true, spread = true_gradient(network, x, y), []
    for orthogonal in (False, True):
        rule, found = ForwardGradient(network, directions=4, orthogonal=orthogonal), []
        torch.manual_seed(3)
        for _ in range(250):
            rule.zero_grad()
            rule.backward(x, y)
            found.append(gradient_of(rule))
        found = torch.stack(found)
        expected = found.var(dim=0).sum() / len(found)
        assert 0.2 * expected < (found.mean(dim=0) - true).square().sum() < 3 * expected
        spread.append(found.var(dim=0).sum())
    assert spread[1] < 0.5 * spread[0]


@pytest.mark.parametrize("perturb", ["activities", "weights"])
@pytest.mark.parametrize("name", NETWORKS)
def test_estimates_are_unbiased(name, perturb):
    """The mean of many lies within five standard errors of the gradient, in its direction and in all others at once."""
    network, x, y = make(name)
    rule = ForwardGradient(network, perturb=perturb)
    torch.manual_seed(3)
    found = []
    for _ in range(200):
        rule.zero_grad()
        rule.backward(x, y)
        found.append(gradient_of(rule))
    found, true = torch.stack(found), true_gradient(network, x, y)
    along = found @ true / true.square().sum()
    assert (along.mean() - 1).abs() < 5 * along.std() / len(along) ** 0.5
    distance = (found.mean(dim=0) - true).square().sum()
    expected = found.var(dim=0).sum() / len(found)  # of an unbiased mean
    assert 0.2 * expected < distance < 3 * expected


@pytest.mark.slow
@pytest.mark.parametrize("units", [4, 16])
def test_variance_is_the_papers(units):
    """One sample, a loss linear in the output, so that the gradient is constant: (pq + 1) S and (q + 1) S, Table 1."""
    torch.manual_seed(0)
    inputs = 5
    x, c = torch.randn(1, inputs).double(), torch.randn(units).double()
    mean_square = (c[:, None] * x).square().mean()
    for perturb, factor in (("weights", inputs * units + 1), ("activities", units + 1)):
        layer = nn.Linear(inputs, units, bias=False).double()
        rule = ForwardGradient(layer, lambda z, _: z @ c, perturb=perturb)
        torch.manual_seed(1)
        found = []
        for _ in range(3000):
            rule.zero_grad()
            rule.backward(x, x)
            found.append(layer.weight.grad.clone())
        variance = torch.stack(found).var(dim=0).mean().item()
        assert variance == pytest.approx(factor * mean_square.item(), rel=0.15)


def test_variance_falls_with_the_batch_as_in_the_paper():
    """Table 1: noise for each sample, (q + 2) V / N + (q + 1) S / N; one for all weights, (pq + 2) V / N + (pq + 1) S.

    V is the variance of the samples' gradients, S the square of their mean.
    """
    torch.manual_seed(0)
    inputs, units, deviation, counts = 4, 3, 0.7, (1, 4, 16)
    mean, c = torch.randn(inputs).double(), torch.randn(units).double()
    between = (c.square().mean() * deviation**2).item()
    square = (c.square().mean() * mean.square().mean()).item()
    measured = {}
    for perturb, size in (("activities", units), ("weights", inputs * units)):
        for count in counts:
            layer, found = nn.Linear(inputs, units, bias=False).double(), []
            rule = ForwardGradient(layer, lambda z, _: z @ c, perturb=perturb)
            for _ in range(500):
                x = mean + deviation * torch.randn(count, inputs).double()
                rule.zero_grad()
                rule.backward(x, x)
                found.append(layer.weight.grad.clone())
            variance = torch.stack(found).var(dim=0).mean().item()
            stays = square * (size + 1) / (count if perturb == "activities" else 1)
            assert variance == pytest.approx((size + 2) * between / count + stays, rel=0.3), (perturb, count)
            measured[perturb, count] = variance
    slope = {
        perturb: np.polyfit(np.log(counts), np.log([measured[perturb, count] for count in counts]), 1)[0]
        for perturb in ("activities", "weights")
    }
    assert slope["activities"] == pytest.approx(-1, abs=0.15)
    assert -0.5 < slope["weights"] < 0


def test_units_that_a_relu_switches_off_hear_no_noise():
    """Their gradient is zero and so is their estimate; the others' varies less, and stays right on average."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)).double()
    x, y = torch.randn(1, 6).double(), torch.tensor([1])
    off = [network[:place](x)[0] <= 0 for place in (1, 3)]
    assert all(0 < part.sum() < 24 for part in off)
    true = true_gradient(network, x, y)
    drawn = {}
    for relu in (nn.ReLU, type("Other", (nn.ReLU,), {})):  # whose kind tells nothing of where it is zero
        network[1], network[3] = relu(), relu()
        rule, estimates = ForwardGradient(network), []
        for _ in range(300):
            rule.zero_grad()
            rule.backward(x, y)
            estimates.append(gradient_of(rule))
            if relu is nn.ReLU:
                assert not any(network[layer].bias.grad[part].any() for layer, part in zip((0, 2), off, strict=True))
        drawn[relu] = torch.stack(estimates)
    along = drawn[nn.ReLU] @ true / true.square().sum()
    assert (along.mean() - 1).abs() < 5 * along.std() / len(along) ** 0.5
    masked, plain = (each.var(dim=0).sum() for each in drawn.values())
    assert masked < 0.7 * plain


def test_a_layer_that_is_used_elsewhere_too_is_not_gated():
    """Behind its other use there is no ReLU: the estimate has to stay unbiased."""
    shared = nn.Linear(4, 4).double()

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared, nn.Tanh())

        def forward(self, x):
            return self.second(self.first(x))

    assert len(layers_into_relu(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))) == 1
    assert not layers_into_relu(Twice())
    relu, tanh, other = nn.ReLU(), nn.Tanh(), nn.Linear(4, 4).double()
    assert not layers_into_relu(nn.Sequential(shared, relu, shared))
    assert not layers_into_relu(nn.Sequential(tanh, shared, tanh, relu))
    assert layers_into_relu(nn.Sequential(shared, relu, other, relu)) == {shared, other}


def test_each_sample_has_a_signal_of_its_own():
    """What one sample adds does not depend on the labels of the others, given the noise."""
    network, x, y = make("perceptron")
    found = []
    for labels in (y, torch.cat([y[:1], 1 - y[1:]])):
        rule = ForwardGradient(network)
        rule.zero_grad()
        torch.manual_seed(5)
        with torch.no_grad():
            kept = x.clone()
            kept[1:] = 0.0  # the first layer's weight sees the first sample alone
        rule.backward(kept, labels)
        found.append(network[0].weight.grad.clone())
    torch.testing.assert_close(*found)


def test_no_reverse_graph_stands():
    network, x, y = make("perceptron")
    assert peak_saved_bytes(lambda: ForwardGradient(network, perturb="weights").backward(x, y), network) == 0
    deep = [nn.Sequential(*[layer for _ in range(n) for layer in (nn.Linear(3, 3), nn.Tanh())]) for n in (3, 12)]
    saved = [peak_saved_bytes(lambda net=net: ForwardGradient(net).backward(x.float(), y), net) for net in deep]
    assert saved[0] == saved[1]


def test_more_directions_are_averaged():
    network, x, y = make("perceptron")
    for perturb in ("activities", "weights"):
        spread = []
        for directions in (1, 8):
            rule = ForwardGradient(network, perturb=perturb, directions=directions)
            torch.manual_seed(2)
            found = []
            for _ in range(120):
                rule.zero_grad()
                rule.backward(x, y)
                found.append(gradient_of(rule))
            spread.append(torch.stack(found).var(dim=0).sum())
        assert (spread[0] / spread[1]).item() == pytest.approx(8, rel=0.4)


def test_dropout_has_one_mask_for_all_directions_and_statistics_move_once():
    torch.manual_seed(0)
    seen = []
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    dropout = network[2]  # not in evaluation mode, as where a first batch is looked at

    def note(module, args, out):
        if module.training:
            seen.append((out == 0) & (args[0] != 0))

    dropout.register_forward_hook(note)
    x, y = torch.randn(6, 3), torch.arange(6) % 2
    for perturb in ("activities", "weights"):
        seen.clear()
        ForwardGradient(network, perturb=perturb, directions=3).backward(x, y)
        assert len(seen) == 3
        assert all(torch.equal(mask, seen[0]) for mask in seen)
        assert seen[0].any()
    assert network[1].num_batches_tracked == 2


def test_cells_in_a_loop_are_taught_and_whole_recurrences_refused():
    torch.manual_seed(0)
    network, x, y = Recurrent(), torch.randn(4, 3, 3), torch.tensor([0, 1, 0, 1])
    rule = ForwardGradient(network, perturb="weights")
    rule.backward(x, y)
    assert all(p.grad is not None for p in network.parameters())
    with pytest.raises(UnsupportedNetworkError, match=r"layer 0 \(LSTM\)"):
        ForwardGradient(nn.Sequential(nn.LSTM(3, 4)))


class Scaled(nn.Module):
    """Holds a parameter itself, beside a layer."""

    def __init__(self):
        super().__init__()
        self.scale, self.read = nn.Parameter(torch.ones(3)), nn.Linear(3, 2)

    def forward(self, x):
        return self.read(x * self.scale)


def test_a_parameter_that_no_layers_noise_would_teach_is_refused_by_name():
    network = Scaled()
    with pytest.raises(UnsupportedNetworkError, match=r'parameter scale belongs to no innermost layer.*"weights"'):
        ForwardGradient(network)
    ForwardGradient(network, perturb="weights").backward(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    assert network.scale.grad is not None
    network.scale.requires_grad_(False)
    ForwardGradient(network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perturb": "inputs"}, "perturb must be"),
        ({"directions": 0}, "directions"),
        ({"perturb": "weights", "orthogonal": True, "directions": 99}, "no 99 orthogonal"),
    ],
)
def test_what_is_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        ForwardGradient(make("perceptron")[0], **options)


def test_nan_is_told_and_nothing_is_added():
    network, x, y = make("perceptron")
    x[1, 2] = torch.nan
    for perturb in ("activities", "weights"):
        with pytest.raises(NonFiniteError, match="the input"):
            ForwardGradient(network, perturb=perturb).backward(x, y)
    assert all(p.grad is None for p in network.parameters())
    with pytest.raises(UserError, match="one number a sample"):
        ForwardGradient(network, lambda z, _: z).backward(x.nan_to_num(), y)


class Reader(nn.Module):
    """torch's own LSTM over the rows, which forward mode passes without its fused kernel."""

    def __init__(self):
        super().__init__()
        self.lstm, self.read = nn.LSTM(2, 2, batch_first=True), nn.Linear(2, 2)

    def forward(self, x):
        return self.read(self.lstm(x)[0][:, -1])


def test_weights_of_an_lstm_by_all_directions_give_its_gradient():
    torch.manual_seed(0)
    fused = torch._C._get_mkldnn_enabled()
    network, x, y = Reader().double(), torch.randn(3, 4, 2).double(), torch.tensor([0, 1, 1])
    count = sum(p.numel() for p in network.parameters())
    ForwardGradient(network, perturb="weights", directions=count, orthogonal=True).backward(x, y)
    assert torch._C._get_mkldnn_enabled() == fused  # or all later convolutions would be slow
    expected = torch.autograd.grad(nn.functional.cross_entropy(network(x), y), list(network.parameters()))
    for p, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


@pytest.mark.parametrize("perturb", ["weights", "activities"])
def test_no_product_is_made_that_is_zero(perturb):
    """Each layer's own product; that of its tangent, but in the first, whose input does not move; and its gradient."""
    widths, batch = (7, 5, 6, 3), 4
    network = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    rule, x, y = ForwardGradient(network, perturb=perturb), torch.randn(batch, 7), torch.tensor([0, 1, 2, 0])
    rule.backward(x, y)  # a first batch is looked at besides
    with FlopCounterMode(display=False) as counter:
        rule.backward(x, y)
    products = [2 * batch * i * o for i, o in itertools.pairwise(widths)]
    assert counter.get_total_flops() == 3 * sum(products) - products[0]


class TimeFirst(nn.Module):
    """Its first layer sees (time, batch, ...)."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(self.first(x.transpose(0, 1)).mean(dim=0))


def test_a_dimension_as_long_as_the_batch_is_not_taken_for_it():
    """Four steps of four examples: a step's noise is credited with the whole loss, as where the loss is one number."""
    x, y, network = torch.randn(4, 4, 2), torch.tensor([0, 1, 0, 1]), TimeFirst()
    found = []
    for loss in (None, nn.CrossEntropyLoss()):
        network.zero_grad()
        torch.manual_seed(5)
        ForwardGradient(network, loss).backward(x, y)
        found.append((network.first.weight.grad, network.last.weight.grad))
    assert torch.allclose(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])  # the batch comes first there
