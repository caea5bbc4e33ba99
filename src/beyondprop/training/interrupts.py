"""Ctrl-C and SIGTERM: training stops between two steps, with its checkpoint saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupted(KeyboardInterrupt):
    """The user stopped the training and the checkpoint is saved.

    Args:
        so_far: How far it came. The message adds that it can be resumed; who knows more of how has `args`.
    """

    def __str__(self) -> str:
        return f"{super().__str__()}: resume to go on"


class StopSignals:
    """Notes SIGINT and SIGTERM instead of obeying them at once; a second one is obeyed at once.

    Outside the main thread, and for a signal that the process ignores (nohup), it changes nothing.

    Args:
        active: False leaves the signals as they are, where there is no checkpoint to save.

    Attributes:
        received: Whether the training should stop.
    """

    def __init__(self, *, active: bool = True) -> None:
        self.received = False
        self._active = active
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self._active and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                former = signal.getsignal(number)
                if former not in (signal.SIG_IGN, None):  # None: not installed from Python, so it could not be restored
                    self._former[number] = former
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._restore()

    def _restore(self) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former.clear()
