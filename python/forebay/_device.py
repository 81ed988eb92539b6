"""Batches to a GPU: through page-locked memory, on a stream of their own, one ahead.

The copy of the next batch is started before this one is handed out, so it runs beside the work on
this one. Page-locked staging memory comes from torch's own allocator, which does not reuse a block
before the copy out of it is done. The consumer's stream waits for the copy on the device, the host
does not.
"""

from __future__ import annotations

from typing import Any

from ._ahead import OneAhead
from ._batches import Batch, Delivery, Source
from ._errors import InvalidError, RefusedError


def to_device(source: Source, device: str) -> Source:
    """``source`` with its batches on ``device``: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises :class:`RefusedError` (a ``RuntimeError``) where there is no such device.
    """
    try:
        import torch
    except ImportError as error:
        raise InvalidError(f"device is {device!r}, which needs torch: {error}") from error
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise InvalidError(f"device is {device!r}: {error}") from error
    if wanted.type == "cpu":
        return source
    if wanted.type != "cuda":
        raise InvalidError(f"device is {device!r}; batches go to 'cpu' or 'cuda'")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = torch.cuda.current_device() if wanted.index is None and count else wanted.index or 0
    if index >= count:
        raise RefusedError(
            f"device is {device!r}, and torch sees {count or 'no'} GPU{'s' * (count > 1)} on this "
            "machine; leave `device` out to get batches in the CPU's memory"
        )
    return OnGpu(source, torch.device("cuda", index))


class OnGpu:
    """A stage that copies each batch to a GPU, one ahead."""

    def __init__(self, source: Source, device: Any) -> None:
        import torch

        self._torch = torch
        self._source = source
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._ahead = OneAhead(self._start)

    def next(self) -> Delivery | None:
        current = self._ahead.next()
        if current is None:
            return None
        delivery, copied = current
        stream = self._torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for value in delivery.batch.values():
            # Its memory must not be reused before this stream is done with it.
            self._record(value, stream)
        return delivery

    def _record(self, value: Any, stream: Any) -> None:
        if isinstance(value, (tuple, list)):
            for one in value:
                self._record(one, stream)
        elif isinstance(value, self._torch.Tensor) and value.is_cuda:
            value.record_stream(stream)

    def close(self) -> None:
        self._ahead.forget()
        self._source.close()

    def _start(self) -> tuple[Delivery, Any] | None:
        """Starts the copy of the source's next batch."""
        delivery = self._source.next()
        if delivery is None:
            return None
        with self._torch.cuda.stream(self._stream):
            batch: Batch = {name: self._copy(value) for name, value in delivery.batch.items()}
            copied = self._stream.record_event()
        return delivery._replace(batch=batch), copied

    def _copy(self, value: Any) -> Any:
        """A tensor on the device, and those in lists and tuples; anything else as it is."""
        if isinstance(value, tuple):
            return type(value)(*map(self._copy, value))
        if isinstance(value, list):
            return [self._copy(one) for one in value]
        if not isinstance(value, self._torch.Tensor):
            return value
        pinned = value if value.is_pinned() or value.is_cuda else value.pin_memory()
        return pinned.to(self._device, non_blocking=True)
