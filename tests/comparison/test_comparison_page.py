"""The page of a comparison: what stands on it, and when it is written."""

import html
import re
from pathlib import Path

import pytest
import torch
from small_comparisons import Outside, compared

from beyondprop.comparison.compare import _Course
from beyondprop.report.comparison_document import edges_told, ranked
from beyondprop.report.comparison_page import draw_pictures, write_page
from beyondprop.training import provenance
from beyondprop.training.curves import png


def test_the_page_is_one_file_with_every_rule_the_best_first():
    document = compared("drtp", "bp")
    page = Path("compare/index.html").read_text()
    outside = Outside()
    outside.feed(page)
    assert not outside.found
    order = [name for name in re.findall(r"<tr><th>([\w-]+)</th>", page) if name in ("bp", "drtp")][:2]
    assert order == list(ranked(document))
    best, second = (document["contenders"][name]["metrics"]["test_accuracy"]["mean"] for name in order)
    assert best >= second
    assert f"{100 * best:.2f}" in page
    assert {path.name for path in Path("compare").iterdir()} == {
        *("compare.json", "index.html", "accuracy.png", "curves.png", "costs.png", "alignment.png")
    }


def test_what_cuda_allocated_has_a_column_where_it_was_measured():
    document = compared("bp", "drtp")
    assert "allocated by CUDA" not in write_page(document, draw_pictures(document))
    document["contenders"]["bp"]["costs"]["allocated_bytes"] = 3 * 2**20
    page = write_page(document, draw_pictures(document))
    assert "<th>allocated by CUDA</th>" in page
    assert "<td>3.00</td>" in page
    assert "<td>–</td>" in page.partition("allocated by CUDA")[2]  # of drtp


def test_who_holds_more_parameters_than_others_is_told():
    document = compared("bp", "drtp")
    same = document["contenders"]["bp"]["costs"]["parameters"]
    document["contenders"]["drtp"]["costs"]["parameters"] = same
    assert "different numbers of parameters" not in write_page(document, draw_pictures(document))
    document["contenders"]["drtp"]["costs"]["parameters"] = 1_234_567
    assert f"numbers of parameters: bp {same:,}, drtp 1,234,567." in write_page(document, draw_pictures(document))


def test_angles_are_folded_in_rule_by_rule():
    document = compared("bp", "drtp")
    layers = document["contenders"]["bp"]["alignment"]
    (name, figures), *_ = layers.items()
    page = write_page(document, draw_pictures(document))
    folded = page.partition(f"<summary>bp, {len(layers)} layers</summary>")[2].partition("</details>")[0]
    assert f"<tr><th>{name}</th><td>{figures['angle']['mean']:.1f}</td><td>1</td></tr>" in folded  # the gradient's own
    assert folded.count("</tr>") == 1 + len(layers)
    document["contenders"]["drtp"]["alignment"] = {}  # as of a solver
    assert "<summary>drtp, " not in write_page(document, draw_pictures(document))


def test_where_steps_were_timed_is_told_beside_where_was_trained(monkeypatch):
    """Called again, trainings are read and steps are timed anew, maybe on another machine."""
    trained = compared("bp")["environment"]
    assert trained["cpu"] == provenance.cpu_model()
    monkeypatch.setattr(provenance, "source_commit", lambda: "another commit")
    monkeypatch.setattr(provenance, "cpu_model", lambda: "Abacus <9>")
    document = compared("bp")
    costs = document["contenders"]["bp"]["costs"]
    assert costs["environment"] == {
        "commit": "another commit",
        "versions": document["environment"]["versions"],
        "device": "cpu",
        "threads": 1,
        "cpu": "Abacus <9>",
    }
    assert document["environment"] == trained
    page = Path("compare/index.html").read_text()
    assert f"<p>Trained: commit {trained['commit']}, torch {torch.__version__}, cpu, {trained['cpu']}, 1 thread" in page
    assert (
        f"<p>Steps timed: commit another commit, torch {torch.__version__}, cpu, Abacus &lt;9&gt;, 1 thread</p>" in page
    )
    del costs["environment"]  # as older documents are
    assert "Steps timed" not in write_page(document, draw_pictures(document))


@pytest.mark.parametrize("counted", [0, 10**9])
def test_costs_are_drawn_where_no_operation_is_counted(counted, monkeypatch):
    document = compared("bp", "drtp")
    monkeypatch.setattr("beyondprop.report.comparison_page.png", png)
    document["contenders"]["drtp"]["costs"]["operations"] = 0
    document["contenders"]["bp"]["costs"]["operations"] = counted
    assert draw_pictures(document)["costs.png"].startswith(b"\x89PNG")  # a warning would be an error


def test_names_of_many_rules_are_whole_and_totals_of_memory_stand_beside_the_bars(monkeypatch):
    document, drawn = compared("bp", seeds=2), []
    monkeypatch.setattr("beyondprop.report.comparison_page.png", lambda figure, *_axes: drawn.append(figure) or b"")
    bp = document["contenders"]["bp"]
    draw_pictures(document | {"contenders": {f"rule {n}": bp for n in range(45)}})
    curves, costs = (figure for figure in drawn if len(figure.axes) == 3)
    curves.draw_without_rendering()
    assert len(curves.legends[0].get_texts()) == 45
    assert len(curves.axes[0].lines) == 45  # and the seeds' mean in the place of each
    seeds = [[point["accuracy"] for point in curve] for curve in bp["curves"]]
    assert curves.axes[0].lines[0].get_ydata() == pytest.approx(
        [100 * sum(each) / 2 for each in zip(*seeds, strict=True)]
    )
    assert curves.legends[0].get_window_extent().y0 >= 0
    totals = [text.get_text().strip() for text in costs.axes[1].texts]
    assert totals == [f"{bp['costs']['memory_bytes']['total'] / 2**20:.3g}"] * 45


def test_the_network_of_every_rule_is_on_the_page():
    document = compared("bp", "ep", "pcanet")
    networks = {name: each["network"] for name, each in document["contenders"].items()}
    assert networks["bp"].startswith("Sequential(")
    assert networks["ep"].startswith("EquilibriumPropagation(")
    assert networks["pcanet"].startswith("PCANet(")
    page = Path("compare/index.html").read_text()
    assert all(f"<h4>{name}</h4><pre>{html.escape(text)}</pre>" in page for name, text in networks.items())


def test_the_page_grows_with_every_rule_that_has_finished(monkeypatch):
    """Interrupted at the second rule: the first one's page is there and says what is still to come; no document."""
    ask = _Course.run
    interrupt_after_bp(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        compared("bp", "drtp")
    page = Path("compare/index.html").read_text()
    assert "Still to come: drtp." in page
    assert "<th>bp</th>" in page
    assert not Path("compare/compare.json").exists()
    monkeypatch.setattr(_Course, "run", ask)
    compared("bp", "drtp")
    assert "Still to come" not in Path("compare/index.html").read_text()


def test_a_finished_page_stays_while_the_comparison_is_run_again(monkeypatch):
    compared("bp", "drtp")
    whole = Path("compare/index.html").read_text()
    interrupt_after_bp(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        compared("bp", "drtp")
    assert Path("compare/index.html").read_text() == whole


def interrupt_after_bp(monkeypatch):
    ask = _Course.run

    def run(self, contender, splits):
        if contender.name != "bp":
            raise KeyboardInterrupt
        return ask(self, contender, splits)

    monkeypatch.setattr(_Course, "run", run)


def test_a_comparison_of_solvers_alone_has_no_steps():
    document = compared("bp", "pcanet")
    assert Path("compare/costs.png").exists()
    document = compared("pcanet", overwrite=True)
    assert not Path("compare/costs.png").exists()  # of the former comparison
    pcanet = document["contenders"]["pcanet"]
    assert pcanet["costs"] is None
    assert [point["seconds"] for point in pcanet["curves"][0]] == pcanet["train_seconds"]["values"]
    assert set(draw_pictures(document)) == {"accuracy.png", "curves.png"}
    assert "<td>–</td>" in write_page(document, draw_pictures(document))


def test_searches_that_ended_at_an_edge_are_named():
    def chose(rate, *tried):
        return {"trials": [{"learning_rate": each} for each in tried], "chosen": {"learning_rate": rate}}

    found = {
        "low": chose(0.1, 0.2, 0.1, 0.4),
        "within": chose(0.2, 0.2, 0.1, 0.4),
        "high": chose(0.4, 0.2, 0.1, 0.4),
        "untuned": chose(0.2),
        "alone": chose(0.2, 0.2),
        "low too": chose(0.1, 0.1, 0.3),
    }
    assert edges_told(found) == (
        "More trials might find more for searches that chose the lowest rate that they had tried: low, low too; the "
        "highest rate that they had tried: high."
    )
    assert edges_told({"within": found["within"]}) == ""
