"""Tables: what stands in them, and that the documentation holds exactly what the result files give."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from beyondprop.catalogue import SYSTEMS
from beyondprop.cli import main
from beyondprop.errors import UserError
from beyondprop.report.other_tables import intensities_table, solved_table
from beyondprop.report.results import read_results
from beyondprop.report.tables import (
    benchmark_table,
    benchmark_tables,
    regenerate,
    results_table,
    summary_table,
    systems_table,
    tables,
)

ROOT = Path(__file__).parents[2]
DOCUMENTS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.exists()]


def a_result(**changes: Any) -> dict[str, Any]:
    return {
        "recipe": "noprop-dt/mnist",
        "settings": {"epochs": 5},
        "departures": ["padding 1", "epochs 5 (default 100)"],
        "seeds": [0, 1],
        "metrics": {"test_accuracy": {"values": [0.99, 0.98], "mean": 0.985, "std": 0.00707}},
        "paper": {"test_accuracy": 0.9947, "source": "Table 1"},
        "cost": {"train_seconds": 312.0, "images_per_second": 900.0, "peak_memory_bytes": 1},
        "environment": {"commit": None, "commits": [], "versions": {}, "device": "cpu", "threads": 2},
        **changes,
    }


def test_a_single_seed_has_no_deviation() -> None:
    one = a_result(seeds=[0], file=Path("noprop-dt/mnist.json"))
    assert "±" not in results_table([one])
    assert "±" in results_table([one | {"seeds": [0, 1]}])


def test_hardware_tells_the_processor_where_it_was_noted() -> None:
    one = a_result(file=Path("noprop-dt/mnist.json"))
    assert "| CPU, 2 threads |" in summary_table([one])
    known = {
        **one["environment"],
        "cpu": "AMD EPYC 7763 64-Core Processor, Intel(R) Xeon(R) CPU @ 2.20GHz",
        "threads": 1,
    }
    assert "| AMD EPYC 7763, Intel Xeon, 1 thread |" in summary_table([one | {"environment": known}])
    on_gpu = {**known, "device": "NVIDIA H200"}
    assert "| NVIDIA H200 |" in summary_table([one | {"environment": on_gpu}])


def write(folder: Path, name: str, document: dict[str, Any]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_hold_what_the_result_files_give(path: Path):
    made = tables(ROOT / "results") | benchmark_tables(ROOT / "benchmarks" / "results")
    text = path.read_text(encoding="utf-8")
    if not any(f"<!-- {name}:begin -->" in text for name in made):
        pytest.skip("no markers")
    assert regenerate(text, made) == text, "run `beyondprop report` over it"


def test_row_shows_the_result_beside_the_paper(tmp_path: Path):
    write(tmp_path, "noprop-dt/mnist.json", a_result())
    row = results_table(read_results(tmp_path)).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["`noprop-dt/mnist`", "98.50 ± 0.71", "2", "5", "99.47 (a)", "-0.97", "5.2 min", "1, 2"]


def a_benchmark() -> dict[str, Any]:
    row = {"case": "a|b", "metric": "images_per_second", "ours": 12345.6, "peer": "loop", "peer_value": 0.51234}
    environment = {"torch": "2.13.0", "cpu": "a chip", "threads": 2, "device": "cpu"}
    return {"environment": environment, "rows": [{**row, "ratio": 2.0}, {**row, "peer_value": None, "ratio": None}]}


def test_benchmark_stands_beside_its_peer():
    _, _, compared, alone, _, where = benchmark_table(a_benchmark()).splitlines()
    assert compared == "| a\\|b | images per second | 12,300 | loop | 0.512 | 2 |"
    assert alone.endswith("| loop |  |  |"), "a peer that was not run"
    assert where == "Measured with torch 2.13.0 on a chip, cpu, 2 threads."


@pytest.mark.parametrize("damaged", [{}, {"rows": [], "x": 1}, {"environment": {}, "rows": [{"case": "a"}]}, []])
def test_what_is_no_benchmark_is_refused(tmp_path: Path, damaged: Any):
    write(tmp_path, "speed.json", damaged)
    with pytest.raises(UserError, match=r"speed\.json is no result file of a benchmark"):
        benchmark_tables(tmp_path)


def test_rows_follow_the_catalogue_and_share_notes(tmp_path: Path):
    write(tmp_path, "noprop-dt/mnist.json", a_result())
    write(tmp_path, "noprop-dt/mnist-prototype.json", a_result(departures=["embedding prototype (default one-hot)"]))
    write(tmp_path, "bp/digits.json", a_result(recipe="bp/digits", departures=[], paper=None))
    write(tmp_path, "bp/mnist.json", a_result(recipe="bp/mnist", departures=["padding 1"]))
    lines = results_table(read_results(tmp_path)).splitlines()
    rows = [(line.split("|")[1].strip(), line.split("|")[8].strip()) for line in lines[2:6]]
    assert rows == [
        ("`bp/digits`", "none"),
        ("`bp/mnist`", "1"),
        ("`noprop-dt/mnist` (prototype)", "2"),
        ("`noprop-dt/mnist`", "1, 3"),
    ]
    notes = ["1. padding 1", "2. embedding prototype (default one-hot)", "3. epochs 5 (default 100)"]
    assert lines[-3:] == notes
    assert "|  |  |" in lines[2]  # no paper's number, no difference


def test_the_summary_takes_a_recipes_own_settings_before_a_figure_of_the_paper(tmp_path: Path):
    """A suffix tells of other settings: a smaller network, fewer epochs."""
    own = a_result(recipe="ep/mnist", paper=None)
    write(tmp_path, "ep/mnist.json", own)
    write(tmp_path, "ep/digits.json", a_result(recipe="ep/digits", paper=None, seeds=[0, 1, 2]))
    write(tmp_path, "ep/cifar-10-small.json", a_result(recipe="ep/cifar-10"))
    write(tmp_path, "dfa/digits.json", a_result(recipe="dfa/digits", paper=None))
    write(tmp_path, "dfa/mnist-short.json", a_result(recipe="dfa/mnist"))

    def row(system: str) -> str:
        lines = summary_table(read_results(tmp_path)).splitlines()
        return next(line for line in lines if line.startswith(f"| `{system}`: "))

    assert "`ep/mnist` |" in row("ep")
    assert "`dfa/mnist` (short)" in row("dfa")  # beside a first try
    write(tmp_path, "ep/cifar-10.json", a_result(recipe="ep/cifar-10"))
    assert "`ep/cifar-10` |" in row("ep")


def test_whose_a_papers_figure_is_stands_below(tmp_path: Path):
    others = {"test_accuracy": 0.9, "source": "official code, run again"}
    write(tmp_path, "noprop-dt/mnist.json", a_result())
    write(tmp_path, "threshold/teacher.json", a_result(recipe="threshold/teacher", paper=others))
    results = read_results(tmp_path)
    for table in (results_table(results), summary_table(results)):
        assert "| 99.47 (a) |" in table
        assert "| 90.00 (b) |" in table
        assert "- (a) arXiv 2503.24322, Table 1\n- (b) arXiv 2303.03382, official code, run again" in table


def test_no_results_is_said(tmp_path: Path):
    assert tables(tmp_path)["results"] == "No results yet."


def test_notes_cannot_break_the_markdown():
    table = results_table([a_result(departures=["a_t | *b*"]) | {"file": Path("noprop-dt/mnist.json")}])
    assert r"1. a\_t \| \*b\*" in table


def test_systems_table_links_papers():
    assert "(https://arxiv.org/abs/2503.24322)" in systems_table()


def test_systems_table_cuts_long_lists_short():
    """All recipes of a system are told or counted."""
    for system, line in zip(SYSTEMS, systems_table().splitlines()[2:], strict=True):
        cell = line.rpartition("](")[2].partition(" | ")[2]
        told = re.findall("`([^`]+)`", cell)
        rest = re.search(r"and (\d+) more", cell)
        assert told == [recipe.id.removeprefix(f"{system.id}/") for recipe in system.recipes[: len(told)]]
        assert len(told) + (int(rest[1]) if rest else 0) == len(system.recipes)
        assert len(told) <= 8


def test_regenerating_twice_changes_nothing():
    text = "before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n"
    once = regenerate(text, {"results": "new", "systems": "absent"})
    assert once == "before\n<!-- results:begin -->\n\nnew\n\n<!-- results:end -->\nafter\n"
    assert regenerate(once, {"results": "new"}) == once


@pytest.mark.parametrize(
    "text",
    [
        "<!-- results:begin -->",
        "<!-- results:end -->",
        "<!-- results:end --> <!-- results:begin -->",
        "<!-- results:begin --> <!-- results:end -->" * 2,
    ],
)
def test_unpaired_markers_are_refused(text: str):
    with pytest.raises(UserError, match="once each"):
        regenerate(text, {"results": "new"})


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", json.dumps({**a_result(), "metrics": {}}), json.dumps({**a_result(), "settings": {}})],
)
def test_damaged_result_is_refused_by_name(content: str, tmp_path: Path):
    (tmp_path / "bp").mkdir()
    (tmp_path / "bp" / "mnist.json").write_text(content)
    with pytest.raises(UserError, match=r"mnist\.json"):
        read_results(tmp_path)


def test_command_rewrites_files_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path, "results/noprop-dt/mnist.json", a_result())
    good, bad = tmp_path / "good.md", tmp_path / "bad.md"
    good.write_text("<!-- results:begin --><!-- results:end -->\n<!-- systems:begin --><!-- systems:end -->\n")
    bad.write_text("<!-- results:begin -->")
    before = good.read_text()
    results = ["--results", str(tmp_path / "results")]
    assert main(["report", str(good), str(bad), *results]) == 2
    assert good.read_text() == before
    assert main(["report", str(good), *results]) == 0
    assert "98.50 ± 0.71" in good.read_text()
    assert "2503.24322" in good.read_text()
    assert main(["report", *results]) == 0
    assert "98.50 ± 0.71" in capsys.readouterr().out
    whole = good.read_text()
    assert main(["report", str(good), "--results", str(tmp_path / "resluts")]) == 2
    assert "resluts holds no result file" in capsys.readouterr().err
    assert good.read_text() == whole


def test_arrays_that_solved_a_task_are_counted_by_intensity():
    def result(name: str, intensities: list[float], shares: list[float], costs: list[float], seeds: int):
        metrics = {"solved_by_intensity": {"mean": shares}, "median_cost_by_intensity": {"mean": costs}}
        settings = {"starts": 10, "intensities": intensities}
        seeded = {"recipe": f"heb/{name}", "file": Path(f"{name}.json"), "seeds": list(range(seeds))}
        return {**seeded, "settings": settings, "metrics": metrics}

    one = result("xor", [1.6, 0.8], [0.5, 0.0], [8.07e-9, 0.42], seeds=1)
    two = result("xor-adam", [1.6, 2.0], [0.95, 0.0], [1.7e-15, 0.015], seeds=2)
    heads, _, *rows = intensities_table([one, two]).splitlines()
    assert heads.count("median cost") == heads.count("solved") == 2
    assert rows == [
        "| 0.8 | 0 of 10 | 4.2e-01 |  |  |",
        "| 1.6 | 5 of 10 | 8.1e-09 | 19 of 20 | 1.7e-15 |",
        "| 2 |  |  | 0 of 20 | 1.5e-02 |",
    ]
    assert intensities_table([]) == "No results yet."


def test_solved_tasks_count_seeds_and_show_how_long_they_stayed_so():
    result = {
        "recipe": "tp-ri/adding",
        "file": Path("adding-local.json"),
        "settings": {"epochs": 7},
        "departures": ["epochs 7"],
        "seeds": [0, 1, 2, 3],
        "cost": {"train_seconds": 12.0},
        "metrics": {
            "solved": {"values": [1.0, 0.0, 1.0, 1.0], "mean": 0.75, "std": 0.5},
            "solved_after": {"mean": 0.25},
            "stayed_solved": {"mean": 0.875},
            "test_mse": {"mean": 0.1},
            "test_within": {"mean": 0.5},
        },
    }
    row = solved_table([result]).splitlines()[2]
    assert row == "| `tp-ri/adding` (local) | 3 of 4 | 25 | 87.5 | 50.00 | 7 | 12.0 s | epochs 7 |"
    assert solved_table([]) == "No results yet."
