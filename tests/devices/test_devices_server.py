"""A device behind a socket: the same numbers as in this process, one client at a time, and up whatever clients do."""

import contextlib
import random
import socket
import struct
import threading
import time

import pytest
import torch
from torch import nn

from beyondprop.devices import DeviceServer, ModuleDevice, RemoteDevice, protocol
from beyondprop.devices.patience import Patience
from beyondprop.devices.protocol import Kind, encode
from beyondprop.errors import DeviceError, UserError

TOKEN = "a token of some length"


def module_device():
    torch.manual_seed(0)
    return ModuleDevice(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))


def batch():
    torch.manual_seed(1)
    return torch.randn(6, 3), torch.arange(6) % 2


def served(device=None, **options):
    return DeviceServer(device or module_device(), **options).running()


def raw(server):
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def answers(server, device=None):
    """Whether a good client gets the right numbers."""
    x, y = batch()
    remote, here = RemoteDevice(server.address, timeout=5), device or module_device()
    torch.manual_seed(2)
    parameters, perturbations = torch.randn(here.size), 0.1 * torch.randn(5, here.size)
    for each in (remote, here):
        each.write(parameters)
        each.present(x, y)
    same = torch.equal(remote.read(perturbations), here.read(perturbations))
    same &= torch.equal(remote.predict(x), here.predict(x))
    remote.close()
    return same


def test_the_same_numbers_as_in_this_process():
    with served() as server:
        assert answers(server)
        assert answers(server)  # after the first client has gone


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_and_shapes_pass(dtype):
    class Echo:
        size = 2

        def write(self, parameters):
            self.parameters = parameters

        def present(self, x, y):
            self.x, self.y = x, y

        def read(self, perturbations):
            return [float(row.sum()) for row in perturbations]

    echo, x, y = Echo(), torch.randn(3, 1, 2, 2).to(dtype), torch.tensor([1, 0, 1])
    with served(echo) as server:
        remote = RemoteDevice(server.address)
        assert remote.predict is None
        remote.write(torch.ones(2).to(dtype))
        remote.present(x, y)
        assert torch.equal(remote.read(torch.tensor([[1.0, 2.0]]).to(dtype)), torch.tensor([3.0]))
        remote.close()
    assert torch.equal(echo.parameters, torch.ones(2).to(dtype))
    assert echo.parameters.dtype == echo.x.dtype == dtype
    assert torch.equal(echo.x, x)
    assert torch.equal(echo.y, y)


def test_a_read_is_divided_among_messages_where_a_device_takes_short_ones():
    taken = []

    class Counts(ModuleDevice):
        def read(self, perturbations):
            taken.append(len(perturbations))
            return super().read(perturbations)

    device = Counts(nn.Linear(3, 2), at_once=1)
    x, y = batch()
    with served(device, limit=200) as server:  # 8 parameters of 4 bytes: 4 rows and a head of 16 bytes
        remote = RemoteDevice(server.address)
        remote.write(torch.ones(8))
        remote.present(x, y)
        perturbations = torch.randn(10, 8)
        found = remote.read(perturbations)
        with pytest.raises(UserError, match="smaller batches"):
            remote.present(x.repeat(9, 1), y.repeat(9))
        remote.close()
    assert taken == [4, 4, 2]
    assert torch.equal(found, device.read(perturbations))


def misuses():
    rng = random.Random(0)
    hello = encode(Kind.HELLO, [protocol.text_array("")])
    good = encode(Kind.WRITE, [torch.ones(26)])
    yield "nothing", b""
    for size in (1, 3, 4, 5, 64, 5000):
        yield f"{size} bytes of garbage", rng.randbytes(size)
        yield f"{size} bytes of garbage after the greeting", hello + rng.randbytes(size)
    yield "a browser", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "a huge length", struct.pack("<I", 2**32 - 1)
    yield "a huge length after the greeting", hello + struct.pack("<I", 2**32 - 1)
    yield "a long greeting", encode(Kind.HELLO, [torch.zeros(5000).byte()])
    yield "half a frame", hello + good[: len(good) // 2]
    yield "no greeting", good
    yield "two greetings", hello + hello
    yield "an answer", hello + encode(Kind.DONE, [])
    yield "a pickle", hello + struct.pack("<I", 20) + b"\x80\x04\x95" + bytes(17)
    yield "no parameters", hello + encode(Kind.WRITE, [])
    yield "too few parameters", hello + encode(Kind.WRITE, [torch.ones(25)])
    yield "parameters that are NaN", hello + encode(Kind.WRITE, [torch.full((26,), torch.nan)])
    yield "whole numbers for parameters", hello + encode(Kind.WRITE, [torch.ones(26).long()])
    yield "an empty batch", hello + encode(Kind.PRESENT, [torch.zeros(0, 3), torch.zeros(0).long()])
    yield "unequal batches", hello + encode(Kind.PRESENT, [torch.zeros(2, 3), torch.zeros(3).long()])
    yield "numbers without a batch", hello + encode(Kind.PRESENT, [torch.tensor(1.0), torch.tensor(1)])
    for y in (99, -1):  # which the loss refuses in its own way
        wrong = encode(Kind.PRESENT, [torch.zeros(1, 3), torch.tensor([y])])
        yield f"label {y}", hello + good + wrong + encode(Kind.READ, [torch.zeros(1, 26)])
    wrong = encode(Kind.PRESENT, [torch.zeros(1, 99), torch.tensor([0])])
    yield "inputs of another size", hello + good + wrong + encode(Kind.READ, [torch.zeros(1, 26)])
    yield "no perturbation", hello + good + encode(Kind.READ, [torch.zeros(0, 26)])


MISUSES = dict(misuses())


def test_a_server_stays_up_under_garbage():
    with served(patience=0.3) as server:
        for misuse in MISUSES.values():
            for go in (False, True):
                with raw(server) as connection, contextlib.suppress(OSError):
                    connection.sendall(misuse)
                    if go:
                        connection.shutdown(socket.SHUT_WR)  # else the server has to give up by itself
                        while connection.recv(1 << 16):
                            pass
        _until(lambda: not server._connections)
        assert answers(server)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no parameters", "26 finite"),
        ("too few parameters", "26 finite"),
        ("parameters that are NaN", "26 finite"),
        ("whole numbers for parameters", "26 finite"),
        ("an empty batch", "at least one"),
        ("unequal batches", "as many targets"),
        ("two greetings", "not asked HELLO"),
        ("an answer", "not asked DONE"),
    ],
)
def test_a_wrong_request_is_answered_with_what_is_wrong_with_it(name, message):
    with served() as server, raw(server) as connection:
        connection.sendall(MISUSES[name])
        kind, _ = protocol.receive(connection, limit=1000, seconds=5)
        assert kind == Kind.DONE
        kind, (text,) = protocol.receive(connection, limit=1000, seconds=5)
        assert kind == Kind.REFUSED
        assert message in protocol.array_text(text)


def test_nothing_is_read_before_this_client_has_written_and_presented():
    """Else it would read what another one has left there."""
    x, y = batch()
    with served() as server:
        assert answers(server)
        for prepare in ((), ("write",), ("present",)):
            remote = RemoteDevice(server.address)
            if "write" in prepare:
                remote.write(torch.ones(26))
            if "present" in prepare:
                remote.present(x, y)
            with pytest.raises(UserError, match="on this connection"):
                remote.read(torch.zeros(1, 26))
            remote.close()
        remote = RemoteDevice(server.address)
        with pytest.raises(UserError, match="on this connection"):
            remote.predict(x)
        remote.close()


def test_a_device_has_one_client_and_tells_others_so():
    with served() as server:
        first = RemoteDevice(server.address)
        with pytest.raises(DeviceError, match="busy"):
            RemoteDevice(server.address)
        first.close()
        _until(lambda: not server._connections)
        RemoteDevice(server.address).close()


def test_a_client_that_asks_nothing_makes_room():
    with served(idle=0.1) as server:
        idle = RemoteDevice(server.address)
        _until(lambda: not server._connections)
        assert answers(server)
        patient = Patience(idle, pause=0)  # and comes back by itself
        assert patient.costs(torch.ones(26), torch.zeros(2, 26), *batch()).shape == (2,)
        idle.close()


def test_more_connections_than_there_is_room_for_are_closed():
    with served() as server:
        crowd = [raw(server) for _ in range(40)]
        time.sleep(0.2)
        assert len(server._connections) <= 16
        for connection in crowd:
            connection.close()
        _until(lambda: not server._connections)
        assert answers(server)


@pytest.mark.parametrize("wrong", ["", "a token of some lengt", "a token of some length ", "\x00" * 22])
def test_a_wrong_token_is_refused_and_the_right_one_taken(wrong):
    with served(token=TOKEN) as server:
        with pytest.raises(UserError, match="token"):
            RemoteDevice(server.address, token=wrong)
        with raw(server) as connection:  # nor is anything done without one
            connection.sendall(encode(Kind.WRITE, [torch.ones(26)]))
            assert connection.recv(100) == b""
        RemoteDevice(server.address, token=TOKEN).close()


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::"])
def test_other_addresses_than_loopback_need_a_token(host):
    with pytest.raises(UserError, match="no token"):
        DeviceServer(module_device(), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.9"])
def test_loopback_needs_none(host):
    server = DeviceServer(module_device(), host)
    assert server.address.startswith(("127.0.0.", "[::1]"))
    server.close()


def test_with_a_token_any_address_will_do():
    server = DeviceServer(module_device(), "0.0.0.0", token=TOKEN)
    assert server.address.startswith("0.0.0.0:")
    server.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeviceServer(module_device(), token="short"), "16 characters"),
        (lambda: DeviceServer(nn.Linear(2, 2)), "has no size, write"),
        (lambda: DeviceServer(module_device(), "192.0.2.1", token=TOKEN), "cannot listen"),
        (lambda: DeviceServer(module_device(), port=70000), "cannot listen"),
        (lambda: RemoteDevice("4711"), "HOST:PORT"),
        (lambda: RemoteDevice("localhost:http"), "HOST:PORT"),
        (lambda: RemoteDevice("127.0.0.1:1", timeout=0), "timeout"),
        (lambda: RemoteDevice("127.0.0.1:1"), "beyondprop device"),
        (lambda: RemoteDevice(f"{'a' * 99}.example:1"), "beyondprop device"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(make, message, one_line):
    with one_line(UserError, message):
        make()


@contextlib.contextmanager
def impostor(*replies):
    """Something that answers every connection with the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.sendall(b"".join(replies))
                    kept.append(connection)

        kept = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in kept:
            connection.close()


GREETING = encode(Kind.DONE, [torch.tensor([26, 1, 10**6])])


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([b"SSH-2.0-OpenSSH_9.6\r\n"], "is lost"),
        ([struct.pack("<I", 2**32 - 1)], "is lost"),
        ([], "0.2 s"),
        ([GREETING[:9]], "0.2 s"),
        ([encode(Kind.DONE, [])], "cannot be understood"),
        ([encode(Kind.DONE, [torch.tensor([0, 1, 10**6])])], "cannot be understood"),
        ([encode(Kind.DONE, [torch.tensor([2**62, 1, 10**6])])], "cannot be understood"),
        ([encode(Kind.DONE, [torch.tensor([26.0, 1.0, torch.nan])])], "cannot be understood"),
        ([encode(Kind.DONE, [torch.tensor([26.0, 1.0, torch.inf])])], "cannot be understood"),
        ([encode(Kind.FAILED, [])], "no reason"),
        ([GREETING, encode(Kind.DONE, [torch.zeros(3)])], "does not fit"),
        ([GREETING, encode(Kind.DONE, [torch.zeros(6, 2).long()])], "does not fit"),
        ([GREETING, encode(Kind.DONE, [])], "does not fit"),
    ],
)
def test_what_answers_as_no_device_does_is_told_and_no_more(replies, message):
    with impostor(*replies) as address, pytest.raises(DeviceError, match=message):
        RemoteDevice(address, timeout=0.2).predict(torch.zeros(6, 3))


def test_a_device_that_comes_back_as_another_is_refused():
    server = DeviceServer(module_device())
    port = int(server.address.rpartition(":")[2])
    with server.running():
        remote = RemoteDevice(server.address)
    with served(ModuleDevice(nn.Linear(3, 2)), port=port), pytest.raises(UserError, match="8 parameters, not 26"):
        Patience(remote, pause=0).costs(torch.ones(26), torch.zeros(2, 26), *batch())


@pytest.mark.parametrize(("raised", "kind"), [(OSError("cable"), DeviceError), (DeviceError("warm"), DeviceError)])
def test_what_the_device_raises_is_passed_on(raised, kind):
    class Broken(ModuleDevice):
        def present(self, x, y):
            raise raised

    with served(Broken(nn.Linear(3, 2))) as server:
        remote = RemoteDevice(server.address)
        with pytest.raises(kind, match=str(raised)):
            remote.present(*batch())
        remote.close()


def _until(holds):
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_stranger_may_not_send_a_long_message_before_its_token():
    """It is refused by its length, and nothing of it is waited for."""
    with served(token="a token that is long enough", patience=60.0) as server, raw(server) as connection:
        connection.settimeout(5.0)
        connection.sendall(struct.pack("<I", 2 * protocol.HELLO_LIMIT))
        assert connection.recv(1) == b""


def test_connections_that_say_nothing_shut_nobody_out():
    """The oldest of them gives way, long before its time is up; who has greeted keeps its place."""
    with served(token=TOKEN, patience=60.0) as server, contextlib.ExitStack() as stack:
        training = RemoteDevice(server.address, token=TOKEN, timeout=5)
        assert training.size
        silent = [stack.enter_context(raw(server)) for _ in range(40)]
        assert silent[0].recv(1) == b""  # the oldest has been ended
        training.write(torch.zeros(training.size))  # still there
        training.close()
        later = RemoteDevice(server.address, token=TOKEN, timeout=5)
        later.write(torch.zeros(training.size))
        later.close()


def test_a_connection_that_gave_way_keeps_its_number_until_its_thread_is_done(monkeypatch):
    """Else the next connection may have that number while the thread is about to wait on it."""
    talked, done = list[socket.socket](), threading.Event()

    def converse(_server, connection):
        talked.append(connection)
        done.wait(timeout=5)

    monkeypatch.setattr(DeviceServer, "_converse", converse)
    with served() as server, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw(server)) for _ in range(20)]
        assert silent[0].recv(1) == b""
        _until(lambda: len(talked) == 20)
        assert all(connection.fileno() >= 0 for connection in talked)
        done.set()
        _until(lambda: all(connection.fileno() < 0 for connection in talked[:4]))
