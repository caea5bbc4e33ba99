"""What Forward-Forward trains and sees, block by block: stages, patterns, peers, the readout, the scan's short cut."""

import itertools
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.rules.local.forward_forward import ForwardForward
from beyondprop.rules.local.label_input import ClassPattern, Overlay
from beyondprop.rules.local.symba import SymBa

CLASSES = 4
THETA = 6.0  # of a sum over six units


def layers(inputs=12, depth=4, width=6):
    torch.manual_seed(0)
    sizes = [inputs, *[width] * depth]
    made = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*made).double()


def batch(count=9):
    torch.manual_seed(1)
    return torch.randn(count, 12).double(), torch.arange(count) % CLASSES


def direction(h):
    return h / h.square().mean(dim=1, keepdim=True).sqrt()


def marked(x, y):
    return Overlay(CLASSES)(x, y)


def of_formula(rule, x, y, wrong):
    """Every block's gradients, from inputs that the blocks before it are differentiated by no more."""
    found, entering = [], [marked(x, y), marked(x, wrong)]
    for layer in (module for module in rule.network if isinstance(module, nn.Linear)):
        made = [torch.relu(layer(direction(h.detach()))) for h in entering]
        plus, minus = (h.square().sum(dim=1) for h in made)
        loss = (F.softplus(THETA - plus) + F.softplus(minus - THETA)).mean()
        found.append(torch.autograd.grad(loss, list(layer.parameters())))
        entering = made
    return found


@pytest.mark.parametrize("order", ["together", "one-by-one"])
def test_every_block_of_four_has_the_formulas_gradients(order):
    """Also where blocks that are done stand before it, and what enters it is a direction still."""
    x, y = batch()
    rule = ForwardForward(layers(), x, CLASSES, order=order)
    for number, stage in enumerate(rule.stages):
        rule.zero_grad()
        rule.stage = stage
        torch.manual_seed(5)
        rule.backward(x, y)
        torch.manual_seed(5)
        wanted = of_formula(rule, x, y, rule.wrong_labels(x, y))
        for k, block in enumerate(rule.blocks):
            trained = order == "together" or k == number
            for parameter, gradient in zip(block.parameters(), wanted[k], strict=True):
                if trained:
                    torch.testing.assert_close(parameter.grad, gradient)
                else:
                    assert parameter.grad is None


def test_patterns_and_the_readout_are_handed_to_the_optimizer():
    x, y = batch()
    label = ClassPattern(CLASSES, (12,), learned=True)
    rule = SymBa(layers(24, depth=2), x, CLASSES, label=label, readout="softmax")
    assert [group["name"] for group in rule.parameter_groups()] == ["network", "label", "readout"]
    before = {name: p.clone() for name, p in rule.named_parameters()}
    optimizer = torch.optim.SGD(rule.parameter_groups(), lr=0.1)
    rule.backward(x, y)
    optimizer.step()
    assert [name for name, p in rule.named_parameters() if torch.equal(p, before[name])] == []


def test_peer_normalisation_remembers_and_is_differentiated():
    """Two steps without an update between: the moving average, and the second step's gradient."""
    x, y = batch()
    rule = ForwardForward(layers(depth=1), x, CLASSES, peer=0.5)
    plain = ForwardForward(layers(depth=1), x, CLASSES)
    layer = rule.network[0]
    activity = torch.relu(layer(direction(marked(x, y)))).mean(dim=0)
    rule.backward(x, y)
    rule.zero_grad()
    for each in (rule, plain):
        torch.manual_seed(3)
        each.backward(x, y)
    average = 0.9 * (0.1 * activity.detach()) + 0.1 * activity
    unequal = (average.mean() - average).square().mean()
    torch.testing.assert_close(rule.activity_0, average.detach())
    (wanted,) = torch.autograd.grad(0.5 * unequal, layer.weight)
    assert wanted.abs().max() > 1e-6
    torch.testing.assert_close(layer.weight.grad - plain.network[0].weight.grad, wanted, atol=1e-12, rtol=1e-6)


def test_the_one_pass_readout_sees_an_input_that_names_no_class():
    x, _ = batch()
    rule = ForwardForward(layers(depth=3), x, CLASSES, readout="softmax")
    with torch.no_grad():
        rule.classifier.weight.normal_()
    h, seen = x.clone(), []
    h[:, :CLASSES] = 1 / CLASSES
    for layer in (rule.network[0], rule.network[2], rule.network[4]):
        h = torch.relu(layer(direction(h)))
        seen.append(direction(h))
    torch.testing.assert_close(rule(x), rule.classifier(torch.cat(seen[1:], dim=1)))


def test_goodness_keeps_its_digits_under_autocast():
    """Squares are added up in float32, of which bfloat16 has two digits."""
    x, _ = batch()
    rule = ForwardForward(layers(depth=1, width=400).float(), x.float(), CLASSES, skip_first=False)
    h = torch.rand(5, 400).bfloat16()
    assert rule.measure(h).dtype == torch.float32
    torch.testing.assert_close(rule.measure(h), h.float().square().sum(dim=1))


class Doubled(Overlay):
    def forward(self, x, y):
        return 2 * super().forward(x, y) + 1.0

    def neutral(self, x):
        return 2 * super().neutral(x) + 1.0


class Shifted(nn.Linear):
    def forward(self, x):
        return super().forward(x).cumsum(dim=0)


def test_the_scans_short_cut_is_left_to_those_it_fits():
    """One product serves all classes only of a plain linear layer that reads all of the input, and of the overlay."""
    x = torch.randn(3, 1, 3, 4).double()
    plain = layers()[0]
    hooked = layers()[0]
    hooked.register_forward_pre_hook(lambda _, inputs: (inputs[0].cumsum(dim=0),))  # what stands before a sample counts
    shifted = Shifted(12, 6).double()
    shifted.load_state_dict(plain.state_dict())
    rows = nn.Sequential(nn.Flatten(2), nn.Linear(12, 6).double(), nn.Flatten())
    cases = [
        (nn.Sequential(nn.Flatten(), plain, nn.ReLU()), Doubled(CLASSES)),
        (nn.Sequential(nn.Flatten(), hooked, nn.ReLU()), Overlay(CLASSES)),
        (nn.Sequential(nn.Flatten(), shifted, nn.ReLU()), Overlay(CLASSES)),
        (rows, Overlay(CLASSES)),
    ]
    for network, label in cases:
        rule = ForwardForward(network, x, CLASSES, label=label, skip_first=False)
        every = torch.cat([label(x[i : i + 1], torch.tensor([c])) for i in range(3) for c in range(CLASSES)])
        wanted = network(direction(every.flatten(1)).view_as(every)).square().sum(dim=1)
        torch.testing.assert_close(rule(x).flatten(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("activations", "share"),
    [([nn.Tanh(), nn.LeakyReLU()], 1.0), ([nn.GELU(), nn.Sigmoid()], 0.25), ([nn.Tanh(), nn.ELU()], 1.0)],
)
def test_a_blocks_last_activation_sets_its_threshold(activations, share):
    network = nn.Sequential(nn.Linear(12, 6), activations[0], nn.Linear(6, 5), activations[1])
    rule = ForwardForward(network, batch()[0].float(), CLASSES, blocks=[0], goodness="mean")
    assert rule.thresholds == [share]


def test_a_scan_is_bounded_and_keeps_no_blocks_output(monkeypatch):
    x, _ = batch()
    rule = ForwardForward(layers(), x, CLASSES)
    whole = rule(x)
    sizes = []
    rule.network[2].register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    monkeypatch.setattr("beyondprop.rules.local.forward_forward.SCANNED_NUMBERS", 6 * CLASSES * 4)
    torch.testing.assert_close(rule(x), whole)
    assert sizes == [16, 16, 4]


def test_a_table_that_loses_columns_is_told_once(caplog):
    x, y = batch()
    rule = ForwardForward(layers(), x, CLASSES)
    with caplog.at_level(logging.WARNING):
        rule.backward(x, y)
        rule.backward(x, y)
    assert [record.getMessage() for record in caplog.records] == [
        "the class takes the place of the first 4 of a sample's 12 numbers, and what they say is lost: put as many "
        "empty columns before them, or give label=ClassPattern(4, (12,))"
    ]
    caplog.clear()
    x[:, :CLASSES] = 0.0
    ForwardForward(layers(), x, CLASSES).backward(x, y)
    assert not caplog.records


def test_a_label_that_does_not_fit_is_told_with_what_it_makes():
    x, _ = batch()
    with pytest.raises(UserError, match=r"of a sample of \(12,\) the label makes \(24,\): the first layer has to"):
        ForwardForward(layers(), x, CLASSES, label=ClassPattern(CLASSES, (12,)))
    with pytest.raises(UserError, match=r"made for samples of shape \(3, 4\), got \(12,\)"):
        ForwardForward(layers(), x, CLASSES, label=ClassPattern(CLASSES, (3, 4)))
    with pytest.raises(UserError, match=r"example of shape \(2, 5\).*mat1 and mat2"):  # and no word of a label
        ForwardForward(layers(), torch.zeros(2, 5).double(), CLASSES)
