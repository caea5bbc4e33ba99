"""`beyondprop compare` on the command line."""

import json
from pathlib import Path

import pytest
from small_comparisons import FLAGS

from beyondprop.cli import main


def test_the_command_goes_on_from_what_has_finished_and_prints_json(capsys, monkeypatch):
    arguments = ["compare", "--rules", "bp,dfa", *FLAGS]
    assert main([*arguments, "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    monkeypatch.setattr("beyondprop.training.runs.fit", lambda *_a, **_k: pytest.fail("trained again"))
    assert main([*arguments, "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("bp", "dfa"):
        assert again["contenders"][name]["metrics"] == first["contenders"][name]["metrics"]


def test_recipes_take_the_place_of_rules(capsys):
    assert main(["compare", "bp/digits-mlp", "fa/digits", *FLAGS[:-1], "--quiet", "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(document["contenders"]) == ["bp/digits-mlp", "fa/digits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rules", "bp,nosuch"], "there is no system 'nosuch'"),
        (["--rules", ","], "--rules needs the ids"),
        (["--data", "imagenet"], "--data imagenet is no data set"),
        (["--network", "transformer"], "transformer"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--budget", "-1"], "--budget must be at least 0"),
        (["--trial-epochs", "1"], "--trial-epochs is of the trials of --budget"),
        (["bp/digits-mlp", "--rules", "bp"], "there is no flag --rules"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    assert main(["compare", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_another_comparison_is_not_overwritten(capsys):
    assert main(["compare", "--rules", "bp", *FLAGS]) == 0
    assert main(["compare", "--rules", "dfa", *FLAGS]) == 2
    assert "holds another comparison, which differs in its settings" in capsys.readouterr().err
    assert main(["compare", "--rules", "dfa", *FLAGS, "--replace"]) == 0
    Path("compare/compare.json").unlink()
    Path("compare/notes.txt").write_text("mine")
    assert main(["compare", "--rules", "dfa", *FLAGS]) == 2
    assert "holds other files (notes.txt)" in capsys.readouterr().err
