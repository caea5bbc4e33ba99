"""What NoProp-DT takes: labels, blocks, options, and classifiers to copy; and what it refuses."""

import pytest
import torch
from discrete_parts import BATCH, CLASSES, FEATURES, SmoothBlock, make_rule
from torch import nn

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.rules.local.noprop import ClassEmbedding, DiscreteSchedule, NoPropDT


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, 3]), "0..2, got 3"),
        (torch.tensor([-1, 0]), "0..2, got -1"),
        (torch.tensor([0.0, 1.0]), "class indices"),
        (torch.tensor([[0], [1]]), "class indices"),
    ],
)
def test_wrong_labels_are_refused(labels, words):
    with pytest.raises(UserError, match=words):
        make_rule().backward(torch.randn(2, FEATURES, dtype=torch.float64), labels)


def test_shared_parameters_are_refused():
    shared = nn.Linear(9, CLASSES)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = shared

    with pytest.raises(UnsupportedNetworkError, match=r"block 1 and block 2 share the parameter inner\.weight"):
        NoPropDT([Block(), Block()], ClassEmbedding.one_hot(CLASSES))


@pytest.mark.parametrize(
    "options",
    [
        {"eta": 0.0},
        {"head": "linear"},
        {"order": "random"},
        {"sigma": -1.0},
        {"schedule": DiscreteSchedule((0.0, 0.5))},
    ],
    ids=str,
)
def test_wrong_options_are_refused(options):
    with pytest.raises(UserError):
        NoPropDT([SmoothBlock(3), SmoothBlock(3)], ClassEmbedding.one_hot(CLASSES), **options)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_train_alike(dtype):
    x, y = torch.randn(CLASSES, FEATURES, dtype=torch.float64), torch.tensor([2, 0, 0])
    rule = make_rule()
    losses = []
    for labels in (y, y.to(dtype)):
        torch.manual_seed(1)
        losses.append(rule.backward(x, labels))
    assert torch.equal(*losses)


def test_block_that_returns_no_class_logits_is_named():
    class TooWide(nn.Module):
        def forward(self, z, x):
            return torch.zeros(len(x), CLASSES + 2)

    rule = NoPropDT([SmoothBlock(CLASSES), TooWide()], ClassEmbedding.one_hot(CLASSES))
    x, y = torch.randn(BATCH, FEATURES), torch.randint(CLASSES, (BATCH,))
    with pytest.raises(UnsupportedNetworkError, match=r"block 2 returns shape \(8, 5\)"):
        rule.backward(x, y)
    with pytest.raises(UnsupportedNetworkError, match="block 2"):
        rule(x)


def test_frozen_layers_of_a_classifier_keep_their_weights_and_others_are_drawn_anew():
    network = nn.Sequential(nn.Linear(FEATURES, 4), nn.ReLU(), nn.Linear(4, CLASSES))
    network[0].requires_grad_(False)
    rule = NoPropDT.for_classifier(network, torch.randn(2, FEATURES), CLASSES, steps=2, hidden=8)
    for block in rule.network:
        copied = block.image_path[0][0]
        assert torch.equal(copied[0].weight, network[0].weight)
        assert not copied[0].weight.requires_grad
        assert not torch.equal(copied[2].weight, network[2].weight)


def test_network_that_cannot_be_copied_is_told():
    network = nn.Linear(FEATURES, CLASSES)
    network.log = open(__file__)  # noqa: SIM115
    with network.log, pytest.raises(UnsupportedNetworkError, match="cannot be copied"):
        NoPropDT.for_classifier(network, torch.randn(2, FEATURES), CLASSES)


def test_a_classifier_needs_a_step_and_inputs_of_its_own_type(one_line):
    network, x = nn.Linear(FEATURES, CLASSES), torch.randn(2, FEATURES)
    for steps in (0, -1):
        with one_line(UserError, f"steps, the number of blocks, must be at least 1, got {steps}"):
            NoPropDT.for_classifier(network, x, CLASSES, steps=steps)
    with one_line(UserError, "x is float64", "x.float()"):
        NoPropDT.for_classifier(network, x.double(), CLASSES)


def test_supports_takes_what_the_constructor_takes():
    blocks = [SmoothBlock(3), SmoothBlock(3)]
    assert NoPropDT.supports(blocks) is None
    assert NoPropDT.supports(nn.ModuleList(blocks)) is None
    with pytest.raises(UnsupportedNetworkError, match="list of blocks"):
        NoPropDT(blocks[0], ClassEmbedding.one_hot(CLASSES))
    with pytest.raises(UnsupportedNetworkError, match="ClassEmbedding"):
        NoPropDT(blocks, 3)


def test_blocks_must_be_a_list():
    assert "list of blocks" in NoPropDT.supports(nn.Linear(2, 2))
    with pytest.raises(UnsupportedNetworkError, match="list of blocks"):
        NoPropDT([], ClassEmbedding.one_hot(2))
