"""`reproduce`: seeds, run folders, the result file and what it may not overwrite."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from beyondprop.catalogue import find_recipe
from beyondprop.cli import main
from beyondprop.reproduce import reproduce, runs_root, spread
from beyondprop.training import Execution, Outcome

SHAPE = {"recipe", "settings", "departures", "seeds", "metrics", "paper", "cost", "environment"}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Puts a stand-in in the place of training; gives the folders it was called for."""
    folders: list[Path] = []

    def stand_in(recipe: Any, settings: Any, execution: Any, folder: Path, **options: Any) -> Outcome:
        assert options["resume"]
        folders.append(folder)
        seed = execution.seed
        folder.mkdir(parents=True, exist_ok=True)
        versions = {"torch": "2.13.0", "beyondprop": "0.1.0"}
        about = {"versions": versions, "device": "cpu", "threads": 2, **({"cpu": "AMD EPYC"} if seed else {})}
        (folder / "result.json").write_text(json.dumps(about))
        metrics = {"test_accuracy": 0.9 + 0.02 * seed, "block_test_accuracy": [0.5, 0.5 + 0.1 * seed]}
        return Outcome(metrics, folder, 10.0 + seed, 100.0, 1000 * (seed + 1), ["aaa", "bbb"] if seed else ["aaa"])

    monkeypatch.setattr("beyondprop.training.train", stand_in)
    return folders


def read(path: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(path).read_text())
    return document


def test_result_has_the_agreed_shape(folder: Path, trained: list[Path], capsys: pytest.CaptureFixture[str]):
    assert main(["reproduce", "noprop-dt/mnist", "--seeds", "2", "--epochs", "5"]) == 0
    result = read("results/noprop-dt/mnist.json")
    assert set(result) == SHAPE
    assert (result["recipe"], result["settings"]["epochs"], result["seeds"]) == ("noprop-dt/mnist", 5, [0, 1])
    assert "epochs 5 (default 100)" in result["departures"]
    accuracy = result["metrics"]["test_accuracy"]
    assert accuracy["values"] == [0.9, 0.92]
    assert accuracy["mean"] == pytest.approx(0.91)
    assert accuracy["std"] == pytest.approx(0.02 / math.sqrt(2))
    blocks = result["metrics"]["block_test_accuracy"]
    assert blocks["values"] == [[0.5, 0.5], [0.5, 0.6]]
    assert blocks["mean"] == pytest.approx([0.5, 0.55])
    assert blocks["std"] == pytest.approx([0, 0.1 / math.sqrt(2)])
    assert result["paper"] == {"test_accuracy": 0.9947, "source": "arXiv 2503.24322v1, Table 1"}
    assert result["cost"] == {"train_seconds": 10.5, "images_per_second": 100.0, "peak_memory_bytes": 2000}
    environment = result["environment"]
    assert set(environment) == {"commit", "commits", "versions", "device", "threads", "cpu"}
    assert (environment["commit"], environment["commits"]) == ("bbb", ["aaa", "bbb"])
    assert (environment["device"], environment["threads"]) == ("cpu", 2)
    assert environment["cpu"] == "AMD EPYC"  # as far as it was noted: older runs do not know theirs
    assert set(environment["versions"]) == {"torch", "beyondprop", "python"}
    out = capsys.readouterr().out
    assert "91.00 ± 1.41 %" in out
    assert "99.47 %" in out


def test_json_is_the_file_and_where_it_is(folder: Path, trained: list[Path], capsys: pytest.CaptureFixture[str]):
    assert main(["reproduce", "bp/digits", "--seeds", "1", "--json", "--results", "elsewhere"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document == {**read("elsewhere/bp/digits.json"), "file": "elsewhere/bp/digits.json"}
    assert document["paper"] is None
    assert "cpu" not in document["environment"]
    assert document["metrics"]["test_accuracy"]["std"] == 0


def test_other_settings_have_other_folders(folder: Path, trained: list[Path]):
    lines = ("", "--eta 0.5", "--precision bf16", "--threads 2 --device cpu", "--epochs 31")
    for line in lines:
        assert main(f"reproduce noprop-dt/digits --seeds 1 {line}".split()) == 0
    assert len(set(trained)) == len(lines) - 1
    assert trained[3] == trained[0]  # device and threads may change on the way
    assert all(path.is_relative_to(runs_root() / "noprop-dt" / "digits") and path.name == "seed-0" for path in trained)


def test_precision_is_a_departure(folder: Path, trained: list[Path]):
    assert main(["reproduce", "bp/digits", "--seeds", "1", "--precision", "bf16"]) == 0
    assert read("results/bp/digits.json")["departures"] == ["precision bf16"]


def test_changed_embedding_is_written_beside(folder: Path, trained: list[Path]):
    for line in ("", "--embedding prototype", "--embedding learned --suffix mine", "--suffix short"):
        assert main(f"reproduce noprop-dt/digits --seeds 1 {line}".split()) == 0
    names = {path.name for path in Path("results/noprop-dt").iterdir()}
    assert names == {"digits.json", "digits-prototype.json", "digits-mine.json", "digits-short.json"}


@pytest.mark.parametrize("smaller", ["--seeds 1 --epochs 9", "--seeds 2 --epochs 8"])
def test_smaller_result_does_not_overwrite(smaller: str, folder: Path, trained: list[Path], capsys: Any):
    assert main(["reproduce", "bp/digits", "--seeds", "2", "--epochs", "9"]) == 0
    before = read("results/bp/digits.json")
    trained.clear()
    assert main(f"reproduce bp/digits {smaller}".split()) == 2
    assert "overwrite it with --replace" in capsys.readouterr().err
    assert trained == []  # refused before anything is trained
    assert read("results/bp/digits.json") == before
    assert main(f"reproduce bp/digits {smaller} --replace".split()) == 0
    assert read("results/bp/digits.json") != before


def test_larger_result_overwrites(folder: Path, trained: list[Path]):
    assert main(["reproduce", "bp/digits", "--seeds", "1"]) == 0
    assert main(["reproduce", "bp/digits", "--seeds", "2"]) == 0
    assert read("results/bp/digits.json")["seeds"] == [0, 1]


def test_failure_leaves_the_file_whole(folder: Path, trained: list[Path], monkeypatch: pytest.MonkeyPatch):
    assert main(["reproduce", "bp/digits", "--seeds", "1"]) == 0
    before = Path("results/bp/digits.json").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("beyondprop.training.atomic.os.write", full)
        assert main(["reproduce", "bp/digits", "--seeds", "2"]) == 2
    assert Path("results/bp/digits.json").read_bytes() == before
    assert [path.name for path in Path("results/bp").iterdir()] == ["digits.json"]


def test_interrupt_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt("stopped")

    monkeypatch.setattr("beyondprop.training.train", interrupted)
    assert main(["reproduce", "bp/digits", "--seeds", "2"]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from there\n"
    assert not Path("results/bp/digits.json").exists()


def test_real_run_from_python_goes_on_with_the_next_seed(folder: Path):
    from dataclasses import replace

    recipe = find_recipe("bp/digits")
    settings = replace(recipe.settings, epochs=1, batch_size=512, steps=2, first_width=2, hidden=8)
    execution = Execution(threads=1)  # small tensors, and other tests may run beside
    _, first = reproduce(recipe, settings, execution, seeds=1, progress=False)
    path, both = reproduce(recipe, settings, execution, seeds=2, progress=False)
    assert both == read(str(path))
    values = both["metrics"]["test_accuracy"]["values"]
    assert values[0] == first["metrics"]["test_accuracy"]["values"][0]
    assert all(0 <= value <= 1 for value in values)
    assert len(list((folder / "runs").glob("bp/digits/*/seed-*"))) == 2


def test_spread_of_equal_values_is_zero():
    assert spread([0.1, 0.1, 0.1])["std"] == 0.0
