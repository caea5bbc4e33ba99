"""Downloads, without a network: pooch's own download runs, with a function of ours in place of the connection."""

import dataclasses
import hashlib

import pytest
from small_sets import files_below, snapshot, tar_gz

from beyondprop import data
from beyondprop.data import registry


@pytest.fixture
def publisher(monkeypatch):
    """What the publishers serve, by URL; the list holds what was asked for."""
    served, asked = {}, []

    def download(url, output_file, _pooch, check_only=False):
        asked.append(url)
        if url not in served:
            raise OSError(f"no route\nto {url}")
        with open(output_file, "wb") as stream:
            stream.write(served[url])

    monkeypatch.setattr("pooch.core.choose_downloader", lambda url, progressbar=False: download)
    return served, asked


def take_away(name, folder):
    """Removes a small set's files, giving their contents."""
    contents = {file.name: (folder / file.name).read_bytes() for file in registry.SETS[name].files}
    for file in contents:
        (folder / file).unlink()
    return contents


@pytest.fixture
def archived(small, publisher, monkeypatch):
    """CIFAR-100 is not on disk, and served as an archive with a member that nobody wants."""
    folder, _ = small("cifar-100")
    contents = take_away("cifar-100", folder)
    folder.rmdir()

    def serve(archive=None, md5=None):
        members = {f"cifar-100-binary/{file}": content for file, content in contents.items()}
        archive = tar_gz({**members, "cifar-100-binary/../../evil": b"!"}) if archive is None else archive
        entry = registry.SETS["cifar-100"]
        md5 = hashlib.md5(archive).hexdigest() if md5 is None else md5
        monkeypatch.setitem(registry.SETS, "cifar-100", dataclasses.replace(entry, archive_md5=md5))
        publisher[0][entry.url] = archive
        return archive

    return folder, contents, serve


def test_only_missing_idx_files_are_downloaded(small, publisher):
    folder, _ = small("mnist")
    served, asked = publisher
    expected = data.load("mnist")
    path = folder / "t10k-images-idx3-ubyte.gz"
    url = "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz"
    served[url] = path.read_bytes()
    path.unlink()
    assert (data.load("mnist").test.images == expected.test.images).all()
    assert asked == [url]
    assert sorted(p.name for p in folder.iterdir()) == sorted(file.name for file in registry.SETS["mnist"].files)
    data.load("mnist")
    assert len(asked) == 1


def test_download_impossible(small, root, publisher, user_error):
    folder, _ = small("fashion-mnist")
    path = folder / "train-labels-idx1-ubyte.gz"
    path.unlink()
    before = snapshot(root)
    with user_error(path.name, str(folder), "no route to http://fashion-mnist", "BEYONDPROP_DATA"):
        data.load("fashion-mnist")
    assert snapshot(root) == before


@pytest.mark.parametrize("error", [OSError("down"), ValueError("odd"), RuntimeError(""), TimeoutError("a\nb")])
def test_whatever_pooch_raises_is_one_line(root, monkeypatch, user_error, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("pooch.retrieve", fail)
    for name, file in (("mnist", "train-images-idx3-ubyte.gz"), ("cifar-10", "cifar-10-binary.tar.gz")):
        with user_error(name, file, str(root), "BEYONDPROP_DATA"):
            data.load(name)
    assert files_below(root) == []


def test_wrong_checksum_leaves_no_file_behind(root, publisher, user_error):
    served, _ = publisher
    served["https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz"] = b"something else"
    with user_error("train-images-idx3-ubyte.gz", "hash"):
        data.load("mnist")
    served["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"] = b"something else"
    with user_error("cifar-10-binary.tar.gz", "hash"):
        data.load("cifar-10")
    assert files_below(root) == []


def test_archive_gives_the_wanted_files_alone(archived, root):
    folder, contents, serve = archived
    serve()
    data.load("cifar-100")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents
    assert sorted(files_below(root.parent)) == sorted(f"root/cifar-100-binary/{file}" for file in contents)


def test_archive_leaves_files_that_are_there(archived):
    folder, contents, serve = archived
    serve()
    folder.mkdir()
    (folder / "train.bin").write_bytes(b"mine")
    with pytest.raises(data.registry.DataError, match=r"train\.bin"):
        data.load("cifar-100")
    assert (folder / "train.bin").read_bytes() == b"mine"
    assert (folder / "test.bin").read_bytes() == contents["test.bin"]


def test_archive_put_there_by_the_user_is_used_and_kept(archived, root, publisher):
    folder, contents, serve = archived
    path = root / "cifar-100-binary.tar.gz"
    path.write_bytes(serve())
    data.load("cifar-100")
    assert publisher[1] == []
    assert path.exists()
    assert (folder / "train.bin").read_bytes() == contents["train.bin"]


def test_damaged_archive_put_there_by_the_user(archived, root, user_error):
    _, _, serve = archived
    path = root / "cifar-100-binary.tar.gz"
    path.write_bytes(serve()[:-20])
    before = snapshot(root)
    with user_error("cifar-100-binary.tar.gz", "MD5", "delete it"):
        data.load("cifar-100")
    assert snapshot(root) == before


@pytest.mark.parametrize("keep", [0, 5, 300, 3000, 9000])
def test_truncated_archive(archived, root, user_error, keep):
    _, _, serve = archived
    whole = serve()
    serve(whole[:keep])
    with user_error("cifar-100-binary.tar.gz", "cannot be unpacked", "delete it"):
        data.load("cifar-100")
    assert not [name for name in files_below(root) if "partial" in name]


def test_archive_without_a_member(archived, root, user_error):
    _, contents, serve = archived
    serve(tar_gz({"cifar-100-binary/train.bin": contents["train.bin"]}))
    with user_error("cifar-100-binary.tar.gz", "test.bin"):
        data.load("cifar-100")


def test_archive_with_another_content(archived, root, user_error):
    folder, contents, serve = archived
    changed = bytes([contents["train.bin"][0] ^ 1]) + contents["train.bin"][1:]
    serve(tar_gz({"cifar-100-binary/train.bin": changed, "cifar-100-binary/test.bin": contents["test.bin"]}))
    with user_error("cifar-100-binary/train.bin", "SHA-256"):
        data.load("cifar-100")
    assert list(folder.iterdir()) == []


def test_full_disk_while_unpacking(archived, root, user_error, monkeypatch):
    folder, _, serve = archived
    serve()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with user_error(str(folder), "No space left"):
        data.load("cifar-100")
    assert list(folder.iterdir()) == []
