import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

# The script parts into processes; a child of pytest's own would take pytest along.
TINY = """
import sys, noprop_scaling as script
size = script.Size(blocks=2, batch=4, widths=(2, 3, 4), hidden=8, images=16, stall_seconds=0.3, stall_steps=6)
script.main(["--rounds", "1", "--steps", "1", "--out", sys.argv[1]], size)
"""


@pytest.mark.slow
def test_the_result_has_the_shape_that_other_programs_read(tmp_path: Path) -> None:
    out = tmp_path / "results" / "noprop_scaling.json"
    command = [sys.executable, "-c", TINY, str(out)]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "images/s" in done.stdout
    result = json.loads(out.read_text())
    assert {"torch", "cpu", "threads", "device", "commit"} <= set(result["environment"])
    assert result["environment"]["threads"] == 1
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        assert row["peer_value"] > 0
    rows = {(row["metric"], row["case"].rsplit(", ", 1)[1], row["peer"]): row for row in result["rows"]}
    sent = {key[1]: row for key, row in rows.items() if key[0].startswith("sent_bytes")}
    assert sent["fixed embedding"]["ours"] == 0
    assert sent["fixed embedding"]["ratio"] is None
    assert sent["learned embedding"]["ours"] == 10 * 20 * 4
    rates = [row for (metric, _, _), row in rows.items() if metric == "images_per_second"]
    assert len(rates) == 4
    assert all(row["ratio"] == pytest.approx(row["ours"] / row["peer_value"]) for row in rates)
    stalls = [row for (metric, _, _), row in rows.items() if metric == "seconds"]
    assert [row["ratio"] == pytest.approx(row["peer_value"] / row["ours"]) for row in stalls] == [True, True]
