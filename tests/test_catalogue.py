"""The catalogue: complete, consistent, and free of torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from beyondprop.catalogue import SYSTEMS, System, find_recipe, find_system
from beyondprop.errors import UserError
from beyondprop.rule import Rule
from beyondprop.solver import Solver

each_system = pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.id)


def test_ids_are_unique():
    systems = [system.id for system in SYSTEMS]
    recipes = [recipe.id for system in SYSTEMS for recipe in system.recipes]
    assert len(set(systems)) == len(systems)
    assert len(set(recipes)) == len(recipes)


@each_system
def test_recipes_belong_to_their_system(system: System):
    assert all(recipe.id.split("/")[0] == system.id and recipe.id.count("/") == 1 for recipe in system.recipes)


@each_system
def test_there_is_a_recipe_that_needs_no_download(system: System):
    recipe = find_recipe(f"{system.id}/{system.quick}")
    assert recipe.dataset == system.quick
    assert system.quick == "digits" or recipe.data or recipe.drawn


@each_system
def test_class_loads(system: System):
    assert issubclass(system.load(), (Rule, Solver))


@each_system
def test_its_page_speaks_of_it(system: System):
    page = Path(__file__).resolve().parents[1] / "docs" / "rules" / f"{system.page}.md"
    assert re.search(rf"(?<![\w-]){system.id}(?![\w-])", page.read_text(encoding="utf-8"))


@each_system
def test_paper_is_cited_in_full(system: System):
    paper = system.paper
    assert paper.url is not None
    assert paper.bibtex.startswith("@")
    assert paper.bibtex.count("{") == paper.bibtex.count("}")
    assert str(paper.year) in paper.bibtex
    assert paper.title in " ".join(re.sub(r"[{}]", "", paper.bibtex).split())
    for author in paper.authors.split(", "):
        assert author.split()[-1] in paper.bibtex


@each_system
def test_published_numbers_are_fractions_with_a_source(system: System):
    for recipe in system.recipes:
        published = recipe.paper(recipe.settings)
        if published is not None:
            assert published.source
            assert all(0 < value < 1 for value in published.values.values())


def test_lookup_finds_what_is_there():
    assert find_system("bp").id == "bp"
    assert find_recipe("noprop-dt/digits").id == "noprop-dt/digits"


@pytest.mark.parametrize(
    ("word", "closest"),
    [
        ("noprop-dt/digit", "noprop-dt/digits"),
        ("noprop-dt/minst", "noprop-dt/mnist"),
        ("noprop-dt/cifar", "noprop-dt/cifar-10"),
        ("BP/MNIST", "bp/mnist"),
        ("noprop/cifar10", "noprop-dt/cifar-10"),
        ("forward-forward/digits", "ff/digits"),  # by the name in full
    ],
)
def test_unknown_recipe_is_refused_with_the_closest(word: str, closest: str):
    with pytest.raises(UserError, match=f"no recipe '{word}'; did you mean '{closest}'"):
        find_recipe(word)


def test_unknown_system_is_refused_with_the_closest():
    with pytest.raises(UserError, match="no system 'noprop'; did you mean 'noprop-dt'"):
        find_system("noprop")
    with pytest.raises(UserError, match="no system 'dfa/digits'; did you mean 'dfa'"):
        find_system("dfa/digits")


def test_nothing_close_gives_no_suggestion():
    with pytest.raises(UserError, match=r"no recipe 'zzzz' \("):
        find_recipe("zzzz")


def test_import_leaves_torch_out():
    code = "import sys, beyondprop.catalogue; print([m for m in sys.modules if m in {'torch', 'numpy', 'sklearn'}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
