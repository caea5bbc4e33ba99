import os
import subprocess
import sys
from pathlib import Path

import pytest

from beyondprop import data
from beyondprop.data import registry

NAMES = ("digits", "mnist", "fashion-mnist", "cifar-10", "cifar-100")


def test_names():
    assert data.names() == NAMES


def test_names_and_where_import_no_torch():
    code = (
        "import sys; from beyondprop.data import names, where, verify;"
        "[where(n) for n in names()]; verify('digits');"
        "print([m for m in ('torch', 'sklearn.datasets') if m in sys.modules])"
    )
    source = str(Path(registry.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("wrong", "close"),
    [
        ("mnits", "mnist"),
        ("MNIST", "mnist"),
        ("cifar10", "cifar-10"),
        ("fashionmnist", "fashion-mnist"),
        ("digit", "digits"),
    ],
)
def test_unknown_name_suggests_the_closest(user_error, wrong, close):
    for action in (data.load, data.verify, data.where):
        with user_error(repr(wrong), f"did you mean {close!r}?"):
            action(wrong)


@pytest.mark.parametrize("wrong", ["imagenet-22k", "", None, 3])
def test_unknown_name_lists_the_known(user_error, wrong):
    with user_error(repr(wrong), *NAMES):
        data.load(wrong)


def test_where_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BEYONDPROP_DATA", str(tmp_path))
    assert data.where("mnist") == tmp_path / "MNIST" / "raw"
    assert data.where("fashion-mnist") == tmp_path / "FashionMNIST" / "raw"
    assert data.where("cifar-10") == tmp_path / "cifar-10-batches-bin"
    assert data.where("cifar-100") == tmp_path / "cifar-100-binary"
    monkeypatch.setenv("BEYONDPROP_DATA", "~/sets")
    assert data.where("cifar-10") == Path.home() / "sets" / "cifar-10-batches-bin"
    for default in (lambda: monkeypatch.setenv("BEYONDPROP_DATA", ""), lambda: monkeypatch.delenv("BEYONDPROP_DATA")):
        default()
        assert data.where("cifar-10").parts[-3:] == ("beyondprop", "data", "cifar-10-batches-bin")


def test_digits_lie_in_scikit_learn():
    assert data.where("digits").is_file()
    assert data.verify("digits") == [("digits.csv.gz", "ok")]


def test_without_scikit_learn(monkeypatch, user_error):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with user_error("digits", "pip install scikit-learn"):
        data.where("digits")


def test_every_public_name_resolves():
    for name in data.__all__:
        assert getattr(data, name).__name__ in {name, "NamedTuple"}
        assert name in dir(data)
    with pytest.raises(AttributeError, match="nonsense"):
        data.nonsense  # noqa: B018


def test_registry_is_well_formed():
    for entry in registry.SETS.values():
        assert len({file.name for file in entry.files}) == len(entry.files)
        assert len({file.sha256 for file in entry.files}) == len(entry.files)
        assert all(len(bytes.fromhex(file.sha256)) == 32 for file in entry.files)
