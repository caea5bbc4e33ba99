"""The chip's recipe: its settings reach rule and chip, and a chip elsewhere is as good as one here."""

import dataclasses
import json

import pytest
import torch

from beyondprop import data, training
from beyondprop.catalogue import find_recipe
from beyondprop.cli import main
from beyondprop.devices import DeviceServer
from beyondprop.errors import DeviceError, UserError
from beyondprop.layers.defective_activation import DefectiveActivation
from beyondprop.recipes.chip import read_token, simulated_chip
from beyondprop.training.checkpoint import load
from beyondprop.training.execution import Execution

RECIPE = find_recipe("mgd/digits-chip")
SMALL = dataclasses.replace(RECIPE.settings, epochs=1, tau_x=8, batch_size=256)


def chip_of(rule):
    return rule.network.device.device


def deviation_of(rule):
    layers = [m for m in chip_of(rule).device.network.modules() if isinstance(m, DefectiveActivation)]
    return round(float(layers[0].k.std()), 1)


@pytest.mark.parametrize(
    ("field", "value", "seen"),
    [
        ("code", "walsh", lambda rule: rule.code.kind),
        ("norm", 0.7, lambda rule: rule.norm),
        ("tau_x", 7, lambda rule: rule.tau_x),
        ("tau_theta", 512, lambda rule: rule.tau_theta),
        ("clamp", 0.25, lambda rule: rule.clamp),
        ("stuck_after", 0, lambda rule: rule.network.device.stuck_after),
        ("noise", 0.5, lambda rule: chip_of(rule).noise),
        ("drift", 0.5, lambda rule: chip_of(rule).drift),
        ("bits", 3, lambda rule: chip_of(rule).bits),
        ("span", 1.5, lambda rule: chip_of(rule).span),
        ("latency", 0.5, lambda rule: chip_of(rule).latency),
        ("chip_seed", 4, lambda rule: chip_of(rule)._generator.initial_seed()),
        ("defects", 0.4, deviation_of),
        ("hidden", 9, lambda rule: chip_of(rule).device.network[1].out_features),
    ],
)
def test_setting_reaches_rule_and_chip(field, value, seen):
    splits = data.load("digits")
    assert seen(RECIPE.build(dataclasses.replace(RECIPE.settings, **{field: value}), splits).rule) == value
    assert seen(RECIPE.build(RECIPE.settings, splits).rule) != value


def test_spread_reaches_the_first_parameters():
    rule = RECIPE.build(dataclasses.replace(RECIPE.settings, spread=0.7), data.load("digits")).rule
    assert 0.6 < rule.network.theta.abs().max() <= 0.7


def run(settings, folder, **options):
    return training.train(RECIPE, settings, Execution(threads=1), folder, progress=False, **options)


def test_it_learns_and_tells_the_wall_clock(tmp_path):
    settings = dataclasses.replace(RECIPE.settings, epochs=2, tau_x=128, learning_rate=2e-2)
    metrics = run(settings, tmp_path / "run").metrics
    assert metrics["test_accuracy"] > 0.6
    steps = 2 * -(-len(data.load("digits").train) // 64) * 128
    assert metrics["perturbation_steps"] == steps
    assert metrics["hw1_seconds"] == pytest.approx(steps * 1e-3)
    assert metrics["hw2_seconds"] == pytest.approx(steps * 10e-9)
    assert metrics["hw3_seconds"] == pytest.approx(steps * 200e-12)


@pytest.mark.parametrize("token", ["", "a token of some length"])
def test_a_chip_at_an_address_gives_the_same_weights(tmp_path, token):
    """With its noise and defects, which are decided by its own seed."""
    file = tmp_path / "token"
    file.write_text(token + "\n")
    with DeviceServer(simulated_chip(SMALL, (1, 8, 8), 10), token=token or None).running() as server:
        there = dataclasses.replace(SMALL, chip=server.address, token_file=str(file) if token else "")
        run(there, tmp_path / "there")
    run(SMALL, tmp_path / "here")
    ends = [load(tmp_path / name).model["network.theta"] for name in ("there", "here")]
    assert torch.equal(*ends)


def test_a_chip_may_move(tmp_path, capsys):
    """Its run is evaluated, and goes on, at another address; the old one is told to be empty."""
    settings, folder = dataclasses.replace(SMALL, noise=0.0), tmp_path / "run"
    with DeviceServer(simulated_chip(settings, (1, 8, 8), 10)).running() as server:
        there = dataclasses.replace(settings, chip=server.address)
        accuracy = run(there, folder).metrics["test_accuracy"]
    assert main(["evaluate", str(folder), "--json"]) == 2
    assert there.chip in capsys.readouterr().err
    with DeviceServer(simulated_chip(settings, (1, 8, 8), 10)).running() as server:
        assert server.address != there.chip
        assert main(["evaluate", str(folder), "--chip", server.address, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] == accuracy
        run(dataclasses.replace(there, chip=server.address), folder, resume=True)


def test_settings_of_the_simulated_chip_beside_another_are_told_of(caplog):
    with DeviceServer(simulated_chip(RECIPE.settings, (1, 8, 8), 10)).running() as server:
        there = dataclasses.replace(RECIPE.settings, chip=server.address)
        RECIPE.build(there, data.load("digits"))
        assert not caplog.records
        RECIPE.build(dataclasses.replace(there, noise=0.5, hidden=64, norm=0.2), data.load("digits"))
    (record,) = caplog.records
    assert record.getMessage().startswith("--hidden, --noise: of the simulated chip alone, without effect")


def test_no_chip_at_the_address_is_told(one_line):
    with one_line(DeviceError, "127.0.0.1:9", "beyondprop device"):
        RECIPE.build(dataclasses.replace(SMALL, chip="127.0.0.1:9"), data.load("digits"))


def test_tokens_are_read_from_file_or_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("BEYONDPROP_TOKEN", raising=False)
    assert read_token("") is None
    monkeypatch.setenv("BEYONDPROP_TOKEN", "from the environment")
    assert read_token("") == "from the environment"
    file = tmp_path / "token"
    with pytest.raises(UserError, match="cannot be read"):
        read_token(file)
    file.write_text(" \n")
    with pytest.raises(UserError, match="is empty"):
        read_token(file)
    file.write_text("from a file\n")
    assert read_token(file) == "from a file"
