"""What is noted of the machine."""

from pathlib import Path

import torch

from beyondprop.training import provenance

INFO = (
    "processor\t: 0\nvendor_id\t: Made\nmodel name\t: Abacus 9: fast\n\nprocessor\t: 1\nmodel name\t: Abacus 9: fast\n"
)


def test_the_processors_model_is_what_linux_tells_once(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: INFO)
    assert provenance.cpu_model() == "Abacus 9: fast"
    assert provenance.surroundings(torch.device("cpu"))["cpu"] == "Abacus 9: fast"


def test_elsewhere_it_is_what_python_knows(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    assert provenance.cpu_model() == "abacus"
