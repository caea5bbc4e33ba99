import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import spike_timing

    return spike_timing


def test_memory_does_not_grow_with_simulated_time(script):
    x = torch.rand(4, 784)
    network = script.ours(12, 2)
    kept = script.kept_bytes(network, x)
    assert kept > network[1].weight.numel() * 4
    assert script.kept_bytes(script.ours(12, 2, 10.0), x) == kept


def test_gradients_of_every_spike_are_exact(script):
    rows = script.gradients(False)
    assert [row.ours < 1e-8 for row in rows] == [True] * 3
    assert script.relative_error(lambda w: (w**3).sum() + w.detach().sum(), torch.ones(1, 2, dtype=torch.float64)) > 0.1


def test_an_unknown_or_absent_peer_is_refused(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--peers", "nobody"])
    assert "nobody" in capsys.readouterr().err
    sys.modules.pop("spike_timing")
