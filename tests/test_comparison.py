"""`compare`: what is trained and measured, the same search for all, failures with their reason, the page."""

import html
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from beyondprop import training
from beyondprop.catalogue import SYSTEMS, compared_recipe, find_recipe, find_system
from beyondprop.cli import main
from beyondprop.comparison import compare, costs_of, recipe_contenders, rule_contenders
from beyondprop.comparison.compare import _Course
from beyondprop.comparison.tuning import RATE_FACTOR, tune
from beyondprop.errors import DataError, NonFiniteError, RunError, UserError
from beyondprop.report.comparison_page import draw_pictures, ranked, write_page
from beyondprop.rules.signals.feedback_alignment import FeedbackAlignment
from beyondprop.training import provenance
from beyondprop.training.assembly import assemble
from beyondprop.training.curves import png
from beyondprop.training.execution import Execution
from beyondprop.training.run_folder import read_metrics, read_settings

SMALL = {"epochs": 2, "hidden": 8, "batch_size": 256}
FLAGS = ["--seeds", "2", "--epochs", "2", "--hidden", "8", "--batch-size", "256", "--threads", "1", "--quiet"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
    for module in ("curves", "runs"):  # each run's own curves take longer than all else
        monkeypatch.setattr(f"beyondprop.training.{module}.draw_curves", lambda *_: b"")
    monkeypatch.setattr("beyondprop.report.comparison_page.png", lambda *_: b"")  # and then the page's pictures
    return tmp_path


def contenders(*rules, **changed):
    return rule_contenders(rules, "digits", changed=SMALL | changed)


def compared(*rules, seeds=1, **options):
    return compare(contenders(*rules), Execution(threads=1), seeds=seeds, progress=False, **options)


# ---------------------------------------------------------------------------------------------------- what is compared


def test_every_system_that_classifies_can_be_compared():
    for system in SYSTEMS:
        if not system.load().classifies:
            with pytest.raises(UserError, match=f"{system.id} does not classify images"):
                compared_recipe(system, "digits")
            continue
        recipe = compared_recipe(system, "digits")
        assert recipe.id == f"{system.id}/digits-compared"
        assert find_recipe(recipe.id).settings == recipe.settings


def test_a_rule_begins_with_the_rate_of_its_own_recipe_on_this_data_and_network():
    system = find_system("bp")
    own = {recipe.id: recipe.settings for recipe in system.recipes}
    conv = compared_recipe(system, "mnist", "conv").settings
    assert conv.learning_rate == own["bp/mnist-conv"].learning_rate
    assert conv.network == "conv"
    assert compared_recipe(find_system("bpc"), "mnist").settings.optimizer == "sgd"


def test_all_rules_train_the_same_network():
    built = [assemble(c.recipe, c.settings, Execution()) for c in contenders("bp", "dfa", "mono-forward")]
    shapes = [{tuple(p.shape) for p in each.rule.parameters()} for each in built]
    assert shapes[0] <= shapes[1]
    assert str(built[0].rule.network) == str(built[1].rule.network)
    assert {(64, 8), (8, 64)} & shapes[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rule_contenders(["bp", "bp"], "digits"), "bp stands twice"),
        (lambda: rule_contenders(["backprop"], "digits"), "there is no system 'backprop'"),
        (lambda: rule_contenders(["bp"], "mnits"), "--data mnits is no data set .*did you mean 'mnist'"),
        (lambda: rule_contenders([], "digits"), "name at least one"),
        (lambda: recipe_contenders([find_recipe("bp/digits"), find_recipe("bp/mnist")]), "of the same data"),
        (lambda: recipe_contenders([find_recipe("dtp/student-teacher")]), "does not classify a named data set"),
    ],
)
def test_says_what_cannot_be_compared(make, message):
    with pytest.raises(UserError, match=message):
        make()


# ------------------------------------------------------------------------------------------------------------- figures


def test_a_step_is_every_stage_and_phase_and_is_counted_by_hand():
    (one,) = contenders("bp", batch_size=100)
    built = assemble(one.recipe, one.settings, Execution())
    found = costs_of(built, repeats=3)
    widths = [64, 8, 8, 10]
    products = sum(a * b for a, b in itertools.pairwise(widths))
    inputs = products - 64 * 8  # the first layer's inputs need no gradient
    assert found["operations"] == 2 * 100 * (2 * products + inputs)
    assert found["parameters"] == products + 8 + 8 + 10
    assert found["memory_bytes"]["parameters"] == 4 * found["parameters"]
    assert found["batch_size"] == 100
    assert found["memory_bytes"]["optimizer"] >= 2 * 4 * found["parameters"]  # AdamW's two means, and its counters
    assert 0 < found["step_seconds"]["low"] <= found["step_seconds"]["median"] <= found["step_seconds"]["high"]
    forward_only = costs_of(
        assemble(contenders("mgd")[0].recipe, contenders("mgd")[0].settings, Execution()), repeats=1
    )
    assert forward_only["saved_bytes"] == 0 < found["saved_bytes"]


def test_every_stage_and_phase_counts():
    (one,) = contenders("cafo-dfa")
    built = assemble(one.recipe, one.settings, Execution())
    seen = []
    backward = built.rule.backward
    built.rule.backward = lambda x, y, phase=None: (seen.append((built.rule.stage, phase)), backward(x, y, phase))[1]
    costs_of(built, repeats=1)
    assert set(seen) == {(stage, phase) for stage in built.rule.stages for phase in built.rule.phases}
    assert len(set(seen)) > 1


def test_curves_angles_and_accuracies_are_those_of_the_runs():
    document = compared("bp", "fa", seeds=2)
    assert list(document["contenders"]) == ["bp", "fa"]
    bp, fa = document["contenders"].values()
    outcomes = [training.load_run(path.parent) for path in sorted(Path("runs/bp").rglob("result.json"))]
    assert len(outcomes) == 2
    assert bp["metrics"]["test_accuracy"]["values"] == pytest.approx(
        [r.evaluate(r.splits.test)["accuracy"] for r in outcomes]
    )
    records = [record for record in read_metrics(next(Path("runs/bp").rglob("seed-0"))) if "seconds" in record]
    assert [point["accuracy"] for point in bp["curves"][0]] == [record["validation_accuracy"] for record in records]
    assert [point["images"] for point in bp["curves"][0]] == [1437 - 150, 2 * (1437 - 150)]
    assert [point["seconds"] for point in bp["curves"][0]] == [record["seconds"] for record in records]
    assert (document["images"], document["training_images"]) == (1437, 1437 - 150)
    assert 0 < bp["curves"][0][-1]["seconds"] <= bp["train_seconds"]["values"][0]
    assert all(layer["angle"]["mean"] == pytest.approx(0, abs=1e-2) for layer in bp["alignment"].values())
    angles = [layer["angle"]["mean"] for layer in fa["alignment"].values()]
    assert angles[-1] == pytest.approx(0, abs=1e-2)  # the last layer hears the loss itself
    assert all(5 < angle < 120 for angle in angles[:-1])


# ------------------------------------------------------------------------------------------------------------ failures


def test_what_cannot_be_trained_stands_there_with_its_reason_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(FeedbackAlignment, "assign_credit", lambda *_: raise_nan())
    found = compared("bp", "fa")["contenders"]
    assert "test_accuracy" in found["bp"]["metrics"]
    assert found["fa"]["failed"] == "the loss of layer 3 is nan"
    page = Path("compare/index.html").read_text()
    assert "the loss of layer 3 is nan" in page


def raise_nan():
    raise NonFiniteError("the loss of layer 3 is nan")


def test_a_network_that_a_rule_does_not_support_is_a_reason():
    found = compare(
        rule_contenders(["bp", "spike-timing"], "digits", "conv", SMALL),
        seeds=1,
        progress=False,
        execution=Execution(threads=1),
    )
    assert "Conv2d" in found["contenders"]["spike-timing"]["failed"]


def test_seeds_that_came_to_an_end_count_where_another_broke_off(monkeypatch):
    train = training.train

    def broken_second(recipe, settings, execution, *arguments, **options):
        return raise_nan() if execution.seed == 1 else train(recipe, settings, execution, *arguments, **options)

    monkeypatch.setattr(training, "train", broken_second)
    found = compared("bp", seeds=3)["contenders"]["bp"]
    assert len(found["metrics"]["test_accuracy"]["values"]) == 2
    assert found["failed_seeds"] == {1: "the loss of layer 3 is nan"}
    assert "bp, seed 1" in Path("compare/index.html").read_text()


def test_what_torch_itself_refuses_is_a_reason_too(monkeypatch):
    def lacks(*_):
        raise NotImplementedError("no kernel for this\nmore lines")

    monkeypatch.setattr(FeedbackAlignment, "assign_credit", lacks)
    assert compared("bp", "fa")["contenders"]["fa"]["failed"] == "no kernel for this"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("too few samples\nmore lines"), "ValueError: too few samples"),
        (TypeError("a float"), "TypeError: a float"),
        (KeyError("layer"), "KeyError: 'layer'"),
        (MemoryError(), "MemoryError"),
        (FloatingPointError("overflow"), "FloatingPointError: overflow"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_whatever_ends_a_rule_is_a_reason_and_the_others_go_on(error, reason, monkeypatch):
    def fails(self, contender, splits):
        if contender.name == "fa":
            raise error
        return ask(self, contender, splits)

    ask = _Course.run
    monkeypatch.setattr(_Course, "run", fails)
    found = compared("fa", "bp")["contenders"]
    assert found["fa"]["failed"] == reason
    assert "test_accuracy" in found["bp"]["metrics"]
    assert html.escape(reason) in Path("compare/index.html").read_text()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("no data"), RunError("the disk is full")])
def test_what_would_end_every_rule_ends_the_comparison(error, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(_Course, "run", fails)
    with pytest.raises(type(error)):
        compared("fa", "bp")


def test_measuring_a_step_leaves_the_weights_as_they_are():
    (one,) = contenders("dfa")
    built = assemble(one.recipe, one.settings, Execution())
    before = [p.detach().clone() for p in built.rule.parameters()]
    costs_of(built, repeats=1)
    assert all(torch.equal(p, q) for p, q in zip(built.rule.parameters(), before, strict=True))


def test_rates_are_taken_over_with_their_optimizer_alone():
    for name in ("l-drl", "local-forward-gradient", "tp-ri"):  # which are trained by SGD of their own
        settings = compared_recipe(find_system(name), "digits").settings
        assert (settings.learning_rate, settings.optimizer) == (1e-3, "adamw")


def test_nothing_is_written_where_nothing_could_be_compared(monkeypatch):
    monkeypatch.setattr(FeedbackAlignment, "assign_credit", lambda *_: raise_nan())
    with pytest.raises(UserError, match=r"nothing could be compared \(fa: the loss of layer 3 is nan\)"):
        compared("fa")
    assert not Path("compare/compare.json").exists()


# -------------------------------------------------------------------------------------------------------------- tuning


def test_the_search_begins_with_the_rules_own_settings_and_stays_in_its_space():
    pytest.importorskip("optuna")
    (one,) = contenders("bp")
    found = tune(one, Execution(threads=1), budget=4, epochs=1, progress=False)
    assert found.trials[0]["learning_rate"] == one.settings.learning_rate
    rates = [trial["learning_rate"] for trial in found.trials]
    assert len(set(rates)) == 4
    assert all(1 / RATE_FACTOR <= rate / one.settings.learning_rate <= RATE_FACTOR * 1.01 for rate in rates)
    best = max(found.trials, key=lambda trial: trial["validation_accuracy"])
    assert found.settings == replace(
        one.settings, learning_rate=best["learning_rate"], weight_decay=best["weight_decay"]
    )
    assert found == tune(one, Execution(threads=1), budget=4, epochs=1, progress=False)  # from the finished runs


def test_a_trial_that_breaks_off_is_no_choice(monkeypatch):
    pytest.importorskip("optuna")
    (one,) = contenders("bp")
    train = training.train

    def broken_above(recipe, settings, *arguments, **options):
        if settings.learning_rate >= one.settings.learning_rate:
            raise_nan()
        return train(recipe, settings, *arguments, **options)

    monkeypatch.setattr(training, "train", broken_above)
    found = tune(one, Execution(threads=1), budget=5, epochs=1, progress=False)
    assert found.trials[0]["validation_accuracy"] is None
    assert found.settings.learning_rate < one.settings.learning_rate


def test_the_search_never_sees_the_test_images(monkeypatch):
    pytest.importorskip("optuna")
    (one,) = contenders("bp")
    train = training.train

    def reversed_on_test(*arguments, **options):
        outcome = train(*arguments, **options)
        outcome.metrics["test_accuracy"] = 1 - outcome.metrics["validation_accuracy"]
        return outcome

    honest = tune(one, Execution(threads=1), budget=3, epochs=1, progress=False)
    monkeypatch.setattr(training, "train", reversed_on_test)
    assert tune(one, Execution(threads=1), budget=3, epochs=1, progress=False).settings == honest.settings


def test_a_search_needs_held_out_images():
    pytest.importorskip("optuna")
    (one,) = contenders("bp", validation=0)
    with pytest.raises(UserError, match="give --validation more than 0"):
        tune(one, Execution(), budget=1)
    with pytest.raises(UserError, match="give --validation more than 0"):
        compare([one], budget=1)
    with pytest.raises(UserError, match="give one --validation for all"):
        compare([one, *contenders("dfa")])


def test_every_rule_has_the_same_search_and_is_trained_with_its_best_trial(capsys):
    pytest.importorskip("optuna")
    budget = ["--budget", "2", "--trial-epochs", "1", "--learning-rate", "0.002", "--batch-size", "32"]
    assert main(["compare", "--rules", "bp,dfa", *FLAGS, *budget, "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    page = Path("compare/index.html").read_text()
    assert "the best of 2 trials of the same search" in page
    drawn = {}
    for name, found in document["contenders"].items():
        own, other = drawn[name] = found["trials"]
        assert own["learning_rate"] == 0.002
        assert other["validation_accuracy"] > own["validation_accuracy"]  # the rate is too low, and the other higher
        assert {key: found["chosen"][key] for key in ("learning_rate", "weight_decay", "epochs")} == {
            **{key: other[key] for key in ("learning_rate", "weight_decay")},
            "epochs": 2,
        }
        runs = [read_settings(path.parent) for path in Path("runs", name).rglob("result.json")]
        assert [run["settings"] for run in runs if run["execution"]["seed"] < 2] == [found["chosen"]] * 2
        assert [run["settings"]["epochs"] for run in runs if run["execution"]["seed"] >= 2] == [1, 1]
        for number, trial in enumerate((own, other), start=1):
            cells = (
                f"{trial['learning_rate']:g}",
                f"{trial['weight_decay']:g}",
                f"{100 * trial['validation_accuracy']:.2f}",
            )
            assert f"<tr><th>{name}: {number}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) in page
    rates = [[trial["learning_rate"] for trial in trials] for trials in drawn.values()]
    assert rates[0] == rates[1]  # the same search, from the same rate


# ---------------------------------------------------------------------------------------------------------------- page


class Outside(HTMLParser):
    """Collects whatever a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("script", "link", "iframe") or (
            tag == "img" and not attributes["src"].startswith("data:image/png;base64,")
        ):
            self.found.append((tag, attributes))


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


# -------------------------------------------------------------------------------------------------------- command line


def test_the_command_goes_on_from_what_has_finished_and_prints_json(capsys, monkeypatch):
    arguments = ["compare", "--rules", "bp,dfa", *FLAGS]
    assert main([*arguments, "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    monkeypatch.setattr("beyondprop.training.runs.fit", lambda *_a, **_k: pytest.fail("trained again"))
    assert main([*arguments, "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("bp", "dfa"):
        assert again["contenders"][name]["metrics"] == first["contenders"][name]["metrics"]


def test_recipes_take_the_place_of_rules(capsys):
    assert main(["compare", "bp/digits-mlp", "fa/digits", *FLAGS[:-1], "--quiet", "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(document["contenders"]) == ["bp/digits-mlp", "fa/digits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rules", "bp,nosuch"], "there is no system 'nosuch'"),
        (["--rules", ","], "--rules needs the ids"),
        (["--data", "imagenet"], "--data imagenet is no data set"),
        (["--network", "transformer"], "transformer"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--budget", "-1"], "--budget must be at least 0"),
        (["--trial-epochs", "1"], "--trial-epochs is of the trials of --budget"),
        (["bp/digits-mlp", "--rules", "bp"], "there is no flag --rules"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    assert main(["compare", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_another_comparison_is_not_overwritten(capsys):
    assert main(["compare", "--rules", "bp", *FLAGS]) == 0
    assert main(["compare", "--rules", "dfa", *FLAGS]) == 2
    assert "holds another compare, which differs in its settings" in capsys.readouterr().err
    assert main(["compare", "--rules", "dfa", *FLAGS, "--replace"]) == 0
    Path("compare/compare.json").unlink()
    Path("compare/notes.txt").write_text("mine")
    assert main(["compare", "--rules", "dfa", *FLAGS]) == 2
    assert "holds other files (notes.txt)" in capsys.readouterr().err


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
    results = Path(__file__).resolve().parents[1] / "results"
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
    results = Path(__file__).resolve().parents[1] / "results"
    assert main(["report", str(results)]) == 0
    assert "| `dfa/mnist` |" in capsys.readouterr().out
