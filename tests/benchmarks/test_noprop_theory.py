"""The script behind docs/noprop-theory.md; and that tables and pictures show what the result files hold."""

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from beyondprop.report.tables import regenerate

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import noprop_theory

    return noprop_theory


@pytest.fixture
def costs(script: ModuleType) -> ModuleType:
    import _noprop_costs

    return _noprop_costs


@pytest.fixture
def report(script: ModuleType) -> ModuleType:
    import noprop_report

    return noprop_report


@pytest.fixture
def pictures(script: ModuleType) -> ModuleType:
    import _pictures

    return _pictures


@pytest.fixture
def tiny(script: ModuleType) -> object:
    import _noprop_sides

    step = _noprop_sides.Size(blocks=2, batch=4, widths=(2, 3, 4), hidden=8, image=(3, 8, 8))
    return script.Size(
        step=step,
        solver_steps=(3,),
        counted_steps=(1, 3),
        step_counts=(1, 20),
        seeds=1,
        held_out=1300,
        epochs=1,
        chain_epochs=1,
        views=(8, 1),
        widths=(8,),
    )


@pytest.mark.slow
def test_the_result_has_the_shape_that_other_programs_read(
    script: ModuleType, report: ModuleType, tiny: object, tmp_path: Path
) -> None:
    out = tmp_path / "results" / "noprop_theory.json"
    script.main(["--out", str(out)], tiny)
    result = json.loads(out.read_text())
    assert set(result) == {"environment", "rows"}
    keys = set()
    for row in result["rows"]:
        assert list(row) == ["case", "metric", "ours", "peer", "peer_value", "ratio"]
        ratio = row["ours"] / row["peer_value"]
        assert row["ratio"] == pytest.approx(ratio if "accuracy" in row["metric"] else 1 / ratio)
        assert 0 < row["ours"] <= 1 or "accuracy" not in row["metric"]
        keys.add((row["case"], row["metric"], row["peer"]))
    assert len(keys) == len(result["rows"])  # no case twice
    figures = report.Figures(out, tmp_path / "none")
    (other,) = (row for row in result["rows"] if "1 of 8 rows" in row["case"] and "multiplied" in row["peer"])
    line = next(line for line in report.chain_table(figures).splitlines() if line.startswith("| 1 of 8 rows"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert (cells[5], cells[6]) == (f"{100 * other['peer_value']:.1f}", f"{100 * other['ours']:.1f}")
    table = report.settings_table(figures, "noprop-ct")
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["none", *script.CHOICES["noprop-ct"]]
    assert "weighting snr" not in report.steps_table(figures, "noprop-ct")


@pytest.mark.slow
def test_operations_of_a_step_are_those_of_the_layers(costs: ModuleType, tiny: object) -> None:
    """Two operations a product; three times those of the forward pass, less the gradient of the first inputs."""
    cost = {(row.case.split(":")[0], row.metric): row for row in costs.step_rows(tiny)}
    first, second, third = 8 * 8 * 3 * 9 * 2, 4 * 4 * 2 * 9 * 3, 4 * 4 * 3 * 9 * 4
    reading = 3 * (first + second + third + 4 * 4 * 8) - first
    label, fusion = 10 * 8 + 2 * 8 * 8, 16 * 8 + 8 * 4 + 4 * 10
    head = 2 * 10 * 10  # forward, and the gradient of its weights: its input is noise
    expected = 2 * 10 * 10  # û, and the gradient of its weights
    blocks = 2 * (reading + 3 * (label + fusion) - 10 * 8 + expected)
    assert cost["noprop-dt", "flops_per_image"].ours == 2 * (blocks + head)


def test_a_prediction_reads_the_image_once_and_each_further_step_costs_the_block(
    costs: ModuleType, tiny: object
) -> None:
    encoder, block, rows = costs.parts(tiny)
    rule = costs.NoPropCT(encoder, block, rows)
    one, three = (costs.flops_of_prediction(rule, tiny, steps=steps) for steps in (1, 3))
    label, fusion = 10 * 8 + 8 * 8, 8 * 4 + 4 * 10  # the image has its share of the fusion in the encoder
    time = (64 * 8 + 8 * 8) / 4  # once for the batch
    expected = 10 * 10
    assert three - one == 2 * 2 * (label + fusion + time + expected)
    found = {row.case.rsplit("=")[-1]: row for row in costs.prediction_rows(tiny)}
    assert (found["1"].ours, found["3"].ours) == (one, three)
    assert found["1"].peer_value == one
    assert found["3"].peer_value == 3 * one - 2 * 2 * 10 * 10  # the head stands at the end alone


def test_results_of_reproductions_are_shown(report: ModuleType, pictures: ModuleType, tmp_path: Path) -> None:
    import _noprop_pictures

    metrics = {f"test_accuracy_in_{steps}_steps": {"mean": 0.5 + steps / 100} for steps in (20, 1)}
    chain = {"block_test_accuracy": {"mean": [0.2, 0.4]}, "test_accuracy_chain": {"mean": 0.3}}
    pooled = {"test_accuracy_blocks_alone_pooled": {"mean": 0.6}, "test_accuracy_mean_of_chain": {"mean": 0.7}}
    for name, found in (("noprop-ct/mnist", metrics), ("noprop-dt/cifar-10", chain | pooled)):
        document = {
            "recipe": name,
            "settings": {"epochs": 1},
            "departures": [],
            "seeds": [0],
            "metrics": {"test_accuracy": {"mean": 0.5}, **found},
            "paper": None,
            "cost": {},
            "environment": {},
        }
        path = tmp_path / f"{name}.json"
        path.parent.mkdir()
        path.write_text(json.dumps(document))
    figures = report.Figures(results=tmp_path)
    assert report.test_steps_table(figures).splitlines()[2] == "| `noprop-ct/mnist` | 51.00 | 70.00 |"
    assert report.test_chain_table(figures).splitlines()[2] == (
        "| `noprop-dt/cifar-10` | 20.00 | 40.00 | 60.00 | 30.00 | 70.00 |"
    )
    assert len(_noprop_pictures.draw_test_steps(figures).axes) == 1
    assert set(pictures.stale_pictures(report.pictures(figures))) == {
        "noprop-test-steps.svg"
    }  # the documentation's shows other figures


def test_tables_of_the_documentation_are_those_of_the_result_files(report: ModuleType) -> None:
    made, shown = report.tables(report.Figures()), set()
    for page in report.PAGES:
        text = page.read_text(encoding="utf-8")
        assert regenerate(text, made) == text, f"{page.name}: run `make tables`"
        shown |= {name for name in made if f"<!-- {name}:begin -->" in text}
    assert shown == set(made)


def test_pictures_of_the_documentation_are_those_of_the_result_files(report: ModuleType, pictures: ModuleType) -> None:
    figures = report.Figures()
    assert not list(pictures.stale_pictures(report.pictures(figures))), "run `make pictures`"
    named = {
        (page.parent / target).resolve()
        for page in (ROOT / "docs").rglob("*.md")
        if "_build" not in page.parts
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    named = {path for path in named if not path.is_relative_to(ROOT / "results")}  # others come with what they show
    assert named == set(pictures.PICTURES.iterdir())
    assert all(path.stat().st_size < 200_000 for path in named)


def test_a_picture_drawn_twice_is_the_same(report: ModuleType, pictures: ModuleType) -> None:
    content, draw = report.pictures(report.Figures())["noprop-cost.svg"]
    picture = pictures.svg(content, draw)
    assert picture == pictures.svg(content, draw)
    assert pictures.digest(content) in picture.decode()
