"""The benchmark of sparse layers, on layers that take no time."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from beyondprop.layers.sparse import instruction_set
from beyondprop.layers.sparse.pruning import sparse_form

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WAYS = ("forward", "backward", "input_gradient", "weight_gradient")
pytestmark = pytest.mark.skipif(instruction_set() is None, reason="the kernels were not built")


@pytest.fixture(autouse=True)
def sparse(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    sparse = importlib.import_module("sparse")
    monkeypatch.setattr(sparse, "has", lambda _name: False)
    monkeypatch.setattr(sparse, "ceilings", lambda: (100.0, 10.0))
    return sparse


def test_a_layer_is_compared_in_both_directions(sparse):
    task = sparse.Task("conv", lambda: nn.Conv2d(3, 8, 3), (2, 3, 6, 6))
    rows = list(sparse.layer_rows(task, 0.5, 2))
    assert {(row.peer, row.metric) for row in rows} == {
        *(("dense", f"{way}_ms") for way in ("forward", "backward", "step")),
        *(("dense product", f"{way}_gflops") for way in WAYS),
        *(("copy", f"{way}_compulsory_gb_per_s") for way in WAYS),
        ("with its weights", "empty_step_ms"),
    }
    assert all(row.case == f"conv, 50% gone, {torch.get_num_threads()} thread" or "threads" in row.case for row in rows)
    step = {row.metric: row for row in rows if row.peer == "dense"}
    assert step["step_ms"].ours == pytest.approx(step["forward_ms"].ours + step["backward_ms"].ours)


def test_both_gradients_are_timed_apart(sparse, monkeypatch):
    ours = sparse_form(nn.Linear(6, 4))
    ours.kernels_from = 0.0
    x, gradient = torch.randn(3, 6), torch.randn(3, 4)
    seen = {}
    backward = sparse.Pass.backward

    def noted(self):
        backward(self)
        weights = self.layer.weight
        seen[weights.numel(), self.x.grad is not None, weights.grad is not None] = True

    monkeypatch.setattr(sparse.Pass, "backward", noted)
    alone, empty = sparse.kernel_times(ours, x, gradient, 2)
    assert set(alone) == {"input_gradient", "weight_gradient"}
    assert set(seen) == {(24, True, False), (24, False, True), (0, True, True)}
    assert empty > 0
    rows = list(sparse.efficiency_rows("case", ours, x, gradient, {"forward": 1.0, "backward": 2.0}))
    assert rows[0].ours == rows[2].ours == pytest.approx(2 * 24 * 3 / 1e-3 / 1e9)
    assert rows[1].ours == rows[3].ours == pytest.approx(4 * (18 + 12) / 1e-3 / 1e9)


def test_nothing_is_timed_that_is_not_equal(sparse):
    dense = nn.Linear(6, 4)
    ours = sparse_form(dense)
    ours.kernels_from = 0.0
    x, gradient = torch.randn(3, 6), torch.randn(3, 4)
    sparse.check_equal(ours, dense, x, gradient)
    with torch.no_grad():
        ours.weight[0] += 0.1
    with pytest.raises(AssertionError):
        sparse.check_equal(ours, dense, x, gradient)


def test_a_whole_step_and_its_memory(monkeypatch, sparse):
    monkeypatch.setattr(sparse, "resnet18", sparse_network)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = {row.metric: row for row in sparse.network_rows(1, batch=4)}
    finally:
        torch.set_num_threads(threads)
    assert set(rows) == {"step_ms", "peak_megabytes"}
    assert all(row.peer == "dense" and row.ours > 0 for row in rows.values())


def sparse_network(image, classes):
    del image
    return nn.Sequential(
        *(
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, classes),
        )
    )


@pytest.mark.slow
def test_the_command_writes_its_file(tmp_path, monkeypatch, capsys, sparse):
    monkeypatch.setattr(sparse, "TASKS", (sparse.Task("linear", lambda: nn.Linear(32, 32), (4, 32)),))
    out = tmp_path / "sparse.json"
    monkeypatch.setattr(
        sys,
        "argv",
        ["sparse.py", "--threads", "1", "--rounds", "1", "--layers-alone", "--tasks", "0", "--out", str(out)],
    )
    threads = torch.get_num_threads()
    try:
        sparse.main()
    finally:
        torch.set_num_threads(threads)
    assert '"kernels"' in out.read_text()
    assert "linear, 99% gone, 1 thread" in capsys.readouterr().out
