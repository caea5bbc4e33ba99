import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads only wait for each other on networks this small."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(former)


@pytest.fixture
def fast(monkeypatch):
    """Leaves out what takes most of the time of very short trainings: waiting for the disk, and drawing."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("beyondprop.training.curves.draw_curves", lambda *_: b"")
    monkeypatch.setattr("beyondprop.training.curves.draw_comparison", lambda *_: b"\x89PNG")
