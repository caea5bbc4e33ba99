"""Every setting of the NoProp-CT and NoProp-FM recipes reaches what it sets."""

import dataclasses

import pytest
import torch
from torch import nn

from beyondprop import data
from beyondprop.layers.dropout import Dropout
from beyondprop.recipe import Settings
from beyondprop.recipes.noprop import continuous, flow
from beyondprop.recipes.noprop.blocks import STEP_COUNTS, accuracy_by_steps
from beyondprop.rules.local.noprop import NoPropFM

CT, FM = continuous.RECIPES[0], flow.RECIPES[0]
both = pytest.mark.parametrize("recipe", [CT, FM], ids=lambda recipe: recipe.id)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def build(recipe, digits, **changes):
    return recipe.build(dataclasses.replace(recipe.settings, **changes), digits)


BOTH = {
    "draws": (3, lambda e: e.rule.draws),
    "consistency": (0.5, lambda e: e.rule.consistency),
    "optimizer": ("adamw", lambda e: "adam" if isinstance(e.optimizer, torch.optim.Adam) else "adamw"),
    "steps": (7, lambda e: e.inference["steps"]),
    "start": ("noise", lambda e: e.inference["start"]),
    "method": ("heun", lambda e: e.inference["method"]),
    "dropout": (0.37, lambda e: next(m.p for m in e.rule.modules() if isinstance(m, Dropout))),
    "first_width": (6, lambda e: next(m.out_channels for m in e.rule.modules() if isinstance(m, nn.Conv2d))),
    "hidden": (40, lambda e: e.rule.block.fusion[1].in_features),
    "dim": (17, lambda e: e.rule.embedding.dim),
}
OWN = {
    CT.id: {
        "grid": ("uniform", lambda e: e.inference["grid"]),
        "eta": (0.3, lambda e: e.rule.eta),
        "weighting": ("snr", lambda e: e.rule.weighting),
        "error": ("cross-entropy", lambda e: e.rule.error),
    },
    FM.id: {"grid": ("log-snr", lambda e: e.inference["grid"]), "sigma": (0.3, lambda e: e.rule.sigma)},
}


@pytest.mark.parametrize(
    ("recipe", "name"),
    [(recipe, name) for recipe in (CT, FM) for name in {**BOTH, **OWN[recipe.id]}],
    ids=lambda value: getattr(value, "id", value),
)
def test_setting_reaches_what_it_sets(digits, recipe, name):
    value, read = {**BOTH, **OWN[recipe.id]}[name]
    base = {"embedding": "learned"} if name == "dim" else {}
    assert read(build(recipe, digits, **base)) != value
    assert read(build(recipe, digits, **base, **{name: value})) == value


@both
def test_every_setting_is_covered_here(recipe):
    common = {f.name for f in dataclasses.fields(Settings)}
    own = {f.name for f in dataclasses.fields(recipe.settings)} - common
    assert own == {*BOTH, *OWN[recipe.id], "embedding", "encoder", "encoder_width"}


@both
@pytest.mark.parametrize("encoder", ["paper", "residual"])
@pytest.mark.parametrize("embedding", ["one-hot", "learned", "prototype"])
def test_every_embedding_and_encoder_trains_and_predicts(digits, recipe, encoder, embedding):
    experiment = build(recipe, digits, embedding=embedding, encoder=encoder, encoder_width=8, first_width=4)
    x, y = digits.train.images[:8].float(), digits.train.labels[:8]
    assert experiment.rule.backward(x, y).isfinite()
    assert experiment.rule(x, **experiment.inference).shape == (8, 10)
    claimed = {id(p) for group in experiment.rule.parameter_groups() for p in group["params"]}
    if experiment.optimizer is not None:
        assert claimed == {id(p) for group in experiment.optimizer.param_groups for p in group["params"]}


@both
def test_fields_of_inference_are_the_options_of_the_call(digits, recipe):
    assert set(build(recipe, digits).inference) == set(recipe.inference)


class Undecided(nn.Module):
    """Right about odd samples from the start; about even ones only when it is asked again at a later time."""

    def forward(self, z, h, t):
        late = torch.as_tensor(t > 0.4).expand(len(z))
        says_one = (h.flatten() == 1) | late
        return torch.where(says_one.unsqueeze(1), torch.tensor([0.0, 6.0]), torch.tensor([6.0, 0.0])) - 2 * z


def test_accuracy_by_steps_counts_by_hand():
    from beyondprop.rules.local.noprop import ClassEmbedding

    rule = NoPropFM(nn.Identity(), Undecided(), ClassEmbedding.one_hot(2))
    x, y = torch.tensor([[1.0], [0.0], [1.0], [0.0]]), torch.ones(4, dtype=torch.int64)
    figures = accuracy_by_steps(rule, {"method": "euler"}, [(x[:3], y[:3]), (x[3:], y[3:])])
    assert set(figures) == {f"test_accuracy_in_{steps}_steps" for steps in STEP_COUNTS}
    assert figures["test_accuracy_in_1_steps"] == 0.5  # asked once, at t = 0
    assert figures["test_accuracy_in_1000_steps"] == 1


def test_departures_tell_the_settings_at_hand():
    for recipe in (continuous.RECIPES[1], flow.RECIPES[1]):

        def departures(recipe=recipe, **changes):
            return recipe.departures_of(dataclasses.replace(recipe.settings, **changes))

        assert any("predicted in 20 steps" in line for line in departures())
        assert any("predicted in 5 steps" in line for line in departures(steps=5))
        assert "epochs 5 (default 100)" in departures(epochs=5)
        assert not any("embedding" in line and "default" in line for line in departures(embedding="learned"))
    weighting = "denoising weighted by (log SNR)'"
    assert weighting in continuous.RECIPES[1].departures_of(continuous.RECIPES[1].settings)
