"""Frames: what is encoded comes back, every other byte string is refused, and nothing is taken on a length's word."""

import random
import socket
import struct
import threading
import time
import tracemalloc

import pytest
import torch

from beyondprop.devices import protocol
from beyondprop.devices.protocol import FrameError, Kind, decode, encode

TYPES = (torch.float32, torch.float64, torch.int64, torch.uint8)


def drawn_arrays(seed):
    torch.manual_seed(seed)
    rng = random.Random(seed)
    shapes = [[rng.randrange(5) for _ in range(rng.randrange(5))] for _ in range(rng.randrange(9))]
    return [(100 * torch.randn(shape)).abs().to(rng.choice(TYPES)) for shape in shapes]


def body_of(frame):
    (length,) = struct.unpack("<I", frame[:4])
    assert length == len(frame) - 4
    return frame[4:]


@pytest.mark.parametrize("seed", range(30))
def test_what_is_encoded_comes_back(seed):
    arrays = drawn_arrays(seed)
    kind, found = decode(body_of(encode(Kind.READ, arrays)))
    assert kind is Kind.READ
    assert len(found) == len(arrays)
    for one, other in zip(arrays, found, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_the_bytes_are_those_of_the_description():
    """Written out by hand, as a program in another language has to write them."""
    frame = encode(Kind.PRESENT, [torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([7, 8, 9]).byte()])
    by_hand = (
        struct.pack("<I", 4 + 12 + 16 + 8 + 4)
        + struct.pack("<BBH", 1, 3, 2)
        + struct.pack("<BBHII", 2, 2, 0, 1, 2)
        + struct.pack("<dd", 1.0, -2.0)
        + struct.pack("<BBHI", 4, 1, 0, 3)
        + bytes([7, 8, 9, 0])
    )
    assert frame == by_hand


def test_nan_and_infinity_pass_unchanged():
    (found,) = decode(body_of(encode(Kind.DONE, [torch.tensor([torch.nan, torch.inf, -torch.inf])])))[1]
    assert found.isnan().tolist() == [True, False, False]
    assert found[1:].tolist() == [float("inf"), float("-inf")]


@pytest.mark.parametrize("seed", range(20))
def test_truncated_and_lengthened_frames_are_refused(seed):
    body = body_of(encode(Kind.READ, drawn_arrays(seed)))
    for cut in range(len(body)):
        with pytest.raises(FrameError):
            decode(body[:cut])
    with pytest.raises(FrameError, match="too many"):
        decode(body + bytes(4))


def test_garbage_is_refused_or_small():
    """Of any bytes: an error of this kind and no other, or arrays that are no larger than what came."""
    rng, decoded = random.Random(0), 0
    for _ in range(3000):
        body = bytearray(rng.randbytes(rng.randrange(80)))
        if rng.random() < 0.7:  # else hardly any gets past the version
            body[:4] = struct.pack("<BBH", 1, rng.choice(list(Kind)), rng.randrange(4))
        try:
            _, arrays = decode(bytes(body))
        except FrameError:
            continue
        decoded += 1
        assert sum(array.nbytes for array in arrays) <= len(body)
    assert decoded  # the test reaches beyond the heads


@pytest.mark.parametrize(
    "array",
    [
        struct.pack("<BBHII", 1, 2, 0, 2**32 - 1, 2**32 - 1),  # the product overflows 64 bits
        struct.pack("<BBHIIII", 2, 4, 0, 2**16, 2**16, 2**16, 2**16),  # and this one is 0 in 64 bits
        struct.pack("<BBHI", 9, 1, 0, 1) + bytes(4),
        struct.pack("<BBH", 1, 255, 0) + bytes(4 * 255),
        struct.pack("<BBHI", 1, 1, 1, 1) + bytes(4),
    ],
)
def test_arrays_that_claim_what_is_not_there_are_refused(array):
    with pytest.raises(FrameError):
        decode(struct.pack("<BBH", 1, 4, 1) + array)


def test_other_versions_kinds_and_too_many_arrays_are_refused():
    for head, message in (((2, 4, 0), "version 2"), ((1, 77, 0), "77"), ((1, 4, 9), "9 arrays")):
        with pytest.raises(FrameError, match=message):
            decode(struct.pack("<BBH", *head))
    with pytest.raises(FrameError, match="no place"):
        encode(Kind.WRITE, [torch.zeros(2, dtype=torch.complex64)])


def test_text_of_the_other_side_is_printable_and_short():
    text = protocol.array_text(torch.frombuffer(bytearray(b"\x1b[31mred\n\xff" + b"x" * 9999), dtype=torch.uint8))
    assert text.isprintable()
    assert len(text) <= 500
    assert protocol.array_text(protocol.text_array("")) == ""


@pytest.fixture
def pair():
    sockets = socket.socketpair()
    yield sockets
    for each in sockets:
        each.close()


def test_a_frame_may_come_byte_by_byte(pair):
    ours, theirs = pair
    frame = encode(Kind.READ, [torch.arange(3)])

    def dribble():
        for value in frame:
            theirs.sendall(bytes([value]))

    thread = threading.Thread(target=dribble)
    thread.start()
    kind, (array,) = protocol.receive(ours, limit=1000, seconds=5)
    thread.join()
    assert (kind, array.tolist()) == (Kind.READ, [0, 1, 2])


def test_a_frame_that_never_ends_times_out_as_a_whole(pair):
    """A byte now and then does not put the end off."""
    ours, theirs = pair
    theirs.sendall(struct.pack("<I", 100))
    stop = threading.Event()

    def dribble():
        while not stop.wait(0.02):
            theirs.sendall(b"x")

    thread = threading.Thread(target=dribble)
    thread.start()
    start = time.perf_counter()
    with pytest.raises(TimeoutError):
        protocol.receive(ours, limit=1000, seconds=0.2)
    assert time.perf_counter() - start < 1
    stop.set()
    thread.join()


def test_lengths_are_limited_and_take_no_memory(pair):
    ours, theirs = pair
    theirs.sendall(struct.pack("<I", 1001))
    with pytest.raises(FrameError, match="1001 bytes"):
        protocol.receive(ours, limit=1000, seconds=1)
    theirs.sendall(struct.pack("<I", 2**31))
    theirs.close()
    tracemalloc.start()
    with pytest.raises(ConnectionError):
        protocol.receive(ours, limit=2**32, seconds=1)
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()
