"""The table of a rule's page: which rows, which columns, which settings."""

from pathlib import Path
from typing import Any

import pytest

from beyondprop.catalogue import SYSTEMS
from beyondprop.cli import main
from beyondprop.report.cells import Sources, settings
from beyondprop.report.page_tables import page_table, page_tables

TRAINED = {"epochs": 5, "learning_rate": 0.003, "batch_size": 64, "weight_decay": 0.0, "lr_schedule": "cosine"}


def a_result(recipe: str, **changes: Any) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "file": Path(recipe.partition("/")[2] + ".json"),
        "settings": TRAINED,
        "departures": [],
        "seeds": [0, 1],
        "metrics": {"test_accuracy": {"mean": 0.985, "std": 0.00707}},
        "paper": None,
        "cost": {"train_seconds": 12.0},
        **changes,
    }


def test_every_page_of_the_catalogue_has_a_table():
    made = page_tables([a_result("fa/mnist"), a_result("kolen-pollack/mnist"), a_result("dfa/mnist")])
    assert set(made) == {f"page-{system.page}" for system in SYSTEMS}
    shared = made["page-feedback_alignment"]
    assert "`fa/mnist`" in shared
    assert "`kolen-pollack/mnist`" in shared
    assert "`dfa/mnist`" not in shared
    assert made["page-backprop"] == "No results yet."


def test_a_row_has_the_settings_and_no_column_for_papers_that_print_nothing():
    heads, _, row, *_ = page_table([a_result("fa/mnist")]).splitlines()
    assert heads == "| Recipe | Test accuracy, % | Seeds | Epochs | Time a seed | Settings |"
    assert row == "| `fa/mnist` | 98.50 ± 0.71 | 2 | 5 | 12.0 s | rate 0.003, batch 64, cosine |"


def test_a_papers_figure_stands_with_its_source():
    paper = {"test_accuracy": 0.99, "source": "Table 2"}
    table = page_table([a_result("fa/mnist"), a_result("sign-symmetry/mnist", paper=paper)])
    assert "| 98.50 ± 0.71 | 99.00 (a) |" in table
    assert "| 98.50 ± 0.71 |  |" in table
    assert "- (a) arXiv 1510.05067, Table 2" in table


def test_other_kinds_of_figures_stand_in_tables_of_their_own():
    floors = {"memoryless_mse": {"mean": 0.25}, "target_variance": {"mean": 1.0}}
    error = a_result("bp/copying", metrics={"test_mse": {"mean": 0.02, "std": 0.003}, **floors})
    table = page_table([error, a_result("bp/mnist")])
    assert table.index("Test accuracy, %") < table.index("Test error (MSE)")
    assert "| `bp/copying` | 0.02 ± 0.003 | 0.25 |  | 1 | 2 |" in table


@pytest.mark.parametrize(
    ("recipe", "changes", "told"),
    [
        ("fa/mnist", {"optimizer": "adamw", "momentum": 0.9, "weight_decay": 1e-4}, "AdamW, decay 0.0001, cosine"),
        ("bpc/mnist", {"optimizer": "sgd", "momentum": 0.9}, "SGD, momentum 0.9, cosine"),
        ("l-drl/digits", {"optimizer": "adamw", "momentum": 0.9}, "momentum 0.9, cosine"),  # SGD, whatever it says
        (
            "fa/mnist",
            {"augment": "crop-flip", "ema": 0.9, "validation": 9},
            "cosine, crop-flip, average 0.9, 9 held out",
        ),
    ],
)
def test_settings_name_the_optimizer_that_was_used(recipe: str, changes: dict[str, Any], told: str):
    assert settings(a_result(recipe, settings=TRAINED | changes)) == f"rate 0.003, batch 64, {told}"


def test_a_solver_tells_its_own_settings():
    fitted = {"batch_size": 100, "validation": 0, "ridge": 0.01}
    assert settings(a_result("cafo/mnist-mse", settings=fitted)) == "ridge 0.01"
    lengths = {"nodes": 16, "windows": [8, 16], "noise": 0.01, "starts": 8}
    assert settings(a_result("network-inference/lorenz-5", settings=lengths)) == "nodes 16, noise 0.01, windows 8 16"


def test_sources_that_name_a_paper_stand_as_they_are():
    sources = Sources()
    results = [a_result("mgd/xor", paper={"source": source}) for source in ("arXiv 1, Table 1", "page 3")]
    assert [sources.letter(result) for result in (*results, results[0])] == ["a", "b", "a"]
    assert sources.below("T").splitlines()[-2:] == ["- (a) arXiv 1, Table 1", "- (b) arXiv 2303.03986, page 3"]
    assert Sources().below("T") == "T"


def test_pages_are_not_printed_beside_the_whole(capsys: pytest.CaptureFixture[str]):
    results = str(Path(__file__).parents[2] / "results")
    assert main(["report", "--results", results]) == 0
    assert "One row a result file" not in capsys.readouterr().out
