"""The publishers' file formats, read into numpy arrays. Every count and range is checked."""

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beyondprop.errors import DataError

Bytes = NDArray[np.uint8]

_PIXELS = 3 * 32 * 32  # of a CIFAR record


def read_idx(path: Path, shape: tuple[int, ...], name: str) -> Bytes:
    """Reads a gzip-compressed idx file of unsigned bytes.

    The format: two zero bytes, the type code (8 is unsigned byte), the number of dimensions, each dimension as a
    big-endian 32-bit number, and then the values.

    Args:
        path: The file.
        shape: What the dimensions after the first (the number of items) must be: `(28, 28)`, or `()` for labels.
        name: The data set's name, for the error message.

    Returns:
        Array of shape `(items, *shape)`.

    Raises:
        DataError: The file is unreadable, truncated, not gzip or not such an idx file.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged(path, f"not an intact gzip file ({error})", name) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    dimensions = 1 + len(shape)
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise damaged(path, f"{len(content)} bytes are too few for an idx header", name)
    if content[:2] != b"\0\0" or content[3] != dimensions:
        raise damaged(
            path, f"its magic number {content[:4].hex()} is not that of idx with {dimensions} dimensions", name
        )
    if content[2] != 8:
        raise damaged(path, f"its idx type code is {content[2]:#04x}, not 0x08 (unsigned bytes)", name)
    sizes = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    if sizes[1:] != shape:
        raise damaged(path, f"its items have dimensions {sizes[1:]}, not {shape}", name)
    if len(content) - header != math.prod(sizes):
        raise damaged(path, f"{len(content) - header} bytes follow a header that announces {math.prod(sizes)}", name)
    # A copy, because torch wants memory that it may write to.
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes).copy()


def read_cifar(path: Path, classes: int, name: str) -> tuple[Bytes, Bytes]:
    """Reads a file of CIFAR's binary version.

    A record is one label byte (CIFAR-100: a coarse and a fine one) and 3×32×32 pixels: a red, a green, a blue plane.

    Args:
        path: The file.
        classes: 10 or 100; with 100 a record has two label bytes, and the fine label is the one returned.
        name: The data set's name, for the error message.

    Returns:
        Images `(N, 3, 32, 32)` and labels `(N,)`.

    Raises:
        DataError: The file is unreadable, empty, not made of whole records, or a label is out of range.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    ranges = (20, 100) if classes == 100 else (classes,)
    length = len(ranges) + _PIXELS
    if not content or len(content) % length:
        raise damaged(path, f"{len(content)} bytes are not a positive number of records of {length} bytes", name)
    records = np.frombuffer(content, np.uint8).reshape(-1, length)
    for column, bound in enumerate(ranges):
        check_labels(path, records[:, column], bound, name)
    # Copies, because torch wants memory that it may write to.
    return records[:, len(ranges) :].copy().reshape(-1, 3, 32, 32), records[:, len(ranges) - 1].copy()


def read_digits(path: Path, name: str) -> tuple[Bytes, Bytes]:
    """Reads scikit-learn's digits: a compressed table of 64 pixels (0..16) and the label in each row.

    Returns:
        Images `(N, 1, 8, 8)` and labels `(N,)`.

    Raises:
        DataError: The table is unreadable or has another form.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        # No line at all would be a warning to numpy.
        table = np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.uint8, ndmin=2) if content.strip() else None
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise _not_digits(path) from error
    if table is None or table.shape[1] != 65 or table[:, :64].max() > 16:
        raise _not_digits(path)
    check_labels(path, table[:, 64], 10, name)
    return table[:, :64].copy().reshape(-1, 1, 8, 8), table[:, 64].copy()


def check_labels(path: Path, labels: Bytes, classes: int, name: str) -> None:
    """Raises `DataError` where a label is not below the number of classes."""
    if labels.size and labels.max() >= classes:
        first = int(np.argmax(labels >= classes))
        raise damaged(path, f"label {labels[first]} of item {first} is not in 0..{classes - 1}", name)


def damaged(path: Path, what: str, name: str) -> DataError:
    """The error for a file that is there and wrong: what is wrong, and the way out."""
    return DataError(
        f"{path}: {what}; delete it so that it is fetched again (`beyondprop data verify {name}` checks every file)"
    )


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror or error}); make it a readable file")


def _not_digits(path: Path) -> DataError:
    return DataError(f"{path}: not scikit-learn's table of digits; reinstall scikit-learn, which brings it along")
