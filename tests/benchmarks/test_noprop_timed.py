import json
import os
import subprocess
import time
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import noprop_timed

    return noprop_timed


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS / "peers")
    import _common

    return _common


@pytest.fixture
def tiny(script: ModuleType) -> object:
    images = (("tiny", (1, 8, 8)),)
    return script.Size(batch=4, images=images, widths=(2, 3, 4), hidden=8, steps=2, heun_steps=3, paper_steps=5)


@pytest.mark.slow
def test_the_result_has_the_shape_that_other_programs_read(
    script: ModuleType, tiny: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "noprop_timed.json"
    script.main(["--rounds", "1", "--threads", "1", "--out", str(out)], tiny)
    assert "ours bf16, train twice" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert set(result) == {"environment", "rows"}
    assert {"torch", "cpu", "threads", "device", "commit", "rounds"} <= set(result["environment"])
    assert len(result["rows"]) == 7 * 2 * 2  # cases, precisions, peers
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        assert row["ours"] > 0
        assert row["peer_value"] is row["ratio"] is None  # not measured without a checkout


def test_ours_stands_beside_each_peer_at_its_faster_way(script: ModuleType) -> None:
    size = script.Size(batch=10)
    mine = {"train": [1.0, 2.0, 9.0], "train twice": [5.0], "multistep 2": [0.25], "multistep 20": [0.5]}
    seconds = {
        "ours float32": mine,
        "ours bf16": {task: [value / 2 for value in taken] for task, taken in mine.items()},
        "yhgon": {"train": [8.0], "euler 20": [10.0], "heun 40": [40.0]},
        "nullaprop on": {"train": [5.0, 3.0, 4.0], "euler 20": [2.0], "heun 40": [4.0]},
        "nullaprop off": {"train": [6.0], "euler 20": [1.0], "heun 40": [5.0]},
    }
    found = {}
    for row in script.rows(size, "tiny", 1, seconds):
        found[row.case.split("threads, ")[1].split(", peer float32")[0], row.peer.split("@")[0]] = row
    step, equal = "one pass of the block, the peer's two, ours", "two passes of the block as the peer, ours"
    euler, heun = "20 steps, the peer's 20 of Euler, ours", "20 steps, the peer's 40 of Heun, ours"
    expected = {  # images per second of ours and of the peer
        (f"{step} float32", "yhgon/NoProp"): (5, 10 / 8),
        (f"{step} float32", "dimarkov/nullaprop"): (5, 10 / 4),
        (f"{step} bf16", "dimarkov/nullaprop"): (10, 10 / 4),
        (f"{equal} float32", "dimarkov/nullaprop"): (2, 10 / 4),
        (f"{euler} float32", "yhgon/NoProp"): (20, 1),
        (f"{euler} bf16", "dimarkov/nullaprop"): (40, 10),
        (f"{heun} float32", "dimarkov/nullaprop"): (20, 10 / 4),
    }
    for key, (ours, theirs) in expected.items():
        assert (found[key].ours, found[key].peer_value, found[key].ratio) == (ours, theirs, ours / theirs)
    assert len(found) == 24
    assert "   0.80  beside the faster peer: NoProp-CT training step, tiny" in script.table(list(found.values()))


def test_sides_with_blocks_of_different_sizes_are_refused(script: ModuleType) -> None:
    def command(parameters: int) -> list[str]:
        return ["sh", "-c", f"""echo '{{"block_parameters": {parameters}}}'; cat"""]

    with pytest.raises(SystemExit, match=r"different sizes: \[7, 8\]"):
        script.take_turns(script.Size(), {"ours": command(7), "yhgon": command(8)}, 1, paper_steps=False)


def test_a_side_that_ends_early_ends_the_measurement(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="yhgon ended with status 3"):
        script.take_turns(script.Size(), {"yhgon": ["sh", "-c", "exit 3"]}, 1, paper_steps=False)


def test_the_first_call_of_a_turn_counts_only_where_it_stands_alone(common: ModuleType) -> None:
    sleeps = iter([0.05, 0.0, 0.0, 0.0])
    assert max(common.turn(lambda: time.sleep(next(sleeps)), calls=3, limit=9)) < 0.04
    assert next(sleeps, None) is None  # three that count, and the one before them
    (alone,) = common.turn(lambda: time.sleep(0.05), calls=3, limit=0.01)
    assert alone >= 0.05


def test_a_checkout_of_another_commit_or_with_changed_files_is_refused(common: ModuleType, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a"}
        command = ["git", "-C", str(tmp_path), *arguments]
        return subprocess.run(
            command, env={**os.environ, **names}, capture_output=True, text=True, check=True
        ).stdout.strip()

    with pytest.raises(SystemExit, match="its commit is unknown"):
        common.check_commit(tmp_path / "missing", "0" * 40)
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    common.check_commit(tmp_path, git("rev-parse", "HEAD"))
    with pytest.raises(SystemExit, match="not a checkout of 000"):
        common.check_commit(tmp_path, "0" * 40)
    (tmp_path / "file").write_text("two")
    with pytest.raises(SystemExit, match="has changed files"):
        common.check_commit(tmp_path, git("rev-parse", "HEAD"))
