"""The recipes of spike timing: settings reach the network, the encoder sees pixels, pictures and counts are right."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from beyondprop import data
from beyondprop.catalogue import find_recipe
from beyondprop.data import Batches
from beyondprop.recipes.spike_timing import BASELINES, RECIPES, spike_files, spike_measures
from beyondprop.rules.signals.backprop import Backprop


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def built(digits, name="spike-timing/digits", **changed):
    recipe = find_recipe(name)
    return recipe.build(dataclasses.replace(recipe.settings, **changed), digits)


@pytest.mark.parametrize(
    ("field", "value", "find"),
    [
        ("widths", (7, 5), lambda rule: (rule.network[1].weight.shape[0], rule.network[2].weight.shape[0])),
        ("spikes", 9, lambda rule: rule.network[1].options.spikes),
        ("output_spikes", 9, lambda rule: rule.network[-2].options.spikes),
        ("tau_m", 7.0, lambda rule: rule.network[1].membrane.tau_m),
        ("tau_s", 0.7, lambda rule: rule.network[1].membrane.tau_s),
        ("window", 7.0, lambda rule: rule.network[0].end),
        ("start", 0.3, lambda rule: rule.network[0].start),
        ("silent", 0.3, lambda rule: rule.network[0].silent),
        ("bias", 0.3, lambda rule: rule.network[0].bias),
        ("jitter", 0.3, lambda rule: rule.network[0].jitter),
        ("dropout", 0.3, lambda rule: rule.network[0].dropout),
        ("loss_tau", 0.7, lambda rule: rule.network[-1].tau),
        ("early", 0.7, lambda rule: rule.loss.early),
        ("lift", 0.7, lambda rule: rule.network[1].options.lift),
        ("bump", 0.7, lambda rule: rule.network[1].options.bump),
        ("silence", 0.3, lambda rule: rule.network[1].options.silence),
        ("learning_rate", 0.3, None),
    ],
)
def test_settings_reach_the_network(field, value, find, digits):
    experiment = built(digits, **{field: value})
    assert (experiment.optimizer.param_groups[0]["lr"] if find is None else find(experiment.rule)) == value


def test_counts_and_no_leak(digits):
    rule = built(digits, code="count", true_count=5.0, false_count=1.0, tau_m=0.0).rule
    assert (rule.loss.true, rule.loss.false) == (5.0, 1.0)
    assert math.isinf(rule.network[1].membrane.tau_m)


def test_the_encoder_sees_pixels_of_normalised_batches(digits):
    encoder = built(digits, silent=0.0, window=3.0).rule.network[0]
    x, _ = next(iter(Batches(digits.train, 8, shuffle=False)))
    pixels = digits.train.images[:8].flatten(1) / 16
    expected = torch.where(pixels > 1e-6, 3 * (1 - pixels), math.inf)
    found = encoder(x)[:, :-1, 0]
    lit = pixels > 0
    torch.testing.assert_close(found[lit], expected[lit], atol=1e-4, rtol=0)


def test_baselines_have_the_same_widths(digits):
    rule = built(digits, "bp/digits-spike-timing").rule
    assert isinstance(rule, Backprop)
    widths = [layer.out_features for layer in rule.network if isinstance(layer, nn.Linear)]
    assert widths == [64, 10]
    assert len(BASELINES) == len(RECIPES)


def test_counts_of_spikes_and_pictures(digits):
    torch.manual_seed(0)
    rule = built(digits).rule.eval()
    batches = list(Batches(digits.test, 200, shuffle=False))
    found = spike_measures(rule.network, batches)
    first = torch.cat([rule.network[1](rule.network[0](x)) for x, _ in batches])
    assert found["spikes_per_sample"][0] == pytest.approx(float(first.isfinite().sum()) / 360)
    assert found["never_spiking"][0] == pytest.approx(1 - float(first.isfinite().any(2).any(0).double().mean()))
    files = spike_files(rule.network, batches)
    assert sorted(files) == ["membranes.png", "raster.png"]
    assert all(content.startswith(b"\x89PNG") for content in files.values())
