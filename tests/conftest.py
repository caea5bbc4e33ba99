"""What holds for all tests."""

import os
from contextlib import contextmanager

import pytest

# Before torch is imported. The tensors of the tests are small: a second thread gains little, and where processors are
# shared the threads' waiting for each other, by spinning, makes the suite ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def seeded():
    """Draws of a test begin at the same seed, whatever ran before it."""
    import torch  # not before the threads are set

    torch.manual_seed(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of its own for runs and pages, and no curves in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
    for module in ("curves", "runs"):  # each run's own curves take longer than all else
        monkeypatch.setattr(f"beyondprop.training.{module}.draw_curves", lambda *_: b"")
    return tmp_path


@pytest.fixture
def one_line():
    """A context that expects an error whose message is one line and holds what it is told."""

    @contextmanager
    def expect(kind, *named):
        with pytest.raises(kind) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        for text in named:
            assert text in message, message

    return expect
