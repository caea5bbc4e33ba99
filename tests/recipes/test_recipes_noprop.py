"""Every setting of the NoProp recipes reaches what it sets, and the measures count what they say."""

import dataclasses

import pytest
import torch
from torch import nn

from beyondprop import data
from beyondprop.catalogue import find_recipe
from beyondprop.layers.dropout import Dropout
from beyondprop.networks.residual import ResidualBlock
from beyondprop.recipe import Settings
from beyondprop.recipes import backprop
from beyondprop.recipes.noprop import discrete as noprop
from beyondprop.recipes.noprop.blocks import BlockSettings
from beyondprop.rules.local.noprop import ClassEmbedding, DenoisingBlock, NoPropDT


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def build(recipe, digits, **changes):
    return recipe.build(dataclasses.replace(recipe.settings, **changes), digits)


NOPROP, BP = noprop.RECIPES[0], backprop.RECIPES[0]
REACHES = {
    "steps": (3, lambda e: len(e.rule.network)),
    "eta": (0.7, lambda e: e.rule.eta),
    "highest": (0.9, lambda e: e.rule.schedule.alpha_bar[-1]),
    "error": ("cross-entropy", lambda e: e.rule.error),
    "head": ("posterior", lambda e: e.rule.head_form),
    "order": ("one-by-one", lambda e: e.rule.order),
    "execution": ("batched", lambda e: e.rule.execution),
    "noise": (True, lambda e: e.inference["noise"]),
    "start": ("noise", lambda e: e.inference["start"]),
    "readout": ("mean", lambda e: e.inference["readout"]),
}
BOTH_REACH = {
    "dropout": (0.37, lambda m: next(d.p for d in m.modules() if isinstance(d, Dropout))),
    "first_width": (6, lambda m: next(c for c in m.modules() if isinstance(c, nn.Conv2d)).out_channels),
    "hidden": (40, lambda m: next(c for c in m.modules() if isinstance(c, nn.BatchNorm1d)).num_features),
}


@pytest.mark.parametrize("name", REACHES)
def test_setting_reaches_the_rule(digits, name):
    value, read = REACHES[name]
    assert read(build(NOPROP, digits)) != value
    assert read(build(NOPROP, digits, **{name: value})) == value


@pytest.mark.parametrize("recipe", [NOPROP, BP], ids=lambda recipe: recipe.id)
@pytest.mark.parametrize("name", BOTH_REACH)
def test_setting_reaches_the_blocks(digits, recipe, name):
    value, read = BOTH_REACH[name]
    assert read(build(recipe, digits, **{name: value}).rule) == value


@pytest.mark.parametrize("recipe", [NOPROP, BP], ids=lambda recipe: recipe.id)
def test_embedding_is_the_chosen_one(digits, recipe):
    def embedding(**changes):
        rule = build(recipe, digits, **changes).rule
        return next(m for m in rule.modules() if isinstance(m, ClassEmbedding))

    assert torch.equal(embedding().rows, torch.eye(10))
    learned = embedding(embedding="learned", dim=17)
    assert learned.learned
    assert learned.dim == 17
    prototypes = embedding(embedding="prototype")
    assert prototypes.learned
    assert prototypes.shape == (1, 8, 8)


@pytest.mark.parametrize("embedding", ["one-hot", "prototype"])
@pytest.mark.parametrize("recipe", [NOPROP, BP], ids=lambda recipe: recipe.id)
def test_encoder_is_the_chosen_one(digits, recipe, embedding):
    """Residual encoders for the images; z as an image keeps the paper's convolutions."""
    changes = {"encoder": "residual", "encoder_width": 6, "embedding": embedding, "steps": 2}
    rule = build(recipe, digits, **changes).rule
    blocks = [m for m in rule.modules() if isinstance(m, DenoisingBlock)]
    assert len(blocks) == 2
    for block in blocks:
        assert sum(isinstance(m, ResidualBlock) for m in block.image_path.modules()) == 3
        assert next(m for m in block.image_path.modules() if isinstance(m, nn.Conv2d)).out_channels == 6
        widths = [m.out_channels for m in block.label_path.modules() if isinstance(m, nn.Conv2d)]
        assert widths == ([16, 32, 64] if embedding == "prototype" else [])
    x, y = digits.train.images[:8].float(), digits.train.labels[:8]
    assert rule.backward(x, y).isfinite()
    assert rule(x).shape == (8, 10)


def test_larger_class_and_its_baseline_differ_in_the_rule_alone():
    """Equal effort: the same network, epochs, optimizer, augmentation and average of weights."""
    for dataset in ("cifar-10", "cifar-100"):
        ours, baseline = find_recipe(f"noprop-dt/{dataset}-large"), find_recipe(f"bp/{dataset}-large")
        for recipe in (ours, baseline):
            assert recipe.dataset == dataset
            assert recipe.settings.encoder == "residual"
            assert recipe.summary.startswith("larger class")
            assert recipe.paper(recipe.settings) is None
            assert "residual image encoder" in recipe.departures_of(recipe.settings)
            assert "convolutions padded by 1" not in recipe.departures_of(recipe.settings)
        assert "class read from last-block" in ours.departures_of(
            dataclasses.replace(ours.settings, readout="last-block")
        )
        shared = {f.name for f in dataclasses.fields(BlockSettings)}
        assert all(getattr(ours.settings, name) == getattr(baseline.settings, name) for name in shared)


def test_baseline_starts_where_it_is_told(digits):
    assert build(BP, digits, start="zero").rule.network.start == "zero"


def test_every_setting_of_the_recipes_is_covered_here():
    """A new setting must be added above, so that it cannot be forgotten in `build`."""
    common = {f.name for f in dataclasses.fields(Settings)}
    own = {f.name for f in dataclasses.fields(noprop.NoPropDTSettings)} - common
    assert own == {*REACHES, *BOTH_REACH, "embedding", "dim", "encoder", "encoder_width"}


class Says(nn.Module):
    """Class 1 to all; the second block repeats the class that z leans to, if z leans."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, z, x):
        if self.answer is not None:
            return 9.0 * nn.functional.one_hot(torch.full((len(x),), self.answer), 3)
        return 5.0 * z


def test_measures_count_by_hand():
    """Three blocks with fixed opinions: accuracies worked out on paper."""
    rule = NoPropDT([Says(1), Says(None), Says(2)], ClassEmbedding.one_hot(3))
    y = torch.tensor([1, 1, 1, 2, 0, 0, 0, 0])
    figures = noprop.inference_measures(rule, [(torch.zeros(6, 1), y[:6]), (torch.zeros(2, 1), y[6:])])
    # Block 1 says 1 (3 of 8), block 2 leans nowhere at z = 0 and so says class 0 (4 of 8), block 3 says 2 (1 of 8).
    assert figures["block_test_accuracy"] == [3 / 8, 4 / 8, 1 / 8]
    assert figures["test_accuracy_last_block"] == 1 / 8
    assert figures["test_accuracy_chain"] == 1 / 8
    assert figures["test_accuracy_mean_of_chain"] == 3 / 8  # block 2 now repeats block 1: two against one
    assert set(figures) == {
        "block_test_accuracy",
        *(f"test_accuracy_{way}" for way in ("as_in_paper", "chain", "last_block", "mean_of_chain")),
        "test_accuracy_blocks_alone_pooled",
    }


@pytest.mark.parametrize(
    ("answers", "low", "high"), [([None], 0.3, 0.37), ([0, None], 0.5, 0.9)], ids=["z_0", "update"]
)
def test_measures_draw_noise_for_the_papers_way_alone(answers, low, high):
    """A block that follows z: right without noise, misled by a draw of z_0, or of the noise in the update before it."""
    torch.manual_seed(0)
    rule = NoPropDT([Says(answer) for answer in answers], ClassEmbedding.one_hot(3))
    figures = noprop.inference_measures(rule, [(torch.zeros(6000, 1), torch.zeros(6000, dtype=torch.int64))])
    assert figures["test_accuracy_chain"] == 1
    assert low < figures["test_accuracy_as_in_paper"] < high


def test_departures_tell_the_settings_at_hand():
    recipe = noprop.RECIPES[1]

    def departures(**changes):
        return recipe.departures_of(dataclasses.replace(recipe.settings, **changes))

    assert "cosine schedule clipped at 0.9" in departures(highest=0.9)
    assert "cosine schedule clipped at 0.995" not in departures(highest=0.9)
    assert "prediction without noise" in departures()
    assert "prediction without noise" not in departures(noise=True, start="noise")
    assert not any("embedding" in d and "default" in d for d in departures(embedding="prototype"))
    assert any("prototypes centred" in d for d in departures(embedding="prototype"))
    assert not any("sum over t" in d for d in departures(order="one-by-one"))
    assert "epochs 5 (default 100)" in departures(epochs=5)
