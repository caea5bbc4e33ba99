"""`study`: what it compares with what, the page, going on after an interruption, and what it refuses."""

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean

import pytest
import torch

from beyondprop import training
from beyondprop.catalogue import find_recipe
from beyondprop.cli import main
from beyondprop.measure.similarity import linear_cka, matched_correlation, mean_kl
from beyondprop.report.study_page import PICTURES, draw_pictures, write_page
from beyondprop.study import MOST_NEURONS, Trained, _matched, compare

RULES = ["fa/digits", "sdfa/digits-centred"]
SMALL = ["--seeds", "2", "--epochs", "1", "--hidden", "8", "--batch-size", "256", "--threads", "1", "--quiet"]


pytestmark = pytest.mark.usefixtures("folder")


def read(path="study"):
    return json.loads(Path(path, "study.json").read_text())


# ------------------------------------------------------------------------------------------------- what is compared


def trained(seed, samples=12, classes=3):
    generator = torch.Generator().manual_seed(seed)
    hidden = {"1": torch.randn(9, 5, generator=generator), "3": torch.randn(9, 4, generator=generator)}
    return Trained(torch.randn(samples, classes, generator=generator), hidden)


@pytest.fixture
def networks():
    runs = {"one": [trained(0), trained(1), trained(2)], "two": [trained(3), trained(4), trained(5)]}
    return runs, [trained(seed).hidden for seed in (6, 7, 8)], torch.arange(12) % 3


def test_seeds_of_one_rule_stand_on_the_diagonal_and_rules_at_one_seed_beside_it(networks):
    runs, untrained, y = networks
    found = compare(runs, untrained, y)
    one, two = ([each.scores for each in runs[name]] for name in runs)
    agree = lambda a, b: (a.argmax(1) == b.argmax(1)).double().mean().item()  # noqa: E731
    pairs = [(0, 1), (0, 2), (1, 2)]
    agreement = found["predictions"]["agreement"]
    assert agreement[0][0] == pytest.approx(fmean(agree(one[s], one[t]) for s, t in pairs))
    assert agreement[1][1] == pytest.approx(fmean(agree(two[s], two[t]) for s, t in pairs))
    assert agreement[0][1] == agreement[1][0] == pytest.approx(fmean(agree(one[s], two[s]) for s in range(3)))
    kl = found["predictions"]["kl"]
    assert kl[0][1] == pytest.approx(fmean(mean_kl(one[s], two[s]) for s in range(3)))
    assert kl[1][0] == pytest.approx(fmean(mean_kl(two[s], one[s]) for s in range(3)))
    assert kl[0][0] == pytest.approx(fmean(mean_kl(one[s], one[t]) for s in range(3) for t in range(3) if s != t))


def test_stability_is_over_pairs_of_seeds(networks):
    runs, untrained, y = networks
    stability = compare(runs, untrained, y)["stability"]
    predicted = [each.scores.argmax(1).tolist() for each in runs["two"]]
    truth = y.tolist()
    churns, overlaps = [], []
    for a, b in itertools.combinations(predicted, 2):
        churns.append(sum(i != j for i, j in zip(a, b, strict=True)) / 12)
        wrong = [{n for n in range(12) if each[n] != truth[n]} for each in (a, b)]
        overlaps.append(len(wrong[0] & wrong[1]) / len(wrong[0] | wrong[1]))
    assert stability["two"]["churn"]["values"] == pytest.approx(churns)
    assert stability["two"]["error_overlap"]["values"] == pytest.approx(overlaps)
    assert len(stability["one"]["kappa"]["values"]) == 3


def test_untrained_networks_are_the_last_row_of_every_layer(networks):
    runs, untrained, y = networks
    neurons = compare(runs, untrained, y)["neurons"]
    assert list(neurons) == ["1", "3"]
    for layer, tables in neurons.items():
        one = [each.hidden[layer] for each in runs["one"]]
        last = [each[layer] for each in untrained]
        assert tables["linear_cka"][0][2] == pytest.approx(fmean(map(linear_cka, one, last)))
        pairs = [(0, 1), (0, 2), (1, 2)]
        assert tables["linear_cka"][2][2] == pytest.approx(fmean(linear_cka(last[s], last[t]) for s, t in pairs))
        matched = fmean(matched_correlation(one[s], one[t]).mean for s, t in pairs)
        assert tables["matched_correlation"][0][0] == pytest.approx(matched)


def test_neurons_of_a_wide_layer_are_matched_with_all_of_the_other():
    x = torch.randn(40, 2 * MOST_NEURONS, generator=torch.Generator().manual_seed(0))
    assert _matched(x, x) == pytest.approx(1)


# ------------------------------------------------------------------------------------------------------------ the page


class Tags(HTMLParser):
    """Follows what is opened and closed."""

    def __init__(self):
        super().__init__()
        self.stack, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def document(networks, names):
    runs, untrained, y = networks
    runs = dict(zip(names, runs.values(), strict=True))
    spread = {"values": [0.5, 0.6, 0.7], "mean": 0.6, "std": 0.1}
    return {
        "recipes": names,
        "settings": {names[0]: {"epochs": 1, "only": "<here>"}, names[1]: {"epochs": 2}},
        "dataset": "digits",
        "network": "Linear(a<b)",
        "precision": "float32",
        "same_initial_weights": True,
        "seeds": [0, 1, 2],
        "samples": {"predictions": 12, "neurons": 9},
        "accuracy": dict.fromkeys(names, spread),
        "environment": {"commit": None, "versions": {"torch": "2"}, "device": "cpu", "threads": 1},
        **compare(runs, untrained, y),
    }


def test_page_holds_everything_in_itself_and_is_well_formed(networks):
    about = document(networks, ["a/one", "b<i>/two"])
    pictures = draw_pictures(about)
    assert tuple(pictures) == PICTURES
    page = write_page(about, pictures)
    tags = Tags()
    tags.feed(page)
    assert tags.stack == []
    assert len([source for source in tags.sources if source.startswith("data:image/png;base64,")]) == 3
    assert [s for s in tags.sources if not s.startswith("data:")] == ["https://arxiv.org/abs/2206.06098"]
    assert "b&lt;i&gt;/two" in page
    assert "<i>" not in page
    assert "Linear(a&lt;b)" in page
    assert "&lt;here&gt;" in page
    assert "only the abstract is public" in " ".join(page.split())
    assert "<td>60.0 ± 10.0</td>" in page
    assert f"<td>{about['predictions']['kl'][0][1]:.3g}</td>" in page


# ------------------------------------------------------------------------------------------------- the whole command


def test_small_study_is_trained_compared_and_told(folder, capsys):
    assert main(["study", *RULES, *SMALL, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    told = json.loads(captured.out)
    found = read()
    assert told == {**found, "folder": "study"}
    assert (found["recipes"], found["seeds"], found["dataset"]) == (RULES, [0, 1], "digits")
    assert found["samples"] == {"predictions": 360, "neurons": 360}
    assert found["same_initial_weights"] is True
    assert list(found["neurons"]) == ["1", "3"]
    assert found["settings"]["fa/digits"]["hidden"] == 8
    assert {path.name for path in Path("study").iterdir()} == {"index.html", "study.json", *PICTURES}
    assert all(Path("study", name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    folders = {name: sorted((folder / "runs" / name).glob("reproduce-*/seed-*")) for name in RULES}
    predicted = {}
    for name, of_rule in folders.items():
        loaded = [training.load_run(path, device="cpu") for path in of_rule]
        batches = list(loaded[0].batches(loaded[0].splits.test))
        predicted[name] = [torch.cat([run.rule.eval()(x).argmax(1) for x, _ in batches]) for run in loaded]
        y = torch.cat([y for _, y in batches])
        values = found["accuracy"][name]["values"]
        assert values == pytest.approx([(each == y).double().mean().item() for each in predicted[name]])
        churn = (predicted[name][0] != predicted[name][1]).double().mean().item()
        assert found["stability"][name]["churn"]["values"] == pytest.approx([churn])
    agreement = fmean((a == b).double().mean().item() for a, b in zip(*predicted.values(), strict=True))
    assert found["predictions"]["agreement"][0][1] == pytest.approx(agreement)


def test_the_same_command_goes_on_where_it_was_stopped(folder, monkeypatch, capsys):
    monkeypatch.setattr("beyondprop.study.draw_pictures", lambda _: dict.fromkeys(PICTURES, b""))
    train, calls = training.train, []

    def stopped_at_the_third(recipe, settings, execution, *args, **options):
        calls.append((recipe.id, execution.seed))
        if len(calls) == 3:
            raise KeyboardInterrupt("stopped")
        return train(recipe, settings, execution, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr("beyondprop.training.train", stopped_at_the_third)
        assert main(["study", *RULES, *SMALL]) == 130
    assert calls == [("fa/digits", 0), ("fa/digits", 1), ("sdfa/digits-centred", 0)]
    assert capsys.readouterr().err == "stopped; the same command goes on from there\n"
    assert not Path("study", "study.json").exists()
    weights = sorted((folder / "runs").rglob("model.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in weights]
    assert main(["study", *RULES, *SMALL]) == 0
    assert [path.stat().st_mtime_ns for path in weights] == stamps
    first = read()
    assert main(["study", *RULES, *SMALL]) == 0  # all runs are there
    assert read() == first

    assert main(["study", *RULES, *SMALL, "--epochs", "2"]) == 2
    assert "holds another study, which differs in its settings" in capsys.readouterr().err
    assert main(["study", *reversed(RULES), *SMALL]) == 2
    assert "differs in its recipes" in capsys.readouterr().err
    assert main(["study", *RULES, *SMALL, "--seeds", "3"]) == 0  # more of the same
    assert read()["seeds"] == [0, 1, 2]
    assert main(["study", *RULES, *SMALL]) == 2  # fewer seeds
    assert "differs in its seeds" in capsys.readouterr().err
    assert main(["study", *RULES, *SMALL, "--replace"]) == 0
    assert read()["stability"] == first["stability"]


def test_damaged_study_is_named(folder, capsys):
    Path("study").mkdir()
    Path("study", "study.json").write_text("{")
    assert main(["study", *RULES, *SMALL]) == 2
    assert re.search(r"study/study.json cannot be read .*: remove it", capsys.readouterr().err)


def test_settings_that_differ_between_recipes_stay_unless_given(folder, monkeypatch):
    seen = {}

    def stand_in(recipe, settings, *_args, **_options):
        seen[recipe.id] = settings.weight_decay
        raise KeyboardInterrupt

    monkeypatch.setattr("beyondprop.training.train", stand_in)
    names = ["fa/digits", "kolen-pollack/digits"]
    own = {name: find_recipe(name).settings.weight_decay for name in names}
    assert len(set(own.values())) == 2
    for flags, expected in (([], own), (["--weight-decay", "0.25"], dict.fromkeys(names, 0.25))):
        for order in (names, names[::-1]):  # the first one's training is as far as it goes
            assert main(["study", *order, "--quiet", *flags]) == 130
        assert seen == expected


def test_switches_may_stand_before_the_recipes(folder, capsys):
    assert main(["study", "--replace", "fa/digits", "--json", "fa/digits"]) == 2
    assert "at least two different recipes" in capsys.readouterr().err
