"""Cutting a network into blocks, and that nothing passes from one to another."""

import pytest
import torch
from torch import nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.measure.memory import peak_saved_bytes
from beyondprop.rules.local.blockwise import block_starts, cut
from beyondprop.rules.local.cascaded_feedback import CascadedForwardDFA
from beyondprop.rules.local.class_channels import ClassChannels
from beyondprop.rules.local.forward_forward import ForwardForward
from beyondprop.rules.local.local_losses import LocalLosses
from beyondprop.rules.local.mono_forward import MonoForward
from beyondprop.rules.local.predsim import PredSim
from beyondprop.rules.local.symba import SymBa

CLASSIFYING = [MonoForward, PredSim, ClassChannels]
BY_GOODNESS = [ForwardForward, SymBa]


def perceptron(depth=3, width=12, classes=3):
    torch.manual_seed(1)
    layers = [nn.Linear(10, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, classes)).double()


def batch(count=7, classes=3):
    torch.manual_seed(2)
    return torch.randn(count, 10).double(), torch.arange(count) % classes


def make(rule_class, network=None, **options):
    network = network or perceptron()
    return rule_class.for_classifier(network, batch()[0], 3, **options)


def weights(block):
    return [p for p in block.parameters() if p.requires_grad]


def test_blocks_begin_at_layers_and_take_what_follows_along():
    conv = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.MaxPool2d(2), nn.Dropout()]
    residual = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    network = nn.Sequential(nn.Dropout(), *conv, nn.Flatten(), nn.Linear(4, 4), nn.GroupNorm(2, 4), residual, nn.ReLU())
    assert block_starts(network) == [0, 6, 9]
    assert [len(block) for block in cut(network, [0, 6, 9])] == [6, 3, 2]


@pytest.mark.parametrize("starts", [[], [1, 2], [0, 2, 2], [0, 3, 1], [0, 7]])
def test_wrong_positions_are_refused(starts):
    with pytest.raises(UserError, match="rising positions"):
        cut(perceptron(), starts)


def test_a_block_without_parameters_is_refused():
    with pytest.raises(UserError, match=r"block 2 has no parameters"):
        MonoForward(perceptron(), batch()[0], 3, blocks=[0, 1, 2])


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.inner(x)


def test_what_is_no_sequence_is_refused_by_name():
    with pytest.raises(UnsupportedNetworkError, match=r"MonoForward cuts an nn\.Sequential.*Residual"):
        MonoForward(Residual(), torch.zeros(2, 4), 4)
    with pytest.raises(UnsupportedNetworkError, match="nothing to train"):
        MonoForward(nn.Sequential(nn.ReLU()), torch.zeros(2, 4), 4)
    shared = nn.Linear(4, 4)
    with pytest.raises(UnsupportedNetworkError, match=r"block 1 and block 2 share the parameter 0\.weight"):
        PredSim(nn.Sequential(shared, nn.ReLU(), shared), torch.zeros(2, 4), 4)


@pytest.mark.parametrize("rule_class", [MonoForward, ForwardForward, CascadedForwardDFA])
def test_hooks_that_would_not_run_are_refused(rule_class):
    network = perceptron()
    network.register_forward_pre_hook(lambda _, inputs: inputs)
    with pytest.raises(UnsupportedNetworkError, match="without the network's own hooks"):
        make(rule_class, network)


@pytest.mark.parametrize("blocks", [3, [0.0, 2.0], "024"])
def test_blocks_of_another_kind_are_refused(blocks):
    with pytest.raises(UserError, match="blocks must be a list of children's positions"):
        MonoForward(perceptron(), batch()[0], 3, blocks=blocks)


def test_a_network_of_ones_own_modules_is_cut_between_them():
    network = nn.Sequential(Residual(), nn.ReLU(), Residual(), nn.ReLU(), nn.Linear(4, 3))
    rule = PredSim(network, torch.zeros(2, 4), 3)
    rule.backward(torch.randn(6, 4), torch.arange(6) % 3)
    assert len(rule.blocks) == 3
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("rule_class", [*CLASSIFYING, *BY_GOODNESS])
def test_no_gradient_crosses_blocks(rule_class):
    """What a block learns does not depend on what stands behind it."""
    x, y = batch()
    found = []
    for scale in (1.0, 5.0):
        rule = make(rule_class)
        with torch.no_grad():
            for p in rule.blocks[-1].parameters():
                p.mul_(scale)
        torch.manual_seed(3)
        rule.backward(x, y)
        found.append([[p.grad for p in weights(block)] for block in rule.blocks])
    for before, after in zip(found[0][:-1], found[1][:-1], strict=True):
        for a, b in zip(before, after, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert any(not torch.equal(a, b) for a, b in zip(found[0][-1], found[1][-1], strict=True))


@pytest.mark.parametrize("rule_class", [*CLASSIFYING, *BY_GOODNESS])
def test_each_block_descends_its_own_loss(rule_class):
    """Finite differences of the returned sum, whose other terms do not change with the last block's weights."""
    x, y = batch()
    rule = make(rule_class)
    torch.manual_seed(3)
    rule.backward(x, y)
    weight = weights(rule.blocks[-1])[0]
    gradient = weight.grad.clone()
    for place in [(0, 0), (1, 3), (2, 5)]:
        values = []
        for change in (1e-5, -1e-5):
            with torch.no_grad():
                weight[place] += change
            torch.manual_seed(3)
            values.append(rule.backward(x, y).item())
            with torch.no_grad():
                weight[place] -= change
        assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("rule_class", [*CLASSIFYING, *BY_GOODNESS])
def test_memory_for_backward_is_constant_in_depth(rule_class):
    """What is saved for backward at any one time is one block's."""
    x, y = batch(64)
    peaks = []
    for depth in (3, 12):
        rule = make(rule_class, perceptron(depth, width=40))
        peaks.append(peak_saved_bytes(lambda rule=rule: rule.backward(x, y), rule))
    assert peaks[1] <= 1.01 * peaks[0]


@pytest.mark.parametrize("rule_class", [*CLASSIFYING, *BY_GOODNESS])
def test_one_by_one_trains_one_block_at_a_stage(rule_class):
    x, y = batch()
    rule = make(rule_class, order="one-by-one")
    assert rule.stages == tuple(f"block {k + 1}" for k in range(len(rule.blocks)))
    assert rule.stage_span == "training"
    for number, stage in enumerate(rule.stages):
        rule.zero_grad()
        rule.stage = stage
        rule.backward(x, y)
        for k, block in enumerate(rule.blocks):
            assert all((p.grad is not None) == (k == number) for p in weights(block))


def test_blocks_that_are_done_neither_drop_nor_move_their_statistics():
    network = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    seen = []
    network[4].register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    rule = PredSim(network, batch()[0].float(), 3, order="one-by-one")
    seen.clear()
    rule.stage = "block 2"
    x, y = batch()
    for _ in range(2):
        rule.backward(x.float(), y)
    assert torch.equal(*seen)
    assert network[1].num_batches_tracked == 0
    assert network[1].training
    assert network[3].training


def test_any_loss_can_be_a_blocks_objective():
    """A user's function or module; the output layer has the user's loss."""
    x, y = batch()

    class Spread(nn.Module):
        def __init__(self, shape, classes):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(shape[0], classes))

        def forward(self, h, y):
            return ((h @ self.weight).gather(1, y[:, None])).mean()

    rule = LocalLosses(perceptron(), x, 3, objective=Spread, loss=lambda scores, y: scores.square().mean())
    loss = rule.backward(x, y)
    h1 = torch.relu(rule.network[0](x))
    h2 = torch.relu(rule.network[2](h1))
    h3 = torch.relu(rule.network[4](h2))
    expected = sum(h.sum(dim=1).mean() for h in (h1, h2, h3)) + rule.network[6](h3).square().mean()
    torch.testing.assert_close(loss, expected.detach())
    assert [group["name"] for group in rule.parameter_groups()] == ["network", "local losses"]
    torch.testing.assert_close(rule.objectives[0].weight.grad[:, 0], h1[y == 0].sum(dim=0) / len(x))
    plain = LocalLosses(perceptron(), x, 3, objective=lambda _shape, _classes: lambda h, _y: h.mean())
    plain.backward(x, y)
    torch.testing.assert_close(plain.network[0].bias.grad, (h1 > 0).double().sum(dim=0) / h1.numel())


def test_the_error_names_the_block():
    rule = make(MonoForward)
    with torch.no_grad():
        rule.network[2].weight.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="block 2"):
        rule.backward(*batch())


def test_the_network_predicts_what_it_is():
    x, _ = batch()
    for rule_class in CLASSIFYING:
        rule = make(rule_class)
        torch.testing.assert_close(rule(x), rule.network(x))


def test_direct_feedback_crosses_no_block_either():
    x, y = batch()
    rule = make(CascadedForwardDFA)
    rule.backward(x, y)
    gradient = rule.network[0].weight.grad.clone()
    h1 = torch.relu(rule.network[0](x)).detach()
    h2 = torch.relu(rule.network[2](h1))
    error = torch.softmax(rule.auxiliary(torch.relu(rule.network[4](h2))), dim=1)
    error = (error - nn.functional.one_hot(y, 3)) / len(y)
    signal = (error @ rule.feedback_0) * (h1 > 0)
    torch.testing.assert_close(gradient, signal.T @ x)


def test_a_layer_that_is_replaced_is_the_one_that_learns():
    x, y = batch()
    rule = make(MonoForward)
    old = rule.network[2]
    rule.network[2] = nn.Linear(12, 12).double()
    rule.backward(x, y)
    assert rule.network[2].weight.grad is not None
    assert old.weight.grad is None


def test_the_first_layers_keep_nothing_while_later_ones_learn():
    x, y = batch(256)
    network = nn.Sequential(nn.Linear(10, 400), nn.ReLU(), nn.Linear(400, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    for rule_class in (ForwardForward, PredSim):
        rule = make(rule_class, network, order="one-by-one")
        saved = []
        for stage in rule.stages[:2]:
            rule.stage = stage
            saved.append(peak_saved_bytes(lambda rule=rule: rule.backward(x, y), rule))
        assert saved[1] < 1.5 * 2 * 256 * 400 * 8  # the input of the second block, for both passes at most


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(2, 9).double(), r"example of shape \(2, 9\)"),
        ([[0.0] * 10], "example must be a tensor"),
        (torch.zeros(2, 10), r"example of shape .*float32"),
    ],
)
@pytest.mark.parametrize("rule_class", [PredSim, SymBa, CascadedForwardDFA])
def test_a_wrong_example_is_told_in_one_line(rule_class, example, message):
    with pytest.raises(UserError, match=message):
        rule_class.for_classifier(perceptron(), example, 3)


def test_a_network_without_its_output_layer_is_no_classifier():
    with pytest.raises(UserError, match=r"gives \(12,\) numbers a sample, and classes is 3"):
        PredSim(perceptron()[:-1], batch()[0], 3)


def _hidden_head(shape, classes):
    head = nn.Linear(shape.numel(), classes).double()
    return lambda h, y: nn.functional.cross_entropy(head(h), y)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda _shape, _classes: lambda h, _y: h.detach().mean(), "block 1 does not depend on its output"),
        (lambda _shape, _classes: lambda h, _y: h.mean(dim=1), r"block 1 must give a scalar.*shape \(7,\)"),
        (lambda _shape, _classes: lambda _h, _y: 1.0, "block 1 must give a scalar.*float"),
        (lambda _shape, _classes: None, "objective must make a local loss.*NoneType"),
        (_hidden_head, "a function with a Linear in it"),
        (lambda _shape, _classes: nn.Flatten().double().forward, "a function with a Flatten in it"),
    ],
)
def test_objectives_that_teach_nothing_are_refused(objective, message):
    x, y = batch()
    with pytest.raises(UserError, match=message):
        LocalLosses(perceptron(), x, 3, objective=objective).backward(x, y)
