"""The training's side of a device in another process, or of a chip with a network socket."""

from __future__ import annotations

import socket
from collections.abc import Callable

import torch
from torch import Tensor

from beyondprop.devices import protocol
from beyondprop.devices.protocol import FrameError, Kind
from beyondprop.errors import DeviceError, UserError


class RemoteDevice:
    """A device behind a socket, as `DeviceServer` and `beyondprop device` offer it.

    When the connection breaks, the call raises `DeviceError`, and the next one makes a new connection. On that,
    parameters must be written and a batch presented before anything is read: `Patience`, through which rules ask, does
    so.

    Args:
        address: `HOST:PORT`.
        token: Where the device asks for one.
        timeout: Seconds that a connection or an answer may take. A read of many costs is one answer.

    Raises:
        UserError: The address is none; the device refuses the token or the request; a message is longer than it takes.
        DeviceError: There is nobody at the address, or no answer in time, or one that is none.
    """

    def __init__(self, address: str, *, token: str | None = None, timeout: float = 30.0) -> None:
        self._connection: socket.socket | None = None
        host, _, port = address.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise UserError(f"the address of a device is HOST:PORT, such as 127.0.0.1:4711, not {address!r}")
        if not timeout > 0:
            raise UserError(f"the timeout of a device must be positive, got {timeout}")
        self.address, self.timeout = address, timeout
        self._where = (host.strip("[]"), int(port))
        self._token = token or ""
        self.size = 0
        self._connect()

    def write(self, parameters: Tensor) -> None:
        """Write parameters, shape (P,)."""
        self._ask(Kind.WRITE, [parameters])

    def present(self, x: Tensor, y: Tensor) -> None:
        """Present a batch."""
        self._ask(Kind.PRESENT, [_plain(x), _plain(y)])

    def read(self, perturbations: Tensor) -> Tensor:
        """Read costs, shape (K,), in as few messages as the device's limit allows."""
        row = perturbations.element_size() * self.size
        at_once = max(1, (self._limit - 64) // row)
        return torch.cat([self._ask_for(Kind.READ, rows, rows.shape[:1]) for rows in perturbations.split(at_once)])

    @property
    def predict(self) -> Callable[[Tensor], Tensor] | None:
        """Read the outputs for x; None where the device shows none."""
        return self._predict if self._shows_outputs else None

    def _predict(self, x: Tensor) -> Tensor:
        return self._ask_for(Kind.PREDICT, _plain(x), x.shape[:1])

    def close(self) -> None:
        """End the connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __del__(self) -> None:
        self.close()  # whoever forgets a device leaves it to others

    def _connect(self) -> socket.socket:
        try:
            self._connection = socket.create_connection(self._where, self.timeout)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, UnicodeError) as error:
            raise DeviceError(
                f"no device answers at {self.address} ({error}): is `beyondprop device` running?"
            ) from error
        answer = self._exchange(self._connection, Kind.HELLO, [protocol.text_array(self._token)])
        whole = [array for array in answer if array.dtype == torch.int64]
        about = [int(number) for array in whole for number in array.flatten()[:3]]
        if len(about) != 3 or not 1 <= about[0] <= protocol.LIMIT or about[2] < 1:
            raise self._lost(f"the greeting of {self.address} cannot be understood")
        size, shows_outputs, limit = about
        if self.size not in (0, size):
            self.close()
            raise UserError(f"the device at {self.address} has {size} parameters, not {self.size} as before")
        self.size, self._shows_outputs, self._limit = size, bool(shows_outputs), min(limit, protocol.LIMIT)
        return self._connection

    def _ask_for(self, kind: Kind, array: Tensor, shape: torch.Size) -> Tensor:
        found = self._ask(kind, [array])
        if len(found) != 1 or found[0].shape[:1] != shape or not found[0].is_floating_point():
            raise self._lost(f"the answer of {self.address} does not fit what was asked")
        return found[0]

    def _ask(self, kind: Kind, arrays: list[Tensor]) -> list[Tensor]:
        return self._exchange(self._connection or self._connect(), kind, arrays)

    def _exchange(self, connection: socket.socket, kind: Kind, arrays: list[Tensor]) -> list[Tensor]:
        try:
            frame = protocol.encode(kind, arrays)
        except FrameError as error:
            raise UserError(f"{error}: use float32, float64, int64 or uint8") from error
        if kind != Kind.HELLO and len(frame) - 4 > self._limit:
            remedy = ": present smaller batches" if kind in (Kind.PRESENT, Kind.PREDICT) else ""
            raise UserError(f"{self.address} takes messages of {self._limit} bytes, not of {len(frame)}{remedy}")
        try:
            protocol.send(connection, frame, self.timeout)
            answer, found = protocol.receive(connection, limit=protocol.LIMIT, seconds=self.timeout)
        except TimeoutError as error:
            raise self._lost(f"the device at {self.address} has not answered in {self.timeout:g} s") from error
        except (OSError, FrameError) as error:
            raise self._lost(f"the device at {self.address} is lost: {error}") from error
        except BaseException:  # an answer that nobody waited for must not be taken for the next one's
            self.close()
            raise
        if answer == Kind.DONE:
            return found
        reason = f"the device at {self.address}: {protocol.array_text(found[0]) if found else 'no reason given'}"
        if answer == Kind.REFUSED:
            self.close()
            raise UserError(reason)
        raise self._lost(reason)

    def _lost(self, reason: str) -> DeviceError:
        self.close()
        return DeviceError(reason)


def _plain(array: Tensor) -> Tensor:
    """As a frame can hold it: whole numbers as int64, bytes as they are."""
    if array.dtype in (torch.bool, torch.int8, torch.int16, torch.int32):
        return array.long()
    return array.float() if array.dtype in (torch.float16, torch.bfloat16) else array
