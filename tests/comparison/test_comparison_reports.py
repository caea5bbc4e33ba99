"""`beyondprop report` on runs, comparisons and committed results."""

import json
import re
from pathlib import Path

from small_comparisons import FLAGS, Outside

from beyondprop.cli import main
from beyondprop.training.run_folder import read_metrics


def test_a_report_of_runs_lists_finished_and_unfinished_ones(capsys):
    assert main(["compare", "--rules", "bp,dfa", *FLAGS]) == 0
    for result in Path("runs/dfa").rglob("result.json"):
        result.unlink()
    assert main(["report", "runs", "--page", "runs.html"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"bp/digits-compared +[01] +finished +\d+\.\d\d %", printed)) == 2
    assert len(re.findall(r"dfa/digits-compared +[01] +unfinished +– ", printed)) == 2
    for path in Path("runs").rglob("settings.json"):  # the figures of each row are those of its own run
        row = next(line for line in printed.splitlines() if str(path.parent.relative_to("runs")) in line)
        records = [record for record in read_metrics(path.parent) if "seconds" in record]
        seconds, held_out = records[-1]["seconds"], records[-1]["validation_accuracy"]
        result = path.parent / "result.json"
        if result.exists():
            found = json.loads(result.read_bytes())
            seconds, held_out = found["train_seconds"], found["metrics"]["validation_accuracy"]
            assert f" {100 * found['metrics']['test_accuracy']:.2f} %" in row.partition("finished")[2][:12]
        row, _, flags = row.partition(" --")  # what tells folders with numbers for names apart
        assert row.split()[-5:] == [f"{100 * held_out:.2f}", "%", "2", f"{seconds:.3g}", "s"]
        assert "epochs 2" in flags
        assert "seed" not in flags
    page = Path("runs.html").read_text()
    outside = Outside()
    outside.feed(page)
    assert not outside.found
    rates = [
        json.loads(path.read_bytes())["settings"]["learning_rate"]
        for path in sorted(Path("runs").rglob("settings.json"))
    ]
    assert re.findall(r"<th>learning_rate</th><td class=text>([^<]+)<", page) == [str(rate) for rate in rates]
    assert main(["report", str(Path("runs", "bp")), "README.md"]) == 2
    Path("empty").mkdir()
    assert main(["report", "empty"]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_damaged_run_is_a_row_and_ends_nothing(capsys):
    assert main(["compare", "--rules", "bp,dfa", *FLAGS]) == 0
    capsys.readouterr()
    first, second = sorted(Path("runs/bp").rglob("result.json"))
    other, last = sorted(Path("runs/dfa").rglob("result.json"))
    first.write_text("{")
    second.write_text("{}")
    other.write_text("[]")
    (last.parent / "settings.json").write_text("{")
    assert main(["report", "runs", "--page", "runs.html"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert re.search(r"bp/digits-compared +0 +damaged \(.*result\.json cannot be read", rows[1])
    assert re.search(r"bp/digits-compared +1 +damaged \(.*result\.json is no result", rows[2])
    assert re.search(r"dfa/digits-compared +0 +damaged \(.*result\.json is no result", rows[3])
    assert re.search(r"– +– +damaged \(.*settings\.json cannot be read", rows[4])
    assert Path("runs.html").read_text().count("damaged (") == 4


def test_a_report_of_comparisons_is_their_tables_and_pages(capsys):
    assert main(["compare", "--rules", "bp", *FLAGS, "--out", "all/one"]) == 0
    page = Path("all/one/index.html").read_text()
    capsys.readouterr()
    assert main(["report", "all/one", "--page", "again.html"]) == 0
    table = capsys.readouterr().out
    assert "| `bp` |" in table
    assert Path("again.html").read_text() == page
    assert main(["report", "all"]) == 0
    assert capsys.readouterr().out == f"comparison-one:\n\n{table}".removeprefix("comparison-")
    for picture in Path("all/one").glob("*.png"):
        picture.unlink()
    assert main(["report", "all/one", "--page", "again.html"]) == 0
    assert Path("again.html").read_text() == page  # drawn anew from the figures
    assert main(["report", "all", "--page", "again.html"]) == 2
    assert "all holds no run and is no comparison" in capsys.readouterr().err
    Path("all/one/compare.json").write_text("{}")
    assert main(["report", "all"]) == 2
    assert "is no document of `beyondprop compare`" in capsys.readouterr().err


def test_a_report_of_one_systems_results_is_their_table(capsys):
    results = Path(__file__).resolve().parents[2] / "results"
    assert main(["report", str(results / "dfa")]) == 0
    printed = capsys.readouterr().out
    assert "| `dfa/mnist` |" in printed
    assert "`fa/" not in printed
    assert "No results yet" not in printed
    assert main(["report", str(results / "network-inference")]) == 0
    assert "Edge AUC" in capsys.readouterr().out
    assert main(["report", str(results / "compare")]) == 0
    assert "mnist-mlp:" in capsys.readouterr().out


def test_a_report_of_results_is_their_table(capsys):
    results = Path(__file__).resolve().parents[2] / "results"
    assert main(["report", str(results)]) == 0
    assert "| `dfa/mnist` |" in capsys.readouterr().out
