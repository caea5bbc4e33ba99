import pytest


@pytest.fixture(autouse=True)
def _without_pictures(folder, monkeypatch):
    """Everything in a folder of its own, and no pictures in the page: they take longer than all else there."""
    monkeypatch.setattr("beyondprop.report.comparison_page.png", lambda *_: b"")
