"""The mechanism of targets against differentiating unit by unit, and feedback networks against adjoints."""

import copy
import itertools
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.catalogue import find_system
from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.networks.residual import residual_encoder
from beyondprop.rules.signals.chain import Chain
from beyondprop.rules.signals.direct_target_propagation import DDTP
from beyondprop.rules.signals.l_drl import LDRL
from beyondprop.rules.signals.mirrors import Mirror, mirror_objection, mirrors
from beyondprop.rules.signals.target_propagation import DTP
from beyondprop.rules.signals.targets import TargetRule


def perceptron(*widths):
    torch.manual_seed(0)
    layers = [nn.Linear(widths[0], widths[1])]
    for before, after in itertools.pairwise(widths[1:]):
        layers += [nn.Tanh(), nn.Linear(before, after)]
    return nn.Sequential(*layers).double()


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(24, 5),
        nn.PReLU(),
        nn.Linear(5, 3),
    ).double()


def batch(*shape, classes=3):
    torch.manual_seed(1)
    return torch.randn(*shape, dtype=torch.float64), torch.arange(shape[0]) % classes


class Transposed(TargetRule):
    """Targets by the transposed Jacobian of all that follows, from autograd."""

    def steps(self, clean, output):
        found = []
        for index in range(len(clean) - 1):
            with torch.enable_grad():
                h = clean.value(index).requires_grad_()
                (step,) = torch.autograd.grad(clean.onwards({index: h})[index], h, output)
            found.append(step)
        return found


class Given(TargetRule):
    """Targets that a test makes."""

    def steps(self, clean, output):
        return [target - value for target, value in zip(self.given, clean.values, strict=False)]


def test_by_the_transposed_jacobian_it_is_back_propagation():
    """A network without batch statistics; its dropout and pools are those of the same pass."""
    torch.manual_seed(0)
    network = convolutional()
    network[1].eval()
    x, y = batch(7, 2, 8, 8)
    rule = Transposed(network, x, target_step=0.3)
    torch.manual_seed(5)
    loss = rule.backward(x, y)
    ours = [p.grad.clone() for p in network.parameters()]
    torch.manual_seed(5)
    expected = F.cross_entropy(network(x), y)
    torch.testing.assert_close(loss, expected.detach())
    for mine, theirs in zip(ours, torch.autograd.grad(expected, list(network.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_each_unit_learns_from_its_own_distance(reduction):
    """The gradient of sum_i |h_i - t_i|^2 / (2 eta N), unit by unit, with what comes in held fixed."""
    torch.manual_seed(0)
    network, (x, y) = perceptron(4, 6, 5, 3), batch(8, 4)
    rule = Given(network, x, nn.CrossEntropyLoss(reduction=reduction), target_step=0.2)
    rule.given = [torch.randn(8, 6).double(), torch.randn(8, 5).double()]
    rule.backward(x, y)
    h1 = torch.tanh(network[0](x))
    h2 = torch.tanh(network[2](h1.detach()))
    for layer, h, target in ((network[0], h1, rule.given[0]), (network[2], h2, rule.given[1])):
        local = (h - target).square().sum() / (2 * 0.2 * (8 if reduction == "mean" else 1))
        for mine, theirs in zip(layer.parameters(), torch.autograd.grad(local, list(layer.parameters())), strict=True):
            torch.testing.assert_close(mine.grad, theirs)
    top = F.cross_entropy(network[4](h2.detach()), y, reduction=reduction)
    torch.testing.assert_close(network[4].weight.grad, torch.autograd.grad(top, network[4].weight)[0])


def test_targets_by_name_move_nothing():
    torch.manual_seed(0)
    network, (x, y) = convolutional(), batch(6, 2, 8, 8)
    rule = Transposed(network, x, target_step=0.5)
    before = copy.deepcopy(network.state_dict())
    found = rule.targets(x, y)
    assert list(found) == ["0", "4", "8", "10"]
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    assert all(p.grad is None for p in network.parameters())
    network.eval()
    scores = network(x).detach()
    error = (torch.softmax(scores, 1) - F.one_hot(y, 3)).double()  # of each sample's own loss
    torch.testing.assert_close(rule.targets(x, y)["10"], scores - 0.5 * error)


def test_a_unit_evaluated_again_drops_and_normalises_as_before():
    torch.manual_seed(0)
    network, (x, _) = convolutional(), batch(6, 2, 8, 8)
    clean = Chain(network, x).run(x)
    for index in range(1, 4):
        twice = torch.cat([clean.values[index - 1]] * 2)
        torch.testing.assert_close(clean.again(index, twice), torch.cat([clean.values[index]] * 2))
    # The first sample alone is changed: batch norm and dropout leave all others as they were.
    changed = x.clone()
    changed[0] += 1
    torch.testing.assert_close(clean.again(0, changed)[1:], clean.values[0][1:])
    assert network[1].num_batches_tracked == 1


def test_statistics_of_a_batch_norm_under_bfloat16_are_of_full_precision():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    network[0].bias.data += 5
    x = torch.randn(33, 4)
    for training in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            clean = Chain(network, x).run(x, training=training)
            before = network[0](x)
        assert before.dtype == torch.bfloat16
        variance, mean = clean.kept[0][1].value
        assert variance.dtype == mean.dtype == torch.float32
        torch.testing.assert_close(mean.double(), before.double().mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(variance.double(), before.double().var(0, correction=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_an_instance_norm_computes_as_the_network_does(tracked, mode):
    torch.manual_seed(0)
    norm = nn.InstanceNorm1d(4, affine=True, track_running_stats=tracked)
    network = nn.Sequential(nn.Conv1d(2, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).double()
    x = 2 + torch.randn(5, 2, 6, dtype=torch.float64)
    network(x)  # running statistics that differ from an instance's
    getattr(network, mode)()
    before = copy.deepcopy(network.state_dict())
    clean = Chain(network, x).run(x, training=False)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    torch.testing.assert_close(clean.again(0, x), clean.values[0])
    torch.testing.assert_close(clean.values[-1], network(x).detach())


def test_outputs_of_other_activations_do_not_mix():
    """Each start by a plain evaluation of what follows it."""
    torch.manual_seed(0)
    network, (x, _) = convolutional().eval(), batch(6, 2, 8, 8)
    clean = Chain(network, x).run(x)
    starts = {index: value + torch.randn_like(value) for index, value in enumerate(clean.values[:-1])}
    tails = {0: network[4:], 1: network[8:], 2: network[10:]}
    for index, output in clean.onwards(starts).items():
        torch.testing.assert_close(output, tails[index](starts[index]))
    torch.testing.assert_close(clean.onwards({1: starts[1]})[1], tails[1](starts[1]))


class Written(nn.Module):
    """Children in a chain, by a forward of its own."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.first = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.second = nn.Linear(6, 6)

    def forward(self, x):
        h = self.first(x)
        if self.way == "chain":
            return self.second(h)
        if self.way == "function":
            return self.second(torch.relu(h))
        if self.way == "residual":
            return h + self.second(h)
        return self.second(h) if h.sum() > 0 else h


def test_a_module_that_runs_its_children_is_a_chain():
    chain = Chain(Written("chain"), torch.zeros(2, 4))
    assert [unit.name for unit in chain.units] == ["first.0", "second"]
    assert chain.shapes == [(6,), (6,)]


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (Written("function"), "Written computes relu between its modules"),
        (
            nn.Sequential(Written("residual"), nn.Linear(6, 3)),
            r"branch or meet in 0 \(Written\), where it computes add",
        ),
        (Written("branch"), "the forward of Written does more than call one module"),
        (nn.Sequential(nn.Tanh()), "no layer with weights"),
        (nn.Sequential(nn.Linear(3, 3), nn.RReLU()), r"1 \(RReLU\) draws random numbers"),
        (nn.Sequential(*[nn.Linear(3, 3)] * 2), "layer 0 is used twice"),
    ],
    ids=["function", "residual", "branch", "empty", "random", "twice"],
)
def test_what_is_no_chain_is_refused_by_name(network, told):
    assert Chain.objection(network) is not None
    with pytest.raises(UnsupportedNetworkError, match=told):
        Chain(network, torch.zeros(2, 4))


class Attending(nn.Module):
    """Attention of a sequence to itself, and a layer."""

    def __init__(self):
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.attention(x, x, x)[0])


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (nn.Sequential(residual_encoder(1, width=4), nn.Linear(16, 3)), r"branch or meet in 0\.4 \(ResidualBlock\)"),
        (
            nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Linear(4, 3)),
            r"the forward of 1 \(TransformerEncoderLayer\)",
        ),
        (Attending(), "branch or meet in Attending, at attention"),
    ],
    ids=["residual", "transformer", "attention"],
)
@pytest.mark.parametrize("kind", [DTP, DDTP, LDRL])
def test_a_network_that_branches_is_told_which_rules_can_train_it(network, told, kind):
    """In one line without torch's own words; and they can."""
    reason = kind.supports(network)
    assert re.search(told, reason)
    assert reason.endswith("rules that need no chain are dfa and gauss-newton, and tp-ri for a recurrent layer")
    assert "\n" not in reason
    assert not any(word in reason for word in ("Sequential", "symbolic", "NestedTensor", "must be"))
    assert all(find_system(name).load().supports(network) is None for name in ("dfa", "gauss-newton"))


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.LSTM(6, 3), "gives no tensor but tuple"),
        (nn.Sequential(nn.Linear(6, 3), nn.Flatten(0)), "the batch must come first"),
    ],
)
def test_units_without_a_batch_are_refused(layer, told):
    with pytest.raises(UnsupportedNetworkError, match=told):
        Chain(nn.Sequential(nn.Linear(4, 6), layer), torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (nn.Sequential(nn.Linear(4, 6), nn.Bilinear(6, 6, 3)), r"layer 1 \(Bilinear\) has no mirror"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding="same")), "padding='same'"),
        (nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3), nn.Upsample(2)), "Upsample behind layer 1 has no mirror"),
    ],
)
def test_units_without_a_mirror_are_refused_by_name(network, told):
    with pytest.raises(UnsupportedNetworkError, match=told):
        DTP(network, torch.zeros(2, 4))
    assert mirror_objection(network) is not None


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_that_is_not_zero_has_no_mirror(mode):
    def padded(place):
        modes = ["zeros", "zeros"]
        modes[place] = mode
        layers = [nn.Conv1d(2, 2, 3, padding=1, padding_mode=each) for each in modes]
        return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Flatten(), nn.Linear(8, 3))

    with pytest.raises(UnsupportedNetworkError, match=f"layer 2 has padding_mode='{mode}'"):
        DTP(padded(1), torch.zeros(2, 2, 4))
    DTP(padded(0), torch.zeros(2, 2, 4))  # of the first unit there is no mirror


def test_target_step_must_be_positive():
    with pytest.raises(UserError, match="target_step must be a number above 0"):
        Transposed(perceptron(4, 3), torch.zeros(1, 4).double(), target_step=0.0)


CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False),
    nn.Conv2d(4, 6, 5, padding=2, dilation=2, bias=False),
    nn.Conv2d(4, 6, (3, 1), stride=(3, 2), bias=False),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=["strided, grouped", "dilated", "oblong"])
def test_with_the_layers_own_weights_a_mirror_is_its_adjoint(layer):
    """<f(x), y> = <x, g(y)> for all x and y."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 1), layer).double()
    x, _ = batch(3, 2, 9, 8)
    chain = Chain(network, x)
    mirror = Mirror(chain, 1)
    mirror.layer.weight.data = layer.weight.data.clone()
    clean = chain.run(x)
    y = torch.randn_like(clean.values[1])
    torch.testing.assert_close((clean.values[1] * y).sum(), (clean.values[0] * mirror(y, clean.kept[1])).sum())


def test_pools_and_shapes_are_mirrored():
    """Max-pooling puts numbers back where the batch's own maxima were, whatever the numbers are now."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    ).double()
    x, _ = batch(3, 2, 8, 8)
    chain = Chain(network, x)
    mirror = mirrors(chain)[0]
    nn.init.dirac_(mirror.layer.weight)
    clean = chain.run(x)
    y = torch.randn(6, 12).double()  # two batches after one another
    spread = y.view(6, 3, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    before = network[1](clean.values[0])
    maximum = before == F.max_pool2d(before, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = maximum.repeat(2, 1, 1, 1) * spread.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(mirror(y, clean.kept[1]), expected)


def test_activations_of_mirrors():
    """Outside: that of the unit below, last. Inside: the unit's own, before the layer."""
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    x = torch.randn(2, 4)
    chain = Chain(network.double(), x.double())
    clean = chain.run(x.double())
    y = torch.randn(2, 5).double()
    outside, inside = Mirror(chain, 1), Mirror(chain, 1, "inside")
    torch.testing.assert_close(outside(y, clean.kept[1]), torch.tanh(outside.layer(y)))
    kept = y.clone()
    torch.testing.assert_close(inside(y, clean.kept[1]), inside.layer(torch.relu(y)))
    assert torch.equal(y, kept)
