"""Batches on their way to the consumer: what each stage hands to the next.

::

    engine (threads) ──► arrays ──► transforms (threads) ──► device (one ahead) ──► Feed

A stage is pulled by the next one and keeps the order. The position of a feed is that of the batch
which its consumer received last, however far the stages are ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ._errors import InvalidError
from ._state import Cursor

if TYPE_CHECKING:
    from . import _forebay

#: A batch: column name to array; the first axis counts samples.
Batch = dict[str, Any]
#: What a transform is: whole batches in, whole batches out.
Transform = Callable[[Batch], Batch]

#: The column of sample identities: ``uint8[batch, 16]``.
ID = "__id__"


class Ragged(NamedTuple):
    """A column of vectors of different lengths: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    values: Any
    offsets: Any


class Delivery(NamedTuple):
    """One batch with what it is: its step, its epoch, and its samples' identities (16 bytes each)."""

    step: int
    epoch: int
    ids: bytes
    batch: Batch
    #: Where the run stands after it.
    after: Cursor

    def sample_ids(self) -> list[str]:
        return sample_ids(self.ids)


class Source(Protocol):
    """A stage."""

    def next(self) -> Delivery | None:
        """The next batch; ``None`` after the last."""

    def close(self) -> None:
        """Ends the stage and those before it; never waits for a tier."""


def sample_ids(ids: Any) -> list[str]:
    """Sample identities as text: 32 hexadecimal digits each.

    ``ids`` is bytes, or the column ``"__id__"`` of a batch (numpy array or tensor on the CPU,
    ``uint8[batch, 16]``).
    """
    data = ids if isinstance(ids, bytes) else np.asarray(ids, dtype=np.uint8).tobytes()
    text = data.hex()
    return [text[start : start + 32] for start in range(0, len(text), 32)]


class AsNumpy:
    """Columns as arrays of numpy."""

    def column(self, column: _forebay.Column) -> Any:
        array = np.asarray(column)
        return array if array.flags.aligned else array.copy()

    def array(self, array: Any) -> Any:
        return array


class AsTorch:
    """Columns as tensors of PyTorch, which takes a DLPack capsule up sooner than an array."""

    def __init__(self) -> None:
        import torch
        from torch.utils import dlpack

        self.array = torch.from_numpy
        self._take_up = dlpack.from_dlpack

    def column(self, column: _forebay.Column) -> Any:
        return self._take_up(column.dlpack())


class Arrays:
    """The first stage: the engine's columns as arrays over its memory, without a copy."""

    def __init__(
        self,
        native: _forebay.Feed,
        columns: list[str] | None,
        known: list[str],
        output: AsNumpy | AsTorch,
    ) -> None:
        self._native = native
        self._wanted = _checked_columns(columns, known)
        self._output = output

    def next(self) -> Delivery | None:
        native = self._native.next()
        if native is None:
            return None
        arrays: Batch = {}
        for column in native.columns():
            name = column.name
            if self._wanted is None or name in self._wanted:
                arrays[name] = self._column(column)
        if self._wanted is not None and ID in self._wanted:
            # A copy, so that it can be written like every other column.
            ids = np.frombuffer(bytearray(native.ids), np.uint8).reshape(-1, 16)
            arrays[ID] = self._output.array(ids)
        return Delivery(native.step, native.epoch, native.ids, arrays, Cursor(*native.after))

    def _column(self, column: _forebay.Column) -> Any:
        """An array; a :class:`Ragged`; or a list of arrays (bytes) or of ``str`` (text)."""
        kind = column.kind
        if kind in ("dense", "padded"):
            return self._output.column(column)
        offsets = column.offsets or [0]
        if kind == "ragged":
            starts = self._output.array(np.asarray(offsets, np.int64))
            return Ragged(self._output.column(column), starts)
        rows = list(zip(offsets, offsets[1:]))
        if kind == "text":
            whole = np.asarray(column).tobytes()
            return [whole[start:end].decode() for start, end in rows]
        values = self._output.column(column)
        return [values[start:end] for start, end in rows]

    def close(self) -> None:
        self._native.close()


def _checked_columns(columns: list[str] | None, known: list[str]) -> frozenset[str] | None:
    if columns is None:
        return None
    unknown = [name for name in columns if name not in known and name != ID]
    if unknown or not columns:
        what = f"have no {unknown[0]!r}" if unknown else "cannot be none"
        raise InvalidError(
            f"the columns of a batch {what}; choose among {', '.join([*known, ID])}"
        )
    return frozenset(columns)
