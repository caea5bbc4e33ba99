"""A device behind a socket that shows only the protocol."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor

from beyondprop.devices import protocol
from beyondprop.devices.device import Device, check_device, outputs_of
from beyondprop.devices.protocol import FrameError, Kind
from beyondprop.errors import DeviceError, UserError

logger = logging.getLogger("beyondprop.devices")
MOST_CONNECTIONS = 16
SHORTEST_TOKEN = 16
HANDOVER = 0.5  # seconds in which the end of the connection before, perhaps of the same client, may still be noticed


class DeviceServer:
    """Lends a device to one training at a time, over a socket.

    It speaks `beyondprop.devices.protocol` with whoever connects, and stays up whatever they send: a frame that is
    wrong, too long, never ends or has no right token ends that connection alone. A client has the device from its
    greeting to the end of its connection; others are told that it is busy meanwhile.

    Args:
        device: Any; its calls come from one thread at a time.
        host: To listen at. What is no loopback address needs a token.
        port: 0 takes a free one.
        token: What clients must show, at least 16 characters; None for no token.
        limit: Bytes of the longest message.
        idle: Seconds after which a client that asks nothing loses its connection; it will come back by itself.
        patience: Seconds in which a message that has begun must have come, or been taken.

    Attributes:
        address: `HOST:PORT` where it listens.

    Raises:
        UserError: It is no device; the address is not loopback and there is no token, the token is short, or the
            address cannot be listened at.
    """

    def __init__(
        self,
        device: Device,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        token: str | None = None,
        limit: int = protocol.LIMIT,
        idle: float = 60.0,
        patience: float = 10.0,
    ) -> None:
        check_device(device)
        if token is not None and len(token) < SHORTEST_TOKEN:
            raise UserError(f"a token must have at least {SHORTEST_TOKEN} characters: make one that nobody can guess")
        self.device, self.limit, self.idle, self.patience = device, limit, idle, patience
        self._token = token
        self._listener = _listen(host, port, with_token=token is not None)
        name, number = self._listener.getsockname()[:2]
        self.address = f"[{name}]:{number}" if ":" in name else f"{name}:{number}"
        self._device_lock = threading.Lock()
        self._connections = dict[socket.socket, bool]()  # in the order in which they came, and who has greeted
        self._threads = list[threading.Thread]()
        self._closed = False

    def serve(self) -> None:
        """Serve until `close` is called or the process is interrupted."""
        try:
            while not self._closed:
                try:
                    connection, _ = self._listener.accept()
                except OSError as error:  # out of file descriptors, or gone before it was accepted
                    if not self._closed:
                        logger.warning("a connection could not be accepted: %s", error)
                        time.sleep(0.1)
                    continue
                if len(self._connections) >= MOST_CONNECTIONS and not self._make_room():
                    connection.close()
                    continue
                self._connections[connection] = False
                talk = threading.Thread(target=self._talk, args=(connection,), daemon=True)
                self._threads = [thread for thread in self._threads if thread.is_alive()] + [talk]
                talk.start()
        finally:
            self.close()
            for talk in self._threads:  # a process that ends in the middle of a computation is aborted
                talk.join(timeout=self.patience)

    def close(self) -> None:
        """Stop listening and end all connections."""
        self._closed = True
        for connection in (self._listener, *self._connections):
            _wake(connection)
        self._listener.close()

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Serve in a thread of its own within a `with` block."""
        thread = threading.Thread(target=self.serve, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.close()
            thread.join()

    def _make_room(self) -> bool:
        """End the oldest connection that has not greeted: whoever says nothing shuts nobody out."""
        silent = next((connection for connection, greeted in list(self._connections.items()) if not greeted), None)
        if silent is not None:
            self._connections.pop(silent, None)
            _wake(silent)
        return silent is not None

    def _talk(self, connection: socket.socket) -> None:
        """Serve one client; whatever goes wrong ends its connection alone."""
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._converse(connection)
        except FrameError as error:
            logger.info("a client sent %s", error)
        except OSError as error:
            logger.info("a client is gone: %s", error)
        finally:
            self._connections.pop(connection, None)
            _wake(connection)
            connection.close()

    def _converse(self, connection: socket.socket) -> None:
        kind, arrays = protocol.receive(connection, limit=protocol.HELLO_LIMIT, seconds=self.patience)
        if kind != Kind.HELLO or len(arrays) != 1 or arrays[0].dtype != torch.uint8:
            raise FrameError("no greeting")
        if self._token is not None and not hmac.compare_digest(arrays[0].numpy().tobytes(), self._token.encode()):
            given = "and this is not it" if len(arrays[0]) else "and none was given"
            self._answer(connection, Kind.REFUSED, [protocol.text_array(f"the device asks for a token, {given}")])
            return
        if connection in self._connections:
            self._connections[connection] = True
        if not self._device_lock.acquire(timeout=HANDOVER):
            self._answer(connection, Kind.FAILED, [protocol.text_array("the device is busy with another training")])
            return
        try:
            about = torch.tensor([self.device.size, int(outputs_of(self.device) is not None), self.limit])
            self._answer(connection, Kind.DONE, [about])
            written = presented = False
            while True:
                request, arrays = protocol.receive(
                    connection, limit=self.limit, seconds=self.patience, waiting=self.idle
                )
                answer = self._obey(request, arrays, written=written, presented=presented)
                written |= request == Kind.WRITE and answer[0] == Kind.DONE
                presented |= request == Kind.PRESENT and answer[0] == Kind.DONE
                self._answer(connection, *answer)
        finally:
            self._device_lock.release()

    def _obey(self, kind: Kind, arrays: list[Tensor], *, written: bool, presented: bool) -> tuple[Kind, list[Tensor]]:
        """Ask the device; what it raises becomes an answer."""
        try:
            if kind in (Kind.READ, Kind.PREDICT) and not written:
                raise UserError("no parameters were written on this connection")
            if kind == Kind.READ and not presented:
                raise UserError("nothing was presented on this connection")
            return Kind.DONE, self._ask(kind, arrays)
        except (OSError, DeviceError) as error:
            return Kind.FAILED, [protocol.text_array(str(error) or type(error).__name__)]
        except Exception as error:  # of whatever a device is made of
            if not isinstance(error, UserError):
                logger.warning("the device raised %s: %s", type(error).__name__, error)
            return Kind.REFUSED, [protocol.text_array(str(error).strip().partition("\n")[0] or type(error).__name__)]

    def _ask(self, kind: Kind, arrays: list[Tensor]) -> list[Tensor]:
        size, shapes = self.device.size, [tuple(array.shape) for array in arrays]
        if kind == Kind.WRITE:
            if shapes != [(size,)] or not arrays[0].is_floating_point() or not arrays[0].isfinite().all():
                raise UserError(f"parameters must be {size} finite floating-point numbers, got {shapes}")
            self.device.write(arrays[0])
            return []
        if kind == Kind.PRESENT:
            if len(arrays) != 2 or not arrays[0].ndim or not arrays[1].ndim or not 0 < len(arrays[0]) == len(arrays[1]):
                raise UserError(f"a batch must be as many targets as inputs, at least one, got {shapes}")
            self.device.present(*arrays)
            return []
        if kind == Kind.READ:
            if len(arrays) != 1 or arrays[0].ndim != 2 or not arrays[0].is_floating_point() or shapes[0][1] != size:
                raise UserError(f"perturbations must be floating-point numbers of shape (K, {size}), got {shapes}")
            if not shapes[0][0]:
                raise UserError("there must be at least one perturbation")
            return [_sendable(self.device.read(arrays[0]))]
        if kind == Kind.PREDICT:
            if len(arrays) != 1 or not arrays[0].ndim or not len(arrays[0]):
                raise UserError(f"outputs are asked for one array of at least one input, got {shapes}")
            predict = outputs_of(self.device)
            if predict is None:
                raise UserError("the device shows no outputs")
            return [_sendable(predict(arrays[0]))]
        raise UserError(f"a device is not asked {kind.name}")

    def _answer(self, connection: socket.socket, kind: Kind, arrays: list[Tensor]) -> None:
        protocol.send(connection, protocol.encode(kind, arrays), self.patience)


def _sendable(values: object) -> Tensor:
    found = torch.as_tensor(values).detach().cpu()
    return found if found.dtype in (torch.float32, torch.float64) else found.float()


def _listen(host: str, port: int, *, with_token: bool) -> socket.socket:
    if not 0 <= port < 2**16:
        raise UserError(f"cannot listen at port {port}: ports are 0 to 65535")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        if not with_token and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
            raise UserError(
                f"{host or 'every address'} is open to others, and there is no token: give one by --token-file or "
                f"{protocol.TOKEN_VARIABLE}, or listen at 127.0.0.1"
            )
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot listen at {host}:{port}: {error}") from error


def _wake(connection: socket.socket) -> None:
    """End a connection for both sides, which wakes the thread that waits on it.

    That thread closes it: if another did, the system could give its number to the next connection while the thread is
    about to wait on it, which then would wait on that one.
    """
    with contextlib.suppress(OSError):  # it is not connected any more
        connection.shutdown(socket.SHUT_RDWR)
