"""The labels that Forward-Forward puts into its inputs, and the wrong ones that it draws as negatives."""

import pytest
import torch
from goodness_parts import CLASSES, batch, hidden, make

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rules.local.label_input import ClassPattern, Overlay
from beyondprop.rules.local.symba import SymBa


def test_negatives_are_searched_in_parts(monkeypatch):
    """What is scanned at once is bounded; the draw is that of a whole scan."""
    x, y = batch()
    rule = make(negatives="hard")
    torch.manual_seed(2)
    whole = rule.wrong_labels(x, y)
    sizes = []
    rule.network[0].register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    monkeypatch.setattr("beyondprop.rules.local.forward_forward.SCANNED", 2 * CLASSES)
    torch.manual_seed(2)
    assert torch.equal(rule.wrong_labels(x, y), whole)
    assert sizes == [8, 8, 8, 8, 4]


def test_wrong_classes_are_wrong_and_uniform():
    x, y = torch.randn(6000, 12).double(), torch.arange(6000) % CLASSES
    torch.manual_seed(0)
    wrong = make().wrong_labels(x, y)
    assert (wrong != y).all()
    counts = torch.bincount((wrong - y) % CLASSES, minlength=CLASSES)[1:]
    assert (counts - 2000).abs().max() < 5 * (6000 * 2 / 9) ** 0.5  # five standard deviations


def test_hard_negatives_follow_the_square_root_of_goodness():
    x, y = batch(1)
    rule = make(negatives="hard", skip_first=False)
    with torch.no_grad():
        share = rule.scan(x)[0].clone()
    share[y[0]] = 0
    share = share.sqrt() / share.sqrt().sum()
    torch.manual_seed(0)
    drawn = rule.wrong_labels(x.expand(4000, -1), y.expand(4000))
    counts = torch.bincount(drawn, minlength=CLASSES) / 4000
    torch.testing.assert_close(counts.double(), share, atol=5 * 0.5 / 4000**0.5, rtol=0)
    assert counts[y[0]] == 0


def test_overlay_replaces_the_first_numbers_of_images_too():
    image = torch.ones(2, 2, 2, 3)
    put = Overlay(4, amplitude=5.0)(image, torch.tensor([3, 1]))
    assert put[0].flatten().tolist() == [0, 0, 0, 5, 1, 1, 1, 1, 1, 1, 1, 1]
    assert put[1, 0].flatten().tolist() == [0, 5, 0, 0, 1, 1]
    assert Overlay(4, amplitude=2.0).neutral(image)[0, 0].flatten().tolist() == [0.5] * 4 + [1, 1]
    assert image.eq(1).all()
    with pytest.raises(UserError, match="no room"):
        Overlay(13)(image, torch.tensor([3, 1]))


@pytest.mark.parametrize("how", ["beside", "added"])
def test_class_patterns(how):
    x = torch.randn(3, 2, 4, 4)
    label = ClassPattern(CLASSES, (2, 4, 4), how=how, learned=True, scale=2.0)
    y = torch.tensor([0, 3, 3])
    made = label(x, y)
    if how == "beside":
        assert made.shape == (3, 3, 4, 4)
        assert torch.equal(made[:, :2], x)
        assert torch.equal(made[:, 2], label.patterns[y, 0])
    else:
        torch.testing.assert_close(made, x + label.patterns[y])
    torch.testing.assert_close(label.neutral(x)[0, -1], made[0, -1] - label.patterns[0, 0] + label.patterns.mean(0)[0])
    assert label.every_class(x).shape[0] == 3 * CLASSES
    torch.testing.assert_close(label.every_class(x)[CLASSES + 1], label(x[1:2], torch.tensor([1]))[0])
    assert 1.0 < label.patterns.std() < 3.0


def test_only_the_first_block_trains_a_learned_pattern():
    x, y = torch.randn(8, 12), torch.arange(8) % CLASSES
    found = []
    for scale in (1.0, 3.0):
        network = hidden(inputs=24).float()
        torch.manual_seed(4)
        rule = SymBa(network, x, CLASSES, label=ClassPattern(CLASSES, (12,), learned=True))
        with torch.no_grad():
            network[2].weight *= scale
        rule.backward(x, y)
        found.append(rule.label.patterns.grad)
    assert found[0].abs().sum() > 0
    assert torch.equal(*found)
    fixed = SymBa(hidden(inputs=24).float(), x, CLASSES, label=ClassPattern(CLASSES, (12,)))
    assert [group["name"] for group in fixed.parameter_groups()] == ["network"]


def test_hard_negatives_of_dead_and_broken_networks():
    """Where nothing is active all wrong classes are alike, and none is the true one."""
    rule = make(negatives="hard")
    with torch.no_grad():
        for p in rule.network.parameters():
            p.fill_(-1.0)
        rule.network[0].weight.zero_()
    x, y = torch.randn(400, 12).double(), torch.arange(400) % CLASSES
    wrong = rule.wrong_labels(x, y)
    assert (wrong != y).all()
    assert len(wrong.unique()) == CLASSES
    with torch.no_grad():
        rule.network[2].bias.fill_(torch.inf)
    with pytest.raises(NonFiniteError, match="block 2"):
        rule.backward(x, y)


def test_a_label_for_other_classes_is_refused():
    with pytest.raises(UserError, match="3 classes, and the rule for 4"):
        make(label=Overlay(3))
