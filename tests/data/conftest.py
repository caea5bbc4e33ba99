import dataclasses
import hashlib
from functools import partial

import pytest
from small_sets import write_cifar_set, write_idx_set

from beyondprop.data import registry


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty root for the data sets."""
    folder = tmp_path / "root"
    folder.mkdir()
    monkeypatch.setenv("BEYONDPROP_DATA", str(folder))
    return folder


@pytest.fixture
def small(root, monkeypatch):
    """Writes a small set in place of a named one, and tells the registry its counts and checksums."""

    def make(name):
        entry = registry.SETS[name]
        folder = root / entry.folder
        if entry.layout == "idx":
            content = write_idx_set(folder)
        else:
            content = write_cifar_set(folder, [file.name for file in entry.files], entry.classes)

        def known(file):
            if entry.layout == "cifar":
                count = 2
            else:
                count = len(content["train" if file.name.startswith("train") else "test"][1])
            sha256 = hashlib.sha256((folder / file.name).read_bytes()).hexdigest()
            return dataclasses.replace(file, count=count, sha256=sha256)

        train, test = (tuple(map(known, files)) for files in (entry.train, entry.test))
        monkeypatch.setitem(registry.SETS, name, dataclasses.replace(entry, train=train, test=test))
        return folder, content

    return make


@pytest.fixture
def user_error(one_line):
    """A context that expects one `DataError` whose message is one line and names what it is told to name."""
    from beyondprop.errors import DataError

    return partial(one_line, DataError)
