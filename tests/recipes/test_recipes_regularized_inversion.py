"""Targets through time as recipes: every one trains small, step sizes reach the optimizer, surges are clipped."""

import dataclasses
import hashlib
import json
import re

import pytest
import torch

from beyondprop import data, training
from beyondprop.catalogue import SYSTEMS, find_recipe
from beyondprop.cli import main
from beyondprop.data.sets import ImageSet, Splits
from beyondprop.errors import NonFiniteError, UserError
from beyondprop.networks.sequences import CharacterModel, ImageReader
from beyondprop.recipes.regularized_inversion import _course
from beyondprop.recipes.through_time import Pieces, ThroughTime
from beyondprop.training.execution import Execution

RECIPES = [r for system in SYSTEMS for r in system.recipes if isinstance(r.settings, ThroughTime)]
TEXT = "the cat sat on the mat, and the dog sat on the cat. " * 20


def small(recipe, tmp_path, **changes):
    (tmp_path / "story.txt").write_text(TEXT)
    given = {"epochs": 2, "hidden": 8, "sequences": 60, "length": 12, "window": 16, "file": str(tmp_path / "story.txt")}
    names = {f.name for f in dataclasses.fields(recipe.settings)}
    return dataclasses.replace(recipe.settings, **{n: v for n, v in {**given, **changes}.items() if n in names})


def made_data(recipe):
    """Few small images in place of a set that may not be there; their width is the recipe's piece for rows."""
    if not isinstance(recipe.settings, Pieces) or recipe.dataset == "digits":
        return None
    torch.manual_seed(0)
    width = max(recipe.settings.piece, 4)
    sets = (
        ImageSet(torch.randint(256, (40, 1, 2, width)).byte(), torch.arange(40) % 10, 10, "made", 255) for _ in range(2)
    )
    return Splits(*sets)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)
def test_every_recipe_trains(recipe, tmp_path):
    settings = small(recipe, tmp_path, validation=20 if recipe.settings.validation else 0)
    outcome = training.train(
        recipe, settings, Execution(threads=1), tmp_path / "run", progress=False, splits=made_data(recipe)
    )
    own = {
        "temporal-order": {"solved", "solved_after", "stayed_solved", "test_accuracy"},
        "marked-mean": {"solved", "solved_after", "stayed_solved", "test_mse", "test_within"},
        "text": {"test_accuracy", "test_perplexity", "test_bits"},
    }.get(recipe.dataset, {"test_accuracy"})
    assert own <= set(outcome.metrics)
    if recipe.dataset == "text":
        assert "[drawn, character by character]" in (tmp_path / "run" / "sample.txt").read_text()
        assert outcome.metrics["test_perplexity"] == pytest.approx(2 ** outcome.metrics["test_bits"])
    assert recipe.choices(settings)[0].startswith(f"the recurrent gradient clipped at {settings.clip_surge:g}")


def test_matched_rates_move_both_rules_alike_where_only_the_last_target_counts():
    """For r beyond all bounds the rule is back-propagation with the recurrent layer's gradient g times as long."""
    ends = []
    for name in ("tp-ri/temporal-order-60", "bp/temporal-order-60-matched"):
        recipe = find_recipe(name)
        settings = dataclasses.replace(
            recipe.settings, length=12, sequences=60, hidden=8, regularisation=1e12, epochs=1, momentum=0.9
        )
        splits = recipe.data(settings)
        torch.manual_seed(0)
        experiment = recipe.build(settings, splits)
        x, y = splits.train.images, splits.train.labels
        for rows in torch.arange(60).split(20):
            experiment.optimizer.zero_grad()
            experiment.rule.backward(x[rows], y[rows])
            experiment.optimizer.step()
        ends.append(experiment.rule.network.state_dict())
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=1e-4, atol=1e-6)


def test_adding_without_held_out_sequences_tells_no_course(tmp_path):
    recipe = find_recipe("tp-ri/adding")
    settings = small(recipe, tmp_path, validation=0, epochs=1)
    outcome = training.train(recipe, settings, Execution(threads=1), tmp_path / "run", progress=False)
    assert "solved" not in outcome.metrics
    assert "test_within" in outcome.metrics


@pytest.mark.parametrize(
    ("field", "value"), [("piece", 0), ("piece", -8), ("layers", 0), ("clip_surge", -1.0), ("recurrent_step", -0.1)]
)
def test_settings_that_cannot_be_are_one_line(field, value):
    recipe = find_recipe("tp-ri/digits")
    settings = dataclasses.replace(recipe.settings, **{field: value})
    with pytest.raises(UserError, match=field):
        recipe.build(settings, data.load("digits"))


def test_a_surge_is_clipped_and_the_usual_norm_is_saved():
    recipe = find_recipe("bp/temporal-order-60-matched")
    settings = dataclasses.replace(recipe.settings, length=12, sequences=60, hidden=8, clip_surge=5.0)
    optimizer = recipe.build(settings, recipe.data(settings)).optimizer
    recurrent = optimizer.param_groups[0]["params"]

    def moved(norm):
        before = [p.detach().clone() for p in recurrent]
        count = sum(p.numel() for p in recurrent)
        for p in recurrent:
            p.grad = torch.full_like(p, norm / count**0.5)
        optimizer.step()
        change = torch.cat([(p - b).flatten() for p, b in zip(recurrent, before, strict=True)]).norm().item()
        return change / optimizer.param_groups[0]["lr"]

    assert [moved(2.0) for _ in range(3)] == pytest.approx([2.0] * 3, rel=1e-3)
    assert moved(9.0) == pytest.approx(9.0, rel=1e-3)
    usual = optimizer.state_dict()["param_groups"][0]["usual_norm"]
    assert usual == pytest.approx(2 * 4.5**0.01, rel=1e-6)
    assert moved(1000.0) == pytest.approx(5 * usual, rel=1e-3)
    optimizer.param_groups[0]["usual_norm"] = usual
    assert moved(1e30) == pytest.approx(5 * usual, rel=1e-3)  # its square is beyond float32
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        moved(float("inf"))
    optimizer.param_groups[0]["usual_norm"] = usual
    moved(1000.0)
    assert optimizer.param_groups[0]["usual_norm"] == pytest.approx(usual * 5**0.01, rel=1e-6)


def test_resuming_goes_on_to_the_bit(tmp_path):
    recipe = find_recipe("tp-ri/temporal-order-60")
    settings = small(recipe, tmp_path)
    whole = training.train(recipe, settings, Execution(threads=1), tmp_path / "whole", progress=False)
    halted = dataclasses.replace(settings)
    calls = []

    class StopError(Exception):
        pass

    original = type(torch.optim.SGD([torch.zeros(1)], lr=1.0)).step

    def stop(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise StopError
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", stop)
        with pytest.raises(StopError):
            training.train(
                recipe, halted, Execution(threads=1), tmp_path / "part", progress=False, checkpoint_seconds=0
            )
    done = training.train(
        recipe, halted, Execution(threads=1), tmp_path / "part", progress=False, resume=True, checkpoint_seconds=0
    )
    assert done.metrics == whole.metrics


def test_the_course_tells_solving_and_losing():
    seen = [{"train_accuracy": value} for value in (0.5, 0.995, 1.0, 0.3, 1.0)]
    assert _course(seen) == {"solved": 1.0, "solved_after": 0.4, "stayed_solved": 0.75}
    assert _course(seen[:1]) == {"solved": 0.0, "solved_after": 1.0, "stayed_solved": 0.0}
    assert _course([{"validation_loss": 0.001}, {"validation_loss": 0.0003}])["solved_after"] == 1.0
    assert _course([{"validation_loss": 0.0003}])["solved"] == 1.0


def test_images_are_read_in_pieces_and_brightness_is_put_back():
    torch.manual_seed(0)
    images = torch.rand(3, 2, 4, 6)
    mean, deviation = torch.tensor([0.3, 0.4]), torch.tensor([2.0, 3.0])
    reader = ImageReader((2, 4, 6), 5, piece=6, hidden=4, restored=(mean, deviation))
    expected = reader.readout(reader.rnn(images.reshape(3, 8, 6))[1][-1])
    standardised = (images - mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1)
    torch.testing.assert_close(reader(standardised), expected, rtol=1e-4, atol=1e-5)
    mixed = ImageReader((2, 4, 6), 5, piece=1, permuted=True, hidden=4)
    assert mixed.order.sort().values.tolist() == list(range(48))
    assert not torch.equal(mixed.order, torch.arange(48))
    expected = mixed.readout(mixed.rnn(images.flatten(1)[:, mixed.order].unsqueeze(2))[1][-1])
    torch.testing.assert_close(mixed(images), expected)


def test_samples_follow_what_the_network_has_learned():
    """A readout that always scores the next letter of a cycle highest."""
    model = CharacterModel(4, hidden=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.rnn.weight_ih_l0.copy_(5 * torch.eye(4))
        model.readout.weight.copy_(50 * torch.eye(4).roll(1, dims=0))
    assert model.sample(6, first=1) == [2, 3, 0, 1, 2, 3]
    assert model.sample(3, first=[1, 0, 3]) == [0, 1, 2]


def test_a_sample_remembers_all_that_was_given():
    """By odds of the network run over the whole text so far, at every character."""
    torch.manual_seed(0)
    model = CharacterModel(5, hidden=6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    given, text = [3, 1, 4, 1], [3, 1, 4, 1]
    found = model.sample(20, first=given, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        odds = torch.softmax(model(torch.tensor([text]))[0, -1].detach(), dim=0)
        text.append(int(torch.multinomial(odds, 1, generator=generator)))
    assert found == text[4:]


def test_a_finished_run_of_a_text_holds_a_sample_and_knows_its_file_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "story.txt"
    path.write_text(TEXT)
    flags = ["--file", "story.txt", "--epochs", "1", "--hidden", "8", "--window", "16", "--out", "run"]
    assert main(["train", "tp-ri/text", *flags]) == 0
    assert "sample         run/sample.txt" in capsys.readouterr().out
    stored = json.loads((tmp_path / "run" / "settings.json").read_text())["settings"]
    assert stored["file"] == str(path.resolve())
    assert stored["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    given, drawn = re.fullmatch(
        r"\[given, .*\]\n(.*)\n\n\[drawn, .*\]\n(.*)\n", (tmp_path / "run" / "sample.txt").read_text()
    ).groups()
    assert given == TEXT[round(0.9 * len(TEXT)) :][:16]
    assert len(drawn) == 1000
    assert set(drawn) <= set(TEXT)
    loaded = training.load_run(tmp_path / "run")
    assert loaded.files(loaded.splits.test)["sample.txt"] == (tmp_path / "run" / "sample.txt").read_bytes()

    path.write_text(TEXT + "more")
    for command in (["evaluate", "run"], ["train", "tp-ri/text", *flags, "--resume"]):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert "story.txt" in told
        assert "has changed since" in told


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["train", "tp-ri/text"], "--file FILE"),
        (["train", "tp-ri/text", "--file", "no-such-file.txt"], "no-such-file.txt: cannot be read"),
        (["train", "tp-ri/digits", "--piece", "7"], "--piece must divide the 64"),
        (["train", "tp-ri/digits", "--cell", "gru", "--targets", "difference"], "linearised ones alone"),
    ],
)
def test_the_command_line_tells_errors(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
    assert main(flags) == 2
    assert words in capsys.readouterr().err


def test_steps_with_classes_are_evaluated_one_by_one():
    scores = torch.tensor([[[9.0, 0.0], [0.0, 9.0], [0.0, 9.0]]])
    found = training.evaluate(torch.nn.Identity(), [(scores, torch.tensor([[0, 1, 0]]))])
    assert found["count"] == 3
    assert found["accuracy"] == pytest.approx(2 / 3)
