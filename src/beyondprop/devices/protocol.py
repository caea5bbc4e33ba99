"""The messages between a training and its device: small binary frames with limits, and nothing that is executed.

A frame, everything little-endian and at a multiple of four bytes from its start:

    u32     length of what follows, at most the limit
    u8      version, 1
    u8      kind of the message
    u16     number of arrays, at most 8
    then for each array:
        u8      type: 1 float32, 2 float64, 3 int64, 4 uint8
        u8      dimensions, at most 8
        u16     0
        u32     size of each dimension
        the numbers, last dimension fastest, then zeros to a multiple of four bytes
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

VERSION = 1
LIMIT = 64 * 2**20
"""Bytes of the longest frame, unless a device says that it takes less."""
HELLO_LIMIT = 4096
"""Bytes of the longest frame before a client has shown its token."""
MOST_ARRAYS = MOST_DIMENSIONS = 8
TOKEN_VARIABLE = "BEYONDPROP_TOKEN"

_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 3: np.dtype("<i8"), 4: np.dtype("u1")}
_CODES = {torch.float32: 1, torch.float64: 2, torch.int64: 3, torch.uint8: 4}
_HEAD, _ARRAY, _LENGTH = struct.Struct("<BBH"), struct.Struct("<BBH"), struct.Struct("<I")


class Kind(IntEnum):
    """What a message asks or answers."""

    HELLO = 1
    """[token as UTF-8 bytes, empty for none] → DONE [int64 (3,): P, 1 if outputs are shown else 0, limit in bytes]."""
    WRITE = 2
    """[parameters (P,)] → DONE []."""
    PRESENT = 3
    """[x (batch, ...), y (batch, ...)] → DONE []."""
    READ = 4
    """[perturbations (K, P)] → DONE [costs (K,)]."""
    PREDICT = 5
    """[x (batch, ...)] → DONE [outputs (batch, ...)]."""
    DONE = 128
    """It is done; with the arrays that were asked for."""
    REFUSED = 129
    """[reason as UTF-8 bytes]: the request is wrong, and would be wrong again."""
    FAILED = 130
    """[reason as UTF-8 bytes]: the device could not now; it may later."""


class FrameError(Exception):
    """What came is no frame of this protocol; the text says why."""


def encode(kind: Kind, arrays: Sequence[Tensor]) -> bytes:
    """Make a frame.

    Raises:
        FrameError: An array has a type or more dimensions than the protocol has.

    >>> encode(Kind.WRITE, [torch.tensor([1.0])]).hex(" ", 4)
    '10000000 01020100 01010000 01000000 0000803f'
    """
    parts = [_HEAD.pack(VERSION, kind, len(arrays))]
    for array in arrays:
        if array.dtype not in _CODES or array.ndim > MOST_DIMENSIONS:
            raise FrameError(f"there is no place for {array.dtype} with {array.ndim} dimensions in a frame")
        code = _CODES[array.dtype]
        content = array.detach().cpu().contiguous().numpy().astype(_TYPES[code], copy=False).tobytes()
        parts += [_ARRAY.pack(code, array.ndim, 0), struct.pack(f"<{array.ndim}I", *array.shape), content]
        parts.append(bytes(-len(content) % 4))
    body = b"".join(parts)
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> tuple[Kind, list[Tensor]]:
    """Read what follows a frame's length.

    Raises:
        FrameError: It is no message of this protocol.
    """
    try:
        version, kind, count = _HEAD.unpack_from(body)
        if version != VERSION:
            raise FrameError(f"version {version} of the protocol, not {VERSION}")
        if count > MOST_ARRAYS:
            raise FrameError(f"{count} arrays in a frame")
        place, arrays = _HEAD.size, list[Tensor]()
        for _ in range(count):
            array, place = _decode_array(body, place)
            arrays.append(array)
        if place != len(body):
            raise FrameError(f"{len(body) - place} bytes too many in a frame")
        return Kind(kind), arrays
    except (struct.error, ValueError) as error:
        raise FrameError(f"a malformed frame ({error})") from error


def _decode_array(body: bytes, place: int) -> tuple[Tensor, int]:
    code, dimensions, zero = _ARRAY.unpack_from(body, place)
    if code not in _TYPES or dimensions > MOST_DIMENSIONS or zero:
        raise FrameError(f"an array of type {code} with {dimensions} dimensions")
    place += _ARRAY.size
    shape = struct.unpack_from(f"<{dimensions}I", body, place)
    place += 4 * dimensions
    kind = _TYPES[code]
    size = math.prod(shape) * kind.itemsize  # of Python's numbers, which do not overflow
    if size > len(body) - place:
        raise FrameError(f"an array of {size} bytes in a frame that ends after {len(body) - place}")
    content = np.frombuffer(body, kind, math.prod(shape), place).reshape(shape)
    return torch.from_numpy(content.astype(kind.newbyteorder("="))), place + size + -size % 4


def text_array(text: str) -> Tensor:
    """Text as an array of bytes.

    >>> array_text(text_array("π"))
    'π'
    """
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.zeros(0, dtype=torch.uint8)


def array_text(array: Tensor) -> str:
    """The text of an array of bytes, of which a terminal has nothing to fear: one line, printable, not long."""
    text = array.flatten()[:500].to(torch.uint8).numpy().tobytes().decode(errors="replace")
    return "".join(character if character.isprintable() else " " for character in text)


def send(connection: socket.socket, frame: bytes, seconds: float) -> None:
    """Send a frame.

    Raises:
        OSError: The other side is gone, or does not take it within `seconds` (`TimeoutError`).
    """
    connection.settimeout(seconds)
    connection.sendall(frame)


def receive(
    connection: socket.socket, *, limit: int, seconds: float, waiting: float | None = None
) -> tuple[Kind, list[Tensor]]:
    """Receive a frame. Memory is taken as bytes arrive, not as a length promises them.

    Args:
        connection: A connected socket.
        limit: Bytes that a frame may have.
        seconds: In which the frame must arrive from its first bytes to its last.
        waiting: Seconds until its first bytes; by default `seconds`.

    Raises:
        FrameError: It is none, or a longer one.
        OSError: The other side is gone (`ConnectionError`) or too slow (`TimeoutError`).
    """
    connection.settimeout(seconds if waiting is None else waiting)
    head = connection.recv(_LENGTH.size)
    end = time.monotonic() + seconds
    (length,) = _LENGTH.unpack(head + _receive(connection, _LENGTH.size - len(head), end, ended=not head))
    if not _HEAD.size <= length <= limit:
        raise FrameError(f"a frame of {length} bytes, where {limit} are the most")
    return decode(_receive(connection, length, end))


def _receive(connection: socket.socket, count: int, end: float, *, ended: bool = False) -> bytes:
    content = bytearray()
    while not ended and len(content) < count:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("a frame does not come to its end")
        connection.settimeout(left)
        chunk = connection.recv(min(count - len(content), 2**20))
        content += chunk
        ended = not chunk
    if ended:
        raise ConnectionError("the other side has closed the connection")
    return bytes(content)
