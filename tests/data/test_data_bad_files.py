"""Damaged files: each gives one line that names the file, and nothing on disk is touched."""

import gzip
import os
import shutil
import struct
import sys

import numpy as np
import pytest
from small_sets import grey, idx_bytes, snapshot, write_gz

from beyondprop import data

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
IMAGE_VALUES, LABEL_VALUES = grey(0, 12)


def cut(file, keep):
    """Keeps so many bytes of a file (negative: drops so many)."""

    def damage(folder):
        path = folder / file
        path.write_bytes(path.read_bytes()[:keep])

    return damage


def replace(file, content):
    return lambda folder: (folder / file).write_bytes(content)


def idx(file, values, *, keep=None, extra=b"", **header):
    return lambda folder: write_gz(folder / file, idx_bytes(values, **header)[:keep] + extra)


def flip_byte(file, position):
    def damage(folder):
        path = folder / file
        content = bytearray(path.read_bytes())
        content[position] ^= 0xFF
        path.write_bytes(bytes(content))

    return damage


def make_folder(file):
    def damage(folder):
        (folder / file).unlink()
        (folder / file).mkdir()

    return damage


GZ = gzip.compress(idx_bytes(LABEL_VALUES), mtime=0)
MNIST = {
    "gz header cut after its magic number": (cut(IMAGES, 2), IMAGES, "gzip"),
    "gz header cut within its magic number": (cut(IMAGES, 1), IMAGES, "gzip"),
    "gz header cut": (cut(IMAGES, 7), IMAGES, "gzip"),
    "gz cut after its header": (cut(IMAGES, 10), IMAGES, "gzip"),
    "gz cut within the idx header": (cut(IMAGES, 18), IMAGES, "gzip"),
    "gz body cut": (cut(IMAGES, 4000), IMAGES, "gzip"),
    "gz trailer cut": (cut(IMAGES, -1), IMAGES, "gzip"),
    "gz trailer missing": (cut(IMAGES, -8), IMAGES, "gzip"),
    "gz trailer missing from labels": (cut(LABELS, -4), LABELS, "gzip"),
    "gz checksum wrong": (flip_byte(IMAGES, -6), IMAGES, "gzip"),
    "gz length wrong": (flip_byte(IMAGES, -1), IMAGES, "gzip"),
    "gz block type wrong": (flip_byte(LABELS, 10), LABELS, "gzip"),
    "gz followed by rubbish": (replace(LABELS, GZ + b"rubbish"), LABELS, "gzip"),
    "not gz": (replace(IMAGES, idx_bytes(IMAGE_VALUES)), IMAGES, "gzip"),
    "a web page": (replace(LABELS, b"<!DOCTYPE html>"), LABELS, "gzip"),
    "no byte": (replace(IMAGES, b""), IMAGES, "0 bytes"),
    "gz of nothing": (replace(LABELS, gzip.compress(b"")), LABELS, "0 bytes"),
    "idx header cut": (idx(IMAGES, IMAGE_VALUES, keep=15), IMAGES, "15 bytes"),
    "idx body empty": (idx(IMAGES, IMAGE_VALUES, keep=16), IMAGES, "0 bytes follow"),
    "idx body one byte short": (idx(IMAGES, IMAGE_VALUES, keep=-1), IMAGES, "announces"),
    "idx body one byte long": (idx(LABELS, LABEL_VALUES, extra=b"\1"), LABELS, "announces"),
    "idx magic wrong": (idx(IMAGES, IMAGE_VALUES, magic=b"\0\1"), IMAGES, "magic number 00010803"),
    "idx type signed": (idx(IMAGES, IMAGE_VALUES, code=9), IMAGES, "0x09"),
    "idx type float": (idx(LABELS, LABEL_VALUES, code=13), LABELS, "0x0d"),
    "idx of one dimension too many": (idx(IMAGES, IMAGE_VALUES[..., None]), IMAGES, "magic number 00000804"),
    "labels in place of images": (idx(IMAGES, np.zeros(99, np.uint8)), IMAGES, "magic number 00000801"),
    "images in place of labels": (idx(LABELS, IMAGE_VALUES), LABELS, "magic number 00000803"),
    "images of another size": (idx(IMAGES, IMAGE_VALUES[:, :14]), IMAGES, "(14, 28)"),
    "a size of four thousand millions": (idx(LABELS, LABEL_VALUES, sizes=(2**32 - 1,)), LABELS, "announces 4294967295"),
    "no image": (idx(IMAGES, IMAGE_VALUES[:0]), IMAGES, "0 items"),
    "an image too few": (idx(IMAGES, IMAGE_VALUES[:-1]), IMAGES, "11 items"),
    "a label too few": (idx(LABELS, LABEL_VALUES[:-1]), LABELS, "11 items"),
    "a label too many": (idx(LABELS, np.zeros(13, np.uint8)), LABELS, "13 items"),
    "a label out of range": (idx(LABELS, np.r_[LABEL_VALUES[:11], np.uint8(10)]), LABELS, "label 10 of item 11"),
    "a folder in place of a file": (make_folder(IMAGES), IMAGES, "not a file"),
}


@pytest.mark.parametrize("case", MNIST)
def test_damaged_idx_files(small, root, user_error, case):
    damage, file, what = MNIST[case]
    folder, _ = small("mnist")
    data.load("mnist", download=False)  # intact
    damage(folder)
    before = snapshot(root)
    with user_error(file, what):
        data.load("mnist")
    with user_error(file):
        data.verify("mnist")
    assert snapshot(root) == before


def record(label, length=3073):
    return bytes([label]) + bytes(length - 1)


CIFAR = {
    "no byte": ("cifar-10", "data_batch_3.bin", b"", "0 bytes"),
    "a byte short": ("cifar-10", "data_batch_2.bin", record(1) + record(1, 3072), "records of 3073 bytes"),
    "a byte long": ("cifar-10", "test_batch.bin", record(1) * 2 + b"\0", "records of 3073 bytes"),
    "a label only": ("cifar-10", "test_batch.bin", b"\1", "1 bytes"),
    "cut between records": ("cifar-10", "data_batch_5.bin", record(1), "1 items"),
    "a label out of range": ("cifar-10", "data_batch_1.bin", record(9) + record(10), "label 10 of item 1"),
    "a fine label out of range": ("cifar-100", "train.bin", (b"\0" + record(100)) * 2, "label 100 of item 0"),
    "a coarse label out of range": ("cifar-100", "test.bin", (b"\x14" + record(1)) * 2, "label 20 of item 0"),
    "CIFAR-10's records": ("cifar-100", "train.bin", record(1) * 2, "records of 3074 bytes"),
}


@pytest.mark.parametrize("case", CIFAR)
def test_damaged_cifar_files(small, root, user_error, case):
    name, file, content, what = CIFAR[case]
    folder, _ = small(name)
    (folder / file).write_bytes(content)
    before = snapshot(root)
    with user_error(file, what, f"beyondprop data verify {name}", "delete it"):
        data.load(name)
    assert snapshot(root) == before


@pytest.mark.parametrize(("name", "file"), [("cifar-10", "data_batch_4.bin"), ("mnist", LABELS)])
def test_missing_file_without_download(small, root, user_error, name, file):
    folder, _ = small(name)
    (folder / file).unlink()
    for action in (lambda: data.load(name, download=False), lambda: data.verify(name)):
        with user_error(file, str(folder), "BEYONDPROP_DATA"):
            action()


def test_missing_folder(root, user_error):
    shutil.rmtree(root)
    with user_error("train-images-idx3-ubyte.gz", str(root), "BEYONDPROP_DATA"):
        data.load("mnist", download=False)
    assert not root.exists()


def test_verify_says_ok_for_each_file(small):
    small("cifar-10")
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    assert data.verify("cifar-10") == [(name, "ok") for name in names]


@pytest.mark.parametrize("position", [0, 100, -1])
def test_verify_sees_every_changed_byte(small, root, user_error, position):
    folder, _ = small("cifar-100")
    flip_byte("test.bin", position)(folder)
    before = snapshot(root)
    with user_error("test.bin", "SHA-256", "delete it"):
        data.verify("cifar-100")
    assert snapshot(root) == before


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(small, user_error):
    folder, _ = small("mnist")
    (folder / IMAGES).chmod(0)
    for action in (data.load, data.verify):
        with user_error(IMAGES, "cannot be read"):
            action("mnist")


def test_read_error_of_the_disk(small, user_error, monkeypatch):
    from pathlib import Path

    for name, file in (("mnist", IMAGES), ("cifar-100", "train.bin")):
        small(name)

        def fail(path):
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch, user_error(file, "Input/output error"):
            patch.setattr(Path, "read_bytes", fail)
            data.load(name)


@pytest.mark.parametrize(
    "content",
    [b"", b"1,2\n", b"1," * 64 + b"x\n", b"17," + b"0," * 63 + b"1\n", b"0," * 64 + b"10\n", b"0," * 64 + b"1\n"],
    ids=["empty", "two columns", "no number", "pixel out of range", "label out of range", "one row"],
)
def test_damaged_digits(tmp_path, monkeypatch, user_error, content):
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(gzip.compress(content))
    monkeypatch.setattr("beyondprop.data.files.where", lambda name: path)
    with user_error("digits.csv.gz"):
        data.load("digits")
    path.unlink()
    with user_error("digits.csv.gz", "reinstall scikit-learn"):
        data.load("digits")


def test_headers_are_big_endian(small, user_error):
    """The writer could share a mistake with the reader; these are the bytes that the format's page gives."""
    folder, _ = small("mnist")
    header = bytes.fromhex("00000803 0000000c 0000001c 0000001c")
    assert idx_bytes(IMAGE_VALUES)[:16] == header
    swapped = header[:4] + struct.pack("<III", 12, 28, 28)
    write_gz(folder / IMAGES, swapped + IMAGE_VALUES.tobytes())
    with user_error(IMAGES, "dimensions"):
        data.load("mnist")
