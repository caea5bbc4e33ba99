import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of its own for runs and page, and no pictures in them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
    for module in ("curves", "runs"):  # each run's own curves take longer than all else
        monkeypatch.setattr(f"beyondprop.training.{module}.draw_curves", lambda *_: b"")
    monkeypatch.setattr("beyondprop.report.comparison_page.png", lambda *_: b"")  # and then the page's pictures
    return tmp_path
