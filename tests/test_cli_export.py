"""`beyondprop export`, and `evaluate` of what it writes: what is printed, and that nothing is lost."""

import errno
import json
import os
from pathlib import Path

import pytest

from beyondprop import load_exported
from beyondprop.cli import main

SMALL = ["--epochs", "1", "--hidden", "8", "--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("BEYONDPROP_RUNS", str(root))
        assert main(["train", "dfa/digits", *SMALL, "--quiet"]) == 0
    return root / "dfa" / "digits" / "seed-0"


def figures(capsys: pytest.CaptureFixture[str], folder: Path) -> list[str]:
    assert main(["evaluate", str(folder)]) == 0
    return capsys.readouterr().out.splitlines()[1:]  # the first line names the folder


def test_is_written_told_and_measured_as_the_run(
    run: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("BEYONDPROP_RUNS", str(root))
    out = tmp_path / "new" / "shared"
    assert main(["export", "dfa/digits/seed-0", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"export    {out}\n" in told
    assert eval(told.splitlines()[1].split(None, 1)[1], {"beyondprop": __import__("beyondprop")}).rule
    assert figures(capsys, out) == figures(capsys, run)
    assert main(["evaluate", str(out), "--json", "--split", "train"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 1437


def test_goes_into_the_run_folder_by_default(run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": str(run), "folder": str(run / "export")}
    assert load_exported(run / "export").recipe.id == "dfa/digits"


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_only_another_export_gives_way_and_only_when_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    out.mkdir()  # empty
    assert main(["export", str(run), "--out", str(out)]) == 0
    (out / "README.md").write_text("mine")
    capsys.readouterr()
    assert "--replace" in refused(capsys, "export", str(run), "--out", str(out))
    assert (out / "README.md").read_text() == "mine"
    (out / "notes.txt").write_text("mine too")
    assert "notes.txt" in refused(capsys, "export", str(run), "--out", str(out), "--replace")
    assert (out / "README.md").read_text() == "mine"
    (out / "notes.txt").unlink()
    assert main(["export", str(run), "--out", str(out), "--replace"]) == 0
    assert (out / "README.md").read_text() != "mine"


@pytest.mark.parametrize("replace", [[], ["--replace"]])
def test_other_folders_and_files_are_left_alone(
    replace: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "README.md").write_text("of another project")
    assert "holds other files (README.md)" in refused(capsys, "export", str(run), "--out", str(tmp_path), *replace)
    assert "is a file" in refused(capsys, "export", str(run), "--out", str(tmp_path / "README.md"), *replace)
    assert "holds other files" in refused(capsys, "export", str(run), "--out", str(run), *replace)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_full_disk_leaves_what_was_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    assert main(["export", str(run), "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        if bytes(content).startswith(b"---"):  # the card
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    assert "No space left" in refused(capsys, "export", str(run), "--out", str(out), "--replace")
    assert "No space left" in refused(capsys, "export", str(run), "--out", str(tmp_path / "new"))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_exported_or_measured(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "needs a run folder" in refused(capsys, "export")
    assert "no run folder" in refused(capsys, "export", str(tmp_path / "none"))
    assert "holds no run" in refused(capsys, "export", str(tmp_path))
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "settings.json").write_bytes((run / "settings.json").read_bytes())
    assert "has not finished" in refused(capsys, "export", str(begun))
    out = tmp_path / "out"
    assert main(["export", str(run), "--out", str(out)]) == 0
    capsys.readouterr()
    about = (out / "export.json").rename(tmp_path / "about")
    assert "holds weights, but neither" in refused(capsys, "evaluate", str(out))
    about.rename(out / "export.json")
    content = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(content[:-5])
    assert "truncated" in refused(capsys, "evaluate", str(out))
    (out / "export.json").write_text("{")
    assert "cannot be read" in refused(capsys, "evaluate", str(out))


def test_runs_that_learned_from_a_file_of_the_users_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "sines.csv").write_text("value\n" + "\n".join(str((n * 7919) % 13 / 13) for n in range(400)))
    words = ["--file", str(tmp_path / "sines.csv"), "--epochs", "1", "--hidden", "4", "--out", str(tmp_path / "run")]
    assert main(["train", "node-perturbation/csv", *words, "--quiet"]) == 0
    assert "'file' names what is not in it" in refused(capsys, "export", str(tmp_path / "run"))
