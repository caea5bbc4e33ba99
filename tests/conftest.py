"""What holds for all tests."""

import gc
import os
from contextlib import contextmanager

import pytest

# Before torch is imported. The tensors of the tests are small: a second thread gains little, and where processors are
# shared the threads' waiting for each other, by spinning, makes the suite ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

os.fsync = lambda _: None  # nothing that a test writes has to outlive a power cut


def pytest_collection_finish():
    """Leave torch and ten thousand tests out of garbage collections: each would go through a million objects."""
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    """Draws of every test begin at the same seed, whatever ran before it."""
    import torch  # not before the threads are set

    torch.manual_seed(0)


@pytest.fixture
def undrawn(monkeypatch):
    """Runs leave words in the place of their pictures: drawing takes most of the time of a short training."""
    for module in ("curves", "runs"):
        monkeypatch.setattr(f"beyondprop.training.{module}.draw_curves", lambda *_: b"curves")
    monkeypatch.setattr("beyondprop.training.curves.draw_comparison", lambda *_: b"comparison")


@pytest.fixture
def folder(tmp_path, monkeypatch, undrawn):
    """A folder of its own for runs and pages, and no curves in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
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
