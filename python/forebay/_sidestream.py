"""Streams of copies beside the work on a device, and memory that a device copies into by itself.

A side stream takes up what the device was given so far, copies, and leaves a mark. The device itself
can be told to hold back what comes until a mark is reached; the host does not wait for that.

What a device must offer is :class:`SideStream`, :class:`Mark` and :class:`PageLocks`; :data:`DEVICES` has
those that do. Tensors of other devices are brought over by torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

#: The lock holds in the contexts of all of a machine's GPUs: ``cudaHostRegisterPortable``.
_PORTABLE = 1


class Mark(Protocol):
    """A moment of a side stream: all that it was given before."""

    def wait(self) -> None:
        """Waits until it is reached, without the interpreter."""

    def hold_back(self) -> None:
        """Has what the caller gives the device from now on come after it."""


class SideStream(Protocol):
    """A stream beside the work on one device. One thread at a time uses it."""

    def follow(self) -> None:
        """Has what is given to it from now on come after all that the caller gave the device so far."""

    def run(self, work: Callable[[], None]) -> None:
        """Does what the operations of torch in ``work`` say, behind all that it was given before.

        Tensors that they read are kept, and not written, until a later mark.
        """

    def mark(self) -> Mark:
        """A mark behind all that it was given."""

    def drain(self) -> None:
        """Waits until all that it was given is done."""


class PageLocks(Protocol):
    """Locks memory for a device. Called by threads of the engine."""

    #: Why memory was not locked, if one was not.
    refusal: str | None

    def lock(self, address: int, bytes: int) -> bool:
        """Locks memory; says whether it did."""

    def unlock(self, address: int) -> bool:
        """Takes the lock away; says whether it did."""


class CudaMark:
    """See :class:`Mark`."""

    def __init__(self, event: Any, device: Any) -> None:
        self._event = event
        self._device = device

    def wait(self) -> None:
        self._event.synchronize()

    def hold_back(self) -> None:
        import torch

        torch.cuda.current_stream(self._device).wait_event(self._event)


class CudaStream:
    """See :class:`SideStream`."""

    def __init__(self, device: Any) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def follow(self) -> None:
        self._stream.wait_stream(self._torch.cuda.current_stream(self._device))

    def run(self, work: Callable[[], None]) -> None:
        with self._torch.cuda.stream(self._stream):
            work()

    def mark(self) -> CudaMark:
        # A thread that waits sleeps.
        event = self._torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        return CudaMark(self._stream.record_event(event), self._device)

    def drain(self) -> None:
        self._stream.synchronize()


class CudaPageLocks:
    """See :class:`PageLocks`."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self.refusal: str | None = None

    def lock(self, address: int, bytes: int) -> bool:
        code = self._call("cudaHostRegister", address, bytes, _PORTABLE)
        if code != 0:
            self.refusal = f"CUDA's error {code}; `ulimit -l` or the container may limit it"
        return code == 0

    def unlock(self, address: int) -> bool:
        return self._call("cudaHostUnregister", address) == 0

    def _call(self, function: str, *arguments: int) -> int:
        import torch

        # On a thread of the engine's: without this it would take up memory of the first GPU. What CUDA
        # remembers of an error, it remembers for that thread alone.
        with torch.cuda.device(self._device):
            runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            return int(getattr(runtime, function)(*arguments))


class Device(NamedTuple):
    """What makes the side stream and the locks of a device."""

    stream: Callable[[Any], SideStream]
    locks: Callable[[Any], PageLocks]


#: By torch's name of the type of device.
DEVICES = {"cuda": Device(CudaStream, CudaPageLocks)}
