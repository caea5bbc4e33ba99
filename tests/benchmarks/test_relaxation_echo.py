from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import relaxation_echo

    return relaxation_echo


def test_rows_without_a_checkout_have_no_peer(script: ModuleType) -> None:
    found = script.rows(None, 1, points=4)
    assert len(found) == 6
    assert all(row.metric == "seconds_per_step" and row.ours > 0 for row in found)
    assert all(row.peer_value is row.ratio is None for row in found)
    assert found[0].case == "averaged Hamiltonian echo, 4 arrays of 20 modes, 3 steps, alternating"


def test_what_is_no_checkout_of_the_peer_is_refused(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "cavity_array").mkdir()
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(SystemExit, match=f"is not a checkout of {script.COMMIT}"):
            script.rows(path, 1, points=4)


def test_steps_that_differ_are_not_compared(script: ModuleType) -> None:
    script.check_alike(torch.zeros(2), torch.full((2,), 1e-12))
    with pytest.raises(SystemExit, match="different learning modes"):
        script.check_alike(torch.zeros(2), torch.tensor([0.0, 1e-6]))
    with pytest.raises(SystemExit, match="different learning modes"):
        script.check_alike(torch.zeros(1), torch.tensor([torch.nan]))
