"""Exports: built again without data or pickle, from every recipe; what is damaged or foreign is told in one line."""

import hashlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from beyondprop import data, load_exported, training
from beyondprop.catalogue import SYSTEMS, find_recipe, find_system
from beyondprop.errors import RunError, UserError
from beyondprop.export import export_run
from beyondprop.rule import Rule
from beyondprop.training.assembly import assemble
from beyondprop.training.checkpoint import safe_tensors
from beyondprop.training.execution import Execution
from beyondprop.training.exported import describe, load_exported_run, rebuild, scores_of, table_of

STEPPED = [f"{s.id}/digits" for s in SYSTEMS if issubclass(kind := s.load(), Rule) and kind.classifies]
PATTERNS = ["heb/xor", "mgd/xor"]  # whose rules hold the test split


def trained(folder, seed=0, recipe="dtp/digits", **changed):
    recipe = find_recipe(recipe)
    settings = replace(recipe.settings, **changed)
    training.train(recipe, settings, Execution(device="cpu", seed=seed), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run that held images out, in a folder with another seed, other settings and a damaged one beside it."""
    runs = tmp_path_factory.mktemp("runs")
    small = {"epochs": 1, "hidden": 8, "validation": 50}
    trained(runs / "b", seed=3, **small)
    trained(runs / "other", seed=4, **{**small, "hidden": 9})
    trained(runs / "trial", seed=1000, **small)  # of a search: its held-out images are of no seed in a table
    (runs / "broken").mkdir()
    (runs / "broken" / "result.json").write_text("{")
    return trained(runs / "a", seed=7, **small)


@pytest.fixture
def export(run, tmp_path):
    return export_run(run, tmp_path / "export")


def change(folder, **parts):
    path = folder / "export.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


def changed_settings(folder, **settings):
    change(folder, settings={**json.loads((folder / "export.json").read_text())["settings"], **settings})


def change_weights(folder, change_them):
    """As somebody would who changes the checksum and the table too."""
    path = folder / "model.safetensors"
    weights = safetensors.torch.load(path.read_bytes())
    change_them(weights)
    path.write_bytes(safetensors.torch.save(weights))
    told = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "tensors": table_of(weights)}
    change(folder, weights={"file": "model.safetensors", **told})


@pytest.mark.parametrize("name", [*STEPPED, *PATTERNS])
def test_every_recipe_is_built_again_without_its_data(name, monkeypatch):
    """With another seed, so that whatever is not in the weights and is drawn, or comes from the data, is noticed."""
    recipe = find_recipe(name)
    built = assemble(recipe, recipe.settings, Execution(device="cpu", seed=1))
    weights, others = safe_tensors(built.rule.state_dict())
    assert not others
    about = {
        "recipe": name,
        "settings": json.loads(json.dumps(asdict(recipe.settings))),
        "execution": {"seed": 2},
        "stage": getattr(built.rule, "stage", None),
        "data": json.loads(json.dumps(describe(built.splits, built.statistics))),
    }
    images = built.splits.test.subset(range(min(6, len(built.splits.test))))
    monkeypatch.setattr(data, "load", None)
    copy = rebuild(Path("export"), about, weights, device="cpu")
    scores = []
    for each in (built, copy.built):
        torch.manual_seed(0)
        scores.append(scores_of(each, images))
    assert torch.equal(*scores)


def test_predicts_as_the_run_does_and_unpickles_nothing(run, export, monkeypatch):
    images = data.load("digits").test
    expected = scores_of(training.load_run(run), images)
    for name in ("torch.load", "pickle.load", "pickle.loads", "beyondprop.data.load"):
        monkeypatch.setattr(name, None)
    model = load_exported(export)
    assert torch.equal(model.predict(images.images), expected)
    torch.testing.assert_close(model.predict(images.images.numpy() / 16), expected)
    torch.testing.assert_close(model.predict(images.images[:5, 0]), expected[:5])  # of one channel it may be left out
    assert not model.rule.training
    assert model.rule.stage == "both" or model.rule.stages == (None,)


def test_is_measured_on_its_data(run, export):
    again = load_exported_run(export)
    images = again.splits.test
    assert again.evaluate(images) == training.load_run(run).evaluate(images)
    assert len(again.validation) == 50


def test_holds_numbers_and_words_of_all_seeds(run, export):
    assert {path.name for path in export.iterdir()} == {"README.md", "curves.png", "export.json", "model.safetensors"}
    about = json.loads((export / "export.json").read_text())
    metrics = {n: json.loads((run.parent / n / "result.json").read_text())["metrics"] for n in "ab"}
    assert about["runs"] == [{"seed": 3, "metrics": metrics["b"]}, {"seed": 7, "metrics": metrics["a"]}]
    assert str(run.parent) not in (export / "export.json").read_text() + (export / "README.md").read_text()
    assert (export / "curves.png").read_bytes() == (run / "curves.png").read_bytes()


def test_the_card_tells_what_a_reader_needs(run, export):
    card = (export / "README.md").read_text()
    accuracy = json.loads((run / "result.json").read_text())["metrics"]["test_accuracy"]
    for words in (
        "# Difference target propagation on digits",
        "the weights here are those of seed 7",
        f"| 7 | {100 * accuracy:.2f} % |",
        "| `hidden` | `8` | `",
        "![Losses and accuracy of seed 7 while it was trained](curves.png)",
        "uint8, shape (N, 1, 8, 8)",
        "without 50 that were held out",
        "--hidden 8",
        "--seed 7",
        find_system("dtp").paper.bibtex,
        f"torch {torch.__version__}",
    ):
        assert words in card, words


@pytest.mark.parametrize(
    ("recipe", "small"),
    [
        ("threshold/iris", {"baseline_epochs": 0, "hidden": 500}),
        ("node-perturbation/copying", {"epochs": 1, "length": 5, "delay": 2, "sequences": 64, "hidden": 8}),
    ],
)
def test_recipes_that_make_their_data(recipe, small, tmp_path):
    """By the run's seed, and in sequences as they come."""
    run = trained(tmp_path / "run", seed=5, recipe=recipe, **small)
    loaded = training.load_run(run)
    model = load_exported(export_run(run, tmp_path / "export"))
    images = loaded.splits.test
    assert torch.equal(model.predict(images.images), scores_of(loaded, images))
    assert model.about["data"] is None


def test_solvers_and_prototypes(tmp_path):
    """Of shapes and rows that depend on the data."""
    recipe = "noprop-dt/digits"
    small = {"epochs": 1, "steps": 2, "first_width": 2, "hidden": 8, "embedding": "prototype"}
    fitted = {"first": 2, "patch": 3, "passes": 1}
    runs = (trained(tmp_path / "a", recipe=recipe, **small), trained(tmp_path / "b", recipe="pcanet/digits", **fitted))
    for run in runs:
        loaded = training.load_run(run)
        model = load_exported(export_run(run, tmp_path / f"export-{run.name}"))
        assert torch.equal(model.predict(loaded.splits.test.images), scores_of(loaded, loaded.splits.test))


def test_what_takes_more_from_its_data_is_not_exported(run, tmp_path, monkeypatch, one_line):
    monkeypatch.setattr("beyondprop.export.describe", lambda *given: {**describe(*given), "mean": [0.9]})
    with one_line(RunError, "takes more from its data"):
        export_run(run, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_loop_of_ones_own_is_not_exported(tmp_path, one_line):
    with training.RunFolder(tmp_path / "run", {"hidden": 8}):
        pass
    with one_line(RunError, "was not trained from a recipe"):
        export_run(tmp_path / "run", tmp_path / "export")


def test_state_that_is_no_tensor_is_not_exported(run, tmp_path, monkeypatch, one_line):
    monkeypatch.setattr("beyondprop.export.safe_tensors", lambda state: (state, {"network._extra_state": "a chip's"}))
    with one_line(RunError, "'network._extra_state'", "no dense, real tensor"):
        export_run(run, tmp_path / "export")


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
@pytest.mark.parametrize("name", ["export.json", "model.safetensors"])
def test_truncated_files(name, cut, export, one_line):
    content = (export / name).read_bytes()
    (export / name).write_bytes(content.rstrip()[:cut])
    with one_line(RunError, name):
        load_exported(export)
    (export / name).unlink()
    with one_line(RunError, name):
        load_exported(export)


def test_a_changed_byte_of_the_weights(export, one_line):
    path = export / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with one_line(RunError, "model.safetensors", "checksum"):
        load_exported(export)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, ("newer beyondprop", "format 2")),
        ({"format": "1"}, ("names no format",)),
        ({"format": True}, ("names no format",)),
        ({"recipe": None}, ("'recipe' is missing or wrong",)),
        ({"weights": {"sha256": 3}}, ("'weights' is missing or wrong",)),
        ({"data": {"name": "digits"}}, ("'data' is missing or wrong",)),
        ({"stage": "none such"}, ("no stage 'none such'",)),
        ({"execution": {"warp": 9}}, ("'warp'",)),
        ({"execution": {"seed": 7, "precision": "float7"}}, ("precision must be one of float32, bf16, not 'float7'",)),
    ],
)
def test_a_changed_description(changes, words, export, one_line):
    change(export, **changes)
    with one_line(RunError if "stage" not in changes else UserError, *words):
        load_exported(export)


@pytest.mark.parametrize(("field", "value"), [("mean", [math.nan]), ("std", [-1.0]), ("std", [math.inf])])
def test_statistics_that_make_no_pixels(field, value, export, one_line):
    change(export, data={**json.loads((export / "export.json").read_text())["data"], field: value})
    with one_line(RunError, "'data' is missing or wrong"):
        load_exported(export)


@pytest.mark.parametrize("field", ["samples", "test_samples", "shape", "dtype", "high", "classes", "mean", "std"])
@pytest.mark.parametrize("value", [-1, "os.system", [0.5, "x"], 10**30, None])
def test_a_changed_data_set(field, value, export, one_line):
    if field == "high" and value is None:
        pytest.skip("a set may have none")
    change(export, data={**json.loads((export / "export.json").read_text())["data"], field: value})
    with one_line(RunError, "'data' is missing or wrong"):
        load_exported(export)


def test_unknown_recipes_suggest_the_closest(export, one_line):
    change(export, recipe="dtp/digit")
    with one_line(UserError, "there is no recipe 'dtp/digit'; did you mean 'dtp/digits'?"):
        load_exported(export)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"warp": 9}, ("another version", "'warp'")),
        ({"hidden": "wide"}, ("cannot be built with its settings",)),
        ({"hidden": 9}, ("does not fit",)),
        ({"depth": 5}, ("does not fit",)),
        ({"file": "secret.txt"}, ("'file' names what is not in it",)),
        ({"chip": "localhost:9"}, ("'chip' names what is not in it",)),
    ],
)
def test_changed_settings(settings, words, export, one_line):
    changed_settings(export, **settings)
    with one_line(RunError, *words):
        load_exported(export)


@pytest.mark.parametrize(
    ("change_them", "words"),
    [
        (lambda weights: weights.pop(min(weights)), ("does not fit", "Missing")),
        (lambda weights: weights.update(extra=torch.zeros(2)), ("does not fit", "extra")),
        (lambda weights: weights.update({n: t.double() for n, t in weights.items()}), ("torch.float64",)),
        (lambda weights: weights.update({n: t[:1].clone() for n, t in weights.items()}), ("does not fit", "size")),
    ],
)
def test_other_weights(change_them, words, export, one_line):
    change_weights(export, change_them)
    with one_line(RunError, "model.safetensors", *words):
        load_exported(export)


def test_weights_that_the_description_does_not_tell_of(export, one_line):
    about = json.loads((export / "export.json").read_text())
    name = sorted(about["weights"]["tensors"])[0]
    about["weights"]["tensors"][name]["shape"] = [1]
    change(export, weights=about["weights"])
    with one_line(RunError, "does not fit export.json", name):
        load_exported(export)


def test_samples_of_another_shape(export, one_line):
    with one_line(UserError, "dtp/digits takes samples of shape (1, 8, 8), not (1, 9, 9)"):
        load_exported(export).predict(torch.zeros(2, 1, 9, 9, dtype=torch.uint8))


def test_pixels_on_another_scale(export, one_line):
    """What scikit-learn's `load_digits` gives is floating point in 0..16."""
    model, digits = load_exported(export), data.load("digits").test.images
    both = "dtp/digits takes pixels as uint8 in 0..16 or as floating point in 0..1"
    with one_line(UserError, f"{both}, and these are floating point in 0..16: scale them"):
        model.predict(digits.double())
    with one_line(UserError, both, "floating point in -1..1"):
        model.predict(digits / 8 - 1)
    with one_line(UserError, both, "uint8 in 0..240"):
        model.predict(digits * 15)
    expected = model.predict(digits)
    torch.testing.assert_close(model.predict(digits / 16 * (1 + 1e-6)), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("given", [3, 0.5, torch.tensor(1.0)])
def test_one_number_is_no_sample(given, export, one_line):
    with one_line(UserError, "dtp/digits takes samples", "not the number"):
        load_exported(export).predict(given)


@pytest.mark.parametrize("given", [None, "five", [[1.0], [2.0, 3.0]]])
def test_no_array_is_no_sample(given, export, one_line):
    with one_line(UserError, "dtp/digits takes samples as an array of numbers"):
        load_exported(export).predict(given)
