"""The examples learn, with a few epochs; and their blocks are the user's own, not the library's."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from beyondprop import DTP, DenoisingBlock, NoPropCT, NoPropDT, NoPropFM, TimedBlock

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example(request):
    """What the example defines; its main part is not run."""
    return runpy.run_path(str(EXAMPLES / request.param))


# Chance is the share of the commonest class. After so few epochs the rules are well above it, but not at their best.
@pytest.mark.parametrize(
    ("example", "options", "least"),
    [("noprop_tabular.py", {"epochs": 2, "seeds": 1}, 0.85), ("noprop_sequence.py", {"epochs": 3}, 0.5)],
    indirect=["example"],
)
def test_every_rule_of_the_example_learns(example, options, least, capsys):
    accuracy = example["main"](**options)
    assert accuracy.keys() == example["RULES"].keys()
    assert min(accuracy.values()) > least, accuracy
    printed = capsys.readouterr().out
    for name, value in accuracy.items():
        assert f"{name:20} {value:.1%}" in printed


@pytest.mark.slow
def test_predictors_learn_in_processes_of_their_own():
    """By the script itself, which has to be a file for processes to be started from it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(EXAMPLES / "cascaded_processes.py")]
    printed = subprocess.run(script, check=True, capture_output=True, text=True, env=environment).stdout
    accuracy = dict(re.findall(r"^(.*?)  +([\d.]+)%$", printed, flags=re.MULTILINE))
    assert accuracy.keys() == {"block 1 alone", "block 2 alone", "block 3 alone", "all together"}
    assert min(float(value) for value in accuracy.values()) > 75


@pytest.mark.parametrize("example", ["own_device.py"], indirect=True)
def test_a_chip_of_ones_own_learns(example, capsys):
    accuracy = example["main"](epochs=2)
    assert accuracy > 0.8
    assert f"test accuracy {accuracy:.1%}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("example", "shape"),
    [("noprop_tabular.py", (30,)), ("noprop_sequence.py", (8, 8))],
    indirect=["example"],
)
def test_blocks_are_the_users_own_and_take_no_images(example, shape):
    (x, y), (x_test, y_test) = example["load"]()
    assert x.shape[1:] == x_test.shape[1:] == shape
    assert not set(map(tuple, x.flatten(1).tolist())) & set(map(tuple, x_test.flatten(1).tolist()))
    assert sorted(y.unique().tolist()) == sorted(y_test.unique().tolist())
    rules = [make() for make, *_ in example["RULES"].values()]
    noprop = [rule for rule in rules if isinstance(rule, NoPropDT | NoPropCT | NoPropFM)]
    assert len(noprop) == 2
    for rule in noprop:
        blocks = list(rule.network) if isinstance(rule, NoPropDT) else [rule.block]
        assert all(type(block).__module__ == "<run_path>" for block in blocks)  # the example's file as run here
        assert not any(isinstance(module, DenoisingBlock | TimedBlock) for module in rule.modules())


@pytest.mark.parametrize(
    ("example", "block", "read"),
    [("noprop_tabular.py", "Block", "Identity"), ("noprop_sequence.py", "Question", "Reader")],
    indirect=["example"],
)
def test_blocks_use_the_noisy_label_the_input_and_the_time(example, block, read):
    torch.manual_seed(0)
    (x, _), _ = example["load"]()
    x, classes = x[:4], example["CLASSES"]
    h = example[read]()(x) if read in example else x
    block = example[block]()
    z, t = torch.randn(4, classes), torch.rand(4)
    said = block(z, h, t)
    assert said.shape == (4, classes)
    for other in (block(z + 1, h, t), block(z, h.flip(0), t), block(z, h, t + 0.5)):
        assert not torch.allclose(said, other)


@pytest.mark.parametrize("example", ["iris_from_scratch.py"], indirect=True)
def test_the_first_network_is_right_and_better_than_the_usual_one(example, capsys):
    accuracy = example["main"](repeats=1, usual_epochs=30)
    assert accuracy["from scratch"] >= 0.96
    assert accuracy["as usual"] < accuracy["from scratch"]
    printed = capsys.readouterr().out
    assert float(re.search(r"error of the gradient: (\S+)", printed)[1]) < 1e-8
    body = Path(EXAMPLES / "iris_from_scratch.py").read_text().partition("class FromScratch")[2].partition("\n\n\n")[0]
    assert len([line for line in body.splitlines()[2:] if line.strip()]) <= 21


@pytest.mark.parametrize("example", ["plain_torch.py"], indirect=True)
def test_a_loop_of_ones_own_learns_saves_and_reads(example, capsys):
    accuracy = example["main"](epochs=4)
    assert accuracy > 0.7
    assert f"test accuracy {accuracy:.1%}" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # of Lightning's about itself
def test_lightning_walks_through_stages_and_phases(monkeypatch, tmp_path):
    pytest.importorskip("lightning", reason="Lightning is not installed: pip install lightning")
    monkeypatch.chdir(tmp_path)
    calls = []
    backward = DTP.backward

    def noted(rule, x, y, phase=None):
        calls.append((rule.stage, phase))
        return backward(rule, x, y, phase)

    monkeypatch.setattr(DTP, "backward", noted)
    options = {"enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}
    accuracy = runpy.run_path(str(EXAMPLES / "lightning_module.py"))["main"](epochs=2, **options)
    assert accuracy > 0.5
    batches = 23  # of 64 among 1437 images; each has two phases
    assert calls[::2] == [("feedback", "feedback")] * 2 * batches + [("both", "feedback")] * 2 * batches
    assert calls[1::2] == [("feedback", None)] * 2 * batches + [("both", None)] * 2 * batches
