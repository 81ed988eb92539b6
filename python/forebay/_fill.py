"""Tensors of a GPU, into the places that the engine has for them.

The engine gives the places in its arena, whose pages are locked, and waits. One side stream for each
device takes up the work that the device was given, the step that was just taken, and copies beside
what comes. Values that lie side by side go straight to their place; others are laid side by side on the
device first, a bucket at a time.

What of it may change when:

- *Parameters and optimizer state* change in the optimizer's step alone. Its hook has the device hold
  back the step's work until they are copied, so the host goes on at once. What changed them before, a
  script that writes its weights, torch's counts of changes show when that hook runs; what is given to the
  device after the hook comes after the copy.
- *All else* (buffers, tensors in dicts) may be changed by the next operation, on any stream, and nobody
  would see it. It is copied first, and waited for on the host before the save returns, which then waits
  for the step's work on the device too, as a copy by torch does. Most large models have nothing of it.
- *A CUDA graph* of a step changes weights, calls no hook and counts nothing. Once a step was captured
  into one, and where no optimizer's step was seen since the save before, all is waited for.

Tensors are kept until their copy is done, and so is the engine's memory: the engine does not touch it
before it is told that it is filled, and is told so, or that the save is off, when no copy is under way.

Bounds: a bucket of 64 MiB on each device while it is needed.

After a crash nothing is left of a save that was not filled: it had no name.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from . import _forebay
from ._sidestream import DEVICES, Mark, PageLocks, SideStream

#: What is laid side by side on a device at a time.
BUCKET_BYTES = 64 << 20


def is_filled(value: Any) -> bool:
    """Whether a tensor is brought into its place by a side stream of its device."""
    device = getattr(value, "device", None)
    return getattr(device, "type", None) in DEVICES and value.nbytes > 0


class Filling:
    """Copies that are under way to places of the engine."""

    def __init__(self, streams: list[SideStream], marks: list[Mark]) -> None:
        self._streams = streams
        self._marks = marks

    def hold_back(self) -> None:
        """Has the devices hold back what comes until all is copied."""
        for mark in self._marks:
            mark.hold_back()

    def wait(self) -> None:
        """Waits until all is copied."""
        for mark in self._marks:
            mark.wait()

    def drain(self) -> None:
        """Waits until nothing is being copied any more, whatever became of it."""
        for stream in self._streams:
            stream.drain()


class Fills:
    """The side streams of one checkpointer, one for each device, and who locks its memory."""

    def __init__(self) -> None:
        self._streams: dict[Any, SideStream] = {}
        self._locks: PageLocks | None = None
        self._is_told = False

    def prepare(self, native: _forebay.Checkpointer, values: Sequence[Any]) -> None:
        """Has the engine's memory locked from now on, if anything is copied into it by a device."""
        if self._locks is None:
            device = next((value.device for value in values if is_filled(value)), None)
            if device is not None:
                self._locks = DEVICES[device.type].locks(device)
                native.lock_pages(self._locks)

    def warn_of_refusal(self) -> None:
        """Warns once when memory could not be locked."""
        if self._locks is not None and self._locks.refusal is not None and not self._is_told:
            self._is_told = True
            why = self._locks.refusal
            warnings.warn(
                f"the memory that GPUs copy checkpoints into could not be locked ({why}): saves take "
                "longer, and training waits for them",
                stacklevel=5,
            )

    def begin(self, copying: _forebay.Copying, soon: Sequence[Any], later: Sequence[Any]) -> Filling:
        """Begins to fill the places of ``copying``, which are those of ``soon`` and then of ``later``.

        When this returns, the former are copied. Whoever is given the :class:`Filling` keeps the latter
        until they are, and tells the engine. If this raises, the save is off.
        """
        streams: list[SideStream] = []
        try:
            places = _memory([*soon, *later], copying.places())
            first = self._copy(soon, places[: len(soon)], streams)
            rest = self._copy(later, places[len(soon) :], streams)
            first.wait()
        except BaseException:
            # The places are the engine's again when no copy goes there any more.
            try:
                Filling(streams, []).drain()
            finally:
                copying.settle(False)
            raise
        return rest

    def fill(self, copying: _forebay.Copying, values: Sequence[Any]) -> None:
        """Fills all places, and has the save go on."""
        self.begin(copying, values, [])
        copying.filled()
        copying.wait()
        copying.settle(True)

    def _copy(self, values: Sequence[Any], places: list[Any], streams: list[SideStream]) -> Filling:
        """Begins to copy; notes the streams that do."""
        of_devices: dict[Any, list[tuple[Any, Any]]] = {}
        for value, place in zip(values, places):
            of_devices.setdefault(value.device, []).append((place, value.detach()))
        marks: list[Mark] = []
        for device, pairs in of_devices.items():
            stream = self._streams.get(device)
            if stream is None:
                stream = self._streams[device] = DEVICES[device.type].stream(device)
            streams.append(stream)
            stream.follow()
            stream.run(lambda pairs=pairs: _copy_all(pairs))  # type: ignore[misc]
            marks.append(stream.mark())
        return Filling(streams, marks)


def _memory(values: Sequence[Any], addresses: list[int]) -> list[Any]:
    """The places as tensors of bytes, without a copy. Of use for as long as the engine's memory is."""
    import torch

    sizes = [int(value.nbytes) for value in values]
    start = min(addresses)
    end = max(address + size for address, size in zip(addresses, sizes))
    memory = (ctypes.c_char * (end - start)).from_address(start)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    return [whole[at - start : at - start + size] for at, size in zip(addresses, sizes)]


def _copy_all(pairs: list[tuple[Any, Any]]) -> None:
    """Copies tensors to their places, in the current stream."""
    bucket: Any = None
    for place, value in pairs:
        if value.is_contiguous() and not value.is_conj() and not value.is_neg():
            place.copy_(_bytes(value), non_blocking=True)
            continue
        at = 0
        for piece in _pieces(value):
            if bucket is None:
                bucket = _bucket(value.device, pairs)
            size = int(piece.nbytes)
            packed = bucket[:size]
            packed.view(piece.dtype).view(piece.shape).copy_(piece)
            # The next piece is laid there behind this copy, in the same stream.
            place[at : at + size].copy_(packed, non_blocking=True)
            at += size


def _bytes(value: Any) -> Any:
    import torch

    return value.reshape(-1).view(torch.uint8)


def _bucket(device: Any, pairs: list[tuple[Any, Any]]) -> Any:
    import torch

    size = min(BUCKET_BYTES, max(int(value.nbytes) for _, value in pairs))
    return torch.empty(size, dtype=torch.uint8, device=device)


def _pieces(value: Any) -> Iterator[Any]:
    """Parts of a tensor, in the order in which their values lie, none larger than a bucket."""
    if value.nbytes <= BUCKET_BYTES:
        yield value
    elif value.dim() == 0 or value.nbytes // len(value) > BUCKET_BYTES:
        for one in value:
            yield from _pieces(one)
    else:
        rows = BUCKET_BYTES // (value.nbytes // len(value))
        for at in range(0, len(value), rows):
            yield value[at : at + rows]


def is_capturing() -> bool:
    """Whether a CUDA graph is being captured of what this thread does."""
    torch: Any = sys.modules["torch"]
    return bool(torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())
