"""The result files that are committed: of the recipes as they are now."""

import dataclasses
import json
from pathlib import Path

import pytest

from beyondprop.catalogue import SYSTEMS, find_recipe
from beyondprop.recipe import Recipe
from beyondprop.report.comparison_page import page_anew

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "results").glob("*/*.json"))
COMPARISONS = sorted(path.parent for path in (ROOT / "results" / "compare").glob("*/compare.json"))


def recipe_settings(recipe: Recipe) -> dict[str, object]:
    """As a result file would hold them."""
    settings: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(recipe.settings), default=str))
    return settings


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_differs_from_the_recipe_is_told(path: Path):
    """A setting that a recipe has got since has its former behaviour as default; a changed default wants a new run."""
    result = json.loads(path.read_bytes())
    recipe = find_recipe(result["recipe"])
    now, told = recipe_settings(recipe), " ".join(result["departures"])
    for name, value in result["settings"].items():
        assert name in now, f"{name} is no setting of {recipe.id} any more"
        assert value == now[name] or name in recipe.variants or name.replace("_", " ") in told, (
            f"{name} was {value!r} and is {now[name]!r} now: run beyondprop reproduce {recipe.id} again"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_commit_that_trained_a_result_is_there(path: Path):
    """A source with changes that were never committed cannot be looked up, nor the figures be had again from it."""
    environment = json.loads(path.read_bytes())["environment"]
    commits = {environment["commit"], *environment.get("commits", ())}
    dirty = [commit for commit in commits if str(commit).endswith("-dirty")]
    assert not dirty, f"{dirty}: commit the source and reproduce"


@pytest.fixture(scope="module")
def refresh(load_script):
    return load_script("refresh_paper")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_is_said_of_the_paper_is_todays(path: Path, refresh):
    """Departures and published figures: words of the recipe, which may change after a run."""
    told = json.loads(path.read_bytes())
    assert refresh.refreshed(told, path) == told, "read what results/refresh_paper.py changes, or reproduce again"


def test_a_refreshed_file_keeps_what_was_measured(refresh, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(refresh, "RESULTS", tmp_path)
    before = json.loads((ROOT / "results" / "cafo" / "mnist.json").read_bytes())
    assert "precision bf16" in before["departures"]
    (tmp_path / "cafo").mkdir()
    (tmp_path / "cafo" / "mnist.json").write_text(
        json.dumps({**before, "departures": ["precision bf16"], "paper": None})
    )
    refresh.main([])
    assert json.loads((tmp_path / "cafo" / "mnist.json").read_bytes()) == before
    said = capsys.readouterr().out
    assert "cafo/mnist.json: departures" in said
    assert "cafo/mnist.json: paper" in said


@pytest.mark.parametrize("folder", COMPARISONS, ids=lambda folder: folder.name)
def test_a_comparisons_page_is_that_of_its_document(folder: Path):
    again = f"beyondprop report {folder.relative_to(ROOT)} --page {folder.relative_to(ROOT)}/index.html"
    written = (folder / "index.html").read_text(encoding="utf-8")
    assert written == page_anew(folder), f"the page is older than the code or the document: {again}"


def test_every_system_has_its_first_try():
    missing = {f"{system.id}/{system.quick}" for system in SYSTEMS} - {f"{p.parent.name}/{p.stem}" for p in FILES}
    assert not missing


@pytest.mark.parametrize("path", [path for path in FILES if path.stem == "digits"], ids=lambda path: path.parent.name)
def test_first_tries_are_of_the_recipe_as_it_is(path: Path):
    """They take seconds: nothing needs to be cut short."""
    result = json.loads(path.read_bytes())
    now = recipe_settings(find_recipe(result["recipe"]))
    assert len(result["seeds"]) >= 3
    assert {name: value for name, value in result["settings"].items() if value != now[name]} == {}
