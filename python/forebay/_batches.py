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

if TYPE_CHECKING:
    from . import _forebay

#: A batch: column name to array; the first axis counts samples.
Batch = dict[str, Any]
#: What a transform is: whole batches in, whole batches out.
Transform = Callable[[Batch], Batch]

#: The column of sample identities: ``uint8[batch, 16]``.
ID = "__id__"
#: Kinds of columns whose rows are equally long.
_EVEN = ("dense", "padded")


class Ragged(NamedTuple):
    """A column of vectors of different lengths: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    values: Any
    offsets: Any


class Delivery(NamedTuple):
    """One batch, and what it is: its step, its samples, where the run stands after it."""

    about: _forebay.Batch
    batch: Batch


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

    take_up = None

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
        self.take_up = dlpack.from_dlpack

    def column(self, column: _forebay.Column) -> Any:
        return self.take_up(column.dlpack())


class Arrays:
    """The first stage: the engine's columns as arrays over its memory, without a copy."""

    def __init__(
        self,
        native: _forebay.Feed,
        columns: list[str] | None,
        kinds: dict[str, str],
        output: AsNumpy | AsTorch,
    ) -> None:
        self._native = native
        wanted = _checked_columns(columns, list(kinds))
        self._unwanted = [name for name in kinds if wanted is not None and name not in wanted]
        self._has_ids = wanted is not None and ID in wanted
        self._output = output
        self._take_up = output.take_up
        # What the engine does not hand over as arrays already.
        finished = _EVEN if self._take_up is not None else ()
        self._unfinished = [
            name
            for name, kind in kinds.items()
            if kind not in finished and name not in self._unwanted
        ]

    def next(self) -> Delivery | None:
        taken = self._native.next(self._take_up)
        if taken is None:
            return None
        about, arrays = taken
        for name in self._unwanted:
            del arrays[name]
        for name in self._unfinished:
            arrays[name] = self._column(arrays[name])
        if self._has_ids:
            # A copy, so that it can be written like every other column.
            ids = np.frombuffer(bytearray(about.ids()), np.uint8).reshape(-1, 16)
            arrays[ID] = self._output.array(ids)
        return Delivery(about, arrays)

    def _column(self, column: _forebay.Column) -> Any:
        """An array; a :class:`Ragged`; or a list of arrays (bytes) or of ``str`` (text)."""
        kind = column.kind
        if kind in _EVEN:
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
