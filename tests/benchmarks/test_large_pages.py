import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
def test_the_result_has_the_shape_that_other_programs_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import large_pages

    asked, start = [], subprocess.run

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """In this process: to start one takes longer than the test."""
        if command[0] != sys.executable:
            return start(command, **options)
        asked.append(options["env"][large_pages.VARIABLE])
        large_pages.main(command[2:])
        return subprocess.CompletedProcess(command, 0, stdout=capsys.readouterr().out)

    monkeypatch.setattr(large_pages.subprocess, "run", run)
    out = tmp_path / "large_pages.json"
    large_pages.main(["--batch", "10", "--repeats", "1", "--rounds", "1", "--out", str(out)])
    result = json.loads(out.read_text())
    assert asked == ["1", "0"]
    assert set(result) == {"environment", "rows"}
    assert [row["case"].split(",")[0] for row in result["rows"]] == ["Backprop"] * 2 + ["MonoForward"] * 2 + ["PCANet"]
    for row in result["rows"]:
        assert row["ratio"] == pytest.approx(row["peer_value"] / row["ours"])
