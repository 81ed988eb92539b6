"""A device without a GPU: copies of the CPU's tensors, on a thread of their own and when they may."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest
from forebay import _sidestream

LIBC = ctypes.CDLL(None, use_errno=True)


class Control:
    """When the streams of a test copy, what they did, and what is locked."""

    def __init__(self) -> None:
        #: Nothing is copied before this is set.
        self.go = threading.Event()
        self.go.set()
        #: The host learns of nothing that was copied before this is set.
        self.told = threading.Event()
        self.told.set()
        #: What the next work raises instead.
        self.failure: Exception | None = None
        self.works = 0
        self.held_back = 0
        self.locked: dict[int, int] = {}
        self.locks = 0
        self.refuses = False
        #: What went wrong where nobody is told.
        self.wrong: list[str] = []


class ThreadMark:
    def __init__(self, control: Control) -> None:
        self._control = control
        self.reached = threading.Event()
        self.failure: Exception | None = None

    def wait(self) -> None:
        self.reached.wait()
        self._control.told.wait()
        if self.failure is not None:
            raise self.failure

    def hold_back(self) -> None:
        # What the CPU is given is done at once, so it is given nothing.
        self._control.held_back += 1
        self.reached.wait()


class ThreadStream:
    def __init__(self, control: Control) -> None:
        self._control = control
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._failure: Exception | None = None
        threading.Thread(target=self._do_all, daemon=True).start()

    def follow(self) -> None:
        """What the CPU was given is done."""

    def run(self, work: Callable[[], None]) -> None:
        self._waiting.put(work)

    def mark(self) -> ThreadMark:
        mark = ThreadMark(self._control)

        def reach() -> None:
            mark.failure, self._failure = self._failure, None
            mark.reached.set()

        self._waiting.put(reach)
        return mark

    def drain(self) -> None:
        self.mark().reached.wait()

    def _do_all(self) -> None:
        while True:
            work = self._waiting.get()
            if work.__name__ != "reach":
                self._control.go.wait()
                self._control.works += 1
                self._failure, self._control.failure = self._control.failure, None
            if self._failure is None or work.__name__ == "reach":
                work()


class ThreadLocks:
    """Locks for real, by the system's own call: for memory that is not mapped it fails."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.refusal: str | None = None

    def lock(self, address: int, bytes: int) -> bool:
        if self._control.refuses or LIBC.mlock(ctypes.c_void_p(address), ctypes.c_size_t(bytes)):
            self.refusal = "not here"
            return False
        self._control.locks += 1
        self._control.locked[address] = bytes
        return True

    def unlock(self, address: int) -> bool:
        bytes = self._control.locked.pop(address)
        if LIBC.munlock(ctypes.c_void_p(address), ctypes.c_size_t(bytes)):
            self._control.wrong.append(f"{bytes} bytes at {address} were gone")
        return True


def install(monkeypatch: pytest.MonkeyPatch | None = None) -> Control:
    """Has the CPU be such a device; until the test ends, if there is one."""
    control = Control()
    device: Any = _sidestream.Device(
        lambda _: ThreadStream(control), lambda _: ThreadLocks(control)
    )
    if monkeypatch is None:
        _sidestream.DEVICES["cpu"] = device
    else:
        monkeypatch.setitem(_sidestream.DEVICES, "cpu", device)
    return control
