"""Reading for ``torch.distributed.checkpoint``: each rank fetches the boxes that its plan asks for.

A checkpoint says of each tensor its type and whole shape. Its parts, whoever wrote them, are read as
one, so the planner is shown one chunk that is the whole tensor, and asks for the box that it needs;
only a tensor that some rank stored in several parts is shown as these. What is asked for is read at
once by the engine's threads, verified, straight into the state's tensors where these lie side by
side in this machine's memory and have the stored type; else into memory beside them first, at most
``BESIDE_BYTES`` at a time.

An error leaves a state's tensors partly filled, as the planner's own readers do: load again before
they are used.
"""

from __future__ import annotations

import dataclasses
import io
import os
from bisect import bisect_left
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader as TorchStorageReader
from torch.futures import Future

from . import _forebay
from ._dcp_id import is_step, parse_step
from ._errors import InvalidError, NotFoundError
from ._feed import LOCAL_BUDGET, open_engine
from ._restore import Reader
from ._stored import Item, StoredBox, read_items
from ._tensors import FORMS, stored_box
from ._tree import torch_dtype

#: What is read into memory beside the state's before it is copied there.
BESIDE_BYTES = 256 << 20


class StorageReader(TorchStorageReader):
    """Reads checkpoints of a run for ``dcp.load``, whoever wrote them and on however many ranks.

    ``checkpoint_id`` is the number of steps taken; without one, ``dcp.load`` reads the newest
    committed step.

    Parameters
    ----------
    lake, local, local_budget
        As for :func:`forebay.feed`.
    run
        The run's name.
    """

    def __init__(
        self,
        lake: str | os.PathLike[str],
        run: str,
        *,
        local: str | os.PathLike[str] | None = None,
        local_budget: int | str = LOCAL_BUDGET,
    ) -> None:
        self.run = run
        self._engine = open_engine(lake, local, local_budget)
        self._step: int | None = None
        self._opened: _Opened | None = None

    def newest(self) -> int | None:
        """The newest committed step, if there is one."""
        checkpoint = self._engine.checkpoint(self.run)
        return None if checkpoint is None else checkpoint.step()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str] | int) -> bool:
        """Whether this is a number of steps."""
        return is_step(checkpoint_id)

    def reset(self, checkpoint_id: str | os.PathLike[str] | int | None = None) -> None:
        """A load begins, of the step that the id says, or of the newest."""
        self._step = None if checkpoint_id is None else parse_step(checkpoint_id)

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """What the checkpoint holds, as the planner takes it; the step is chosen here.

        Raises :class:`forebay.NotFoundError` when there is no such step.
        """
        # The planner's callers do not reset when they want the newest: an id counts once.
        step, self._step = self._step, None
        checkpoint = self._engine.checkpoint(self.run, step)
        if checkpoint is None:
            raise NotFoundError(f"run {self.run} has no committed checkpoint")
        self._opened = _Opened(checkpoint, self.run)
        return self._opened.metadata()

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *_: Any, **__: Any
    ) -> None:
        """Nothing is left to do."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Says which step this rank opened."""
        return dataclasses.replace(plan, storage_data=self._now_opened().step)

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Refuses ranks that opened different steps."""
        steps = {plan.storage_data for plan in plans}
        if len(steps) > 1:
            raise InvalidError(
                f"run {self.run}: ranks found different newest steps, {sorted(steps)}, because one was "
                "committed meanwhile: load again, or give checkpoint_id"
            )
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fills the state with what the plan asks for; done when it returns."""
        opened = self._now_opened()
        opened.read_values([one for one in plan.items if one.type == LoadItemType.BYTE_IO], planner)
        opened.read_tensors([one for one in plan.items if one.type == LoadItemType.TENSOR], planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _now_opened(self) -> _Opened:
        if self._opened is None:
            raise InvalidError(f"run {self.run}: read_metadata() opens a checkpoint, and comes first")
        return self._opened

    def __repr__(self) -> str:
        return f"<forebay.dcp.StorageReader of run {self.run}>"


class _Kind(NamedTuple):
    """What a stored tensor's elements are."""

    dtype: torch.dtype
    #: The stored elements of one element.
    parts: int
    whole: tuple[int, ...]


class _Opened:
    """A checkpoint, and what it holds."""

    def __init__(self, checkpoint: _forebay.Checkpoint, run: str) -> None:
        self.step = checkpoint.step()
        self._checkpoint = checkpoint
        self._items = read_items(checkpoint, run)
        self._stored = {name: (dtype, shape) for name, dtype, shape in checkpoint.tensors()}

    def metadata(self) -> Metadata:
        """See :meth:`StorageReader.read_metadata`."""
        held = {
            name: BytesStorageMetadata() if item.stored is None else self._describe(item)
            for name, item in self._items.items()
        }
        paths = {name: item.path for name, item in self._items.items()}
        return Metadata(held, planner_data=paths)

    def _describe(self, item: Item) -> TensorStorageMetadata:
        kind = self._kind(item)
        chunks = [
            ChunkStorageMetadata(torch.Size(box.start), torch.Size(box.shape))
            for box in _chunks(item, kind)
        ]
        properties = TensorProperties(dtype=kind.dtype)
        return TensorStorageMetadata(properties, torch.Size(kind.whole), chunks)

    def _kind(self, item: Item) -> _Kind:
        assert item.stored is not None, "only tensors have a kind"
        dtype, shape = self._stored[item.stored]
        name = item.value.get("dtype")
        if name is None:
            name = next(name for name, form in FORMS.items() if form.dtype == dtype)
        parts = FORMS[name].parts
        return _Kind(torch_dtype(name), parts, tuple(shape[:-1] if parts > 1 else shape))

    def read_values(self, wanted: list[ReadItem], planner: LoadPlanner) -> None:
        """Gives the planner what is no tensor."""
        trees = [self._items[one.storage_index.fqn].value for one in wanted]
        values = Reader(self._checkpoint).read(trees)
        for one, value in zip(wanted, values):
            # A planner takes what torch.save writes. It is made here, of what was read and verified.
            buffer = io.BytesIO()
            torch.save(value, buffer)
            buffer.seek(0)
            planner.load_bytes(one, buffer)

    def read_tensors(self, wanted: list[ReadItem], planner: LoadPlanner) -> None:
        """Fills the planner's tensors."""
        filling = _Filling(self._checkpoint, planner)
        for one in wanted:
            item = self._items[one.storage_index.fqn]
            kind = self._kind(item)
            chunk = _chunk_at(item, kind, one.storage_index.offset)
            start = tuple(map(sum, zip(chunk.start, one.storage_offsets)))
            filling.add(one, chunk.stored, kind, start)
        filling.finish()


class _Filling:
    """Boxes that are read together."""

    def __init__(self, checkpoint: _forebay.Checkpoint, planner: LoadPlanner) -> None:
        self._checkpoint = checkpoint
        self._planner = planner
        self._regions: list[tuple[str, list[int], list[int], int, int]] = []
        #: What the planner is told of when it is there, and what is copied to it before.
        self._awaited: list[tuple[ReadItem, torch.Tensor, torch.Tensor | None]] = []
        self._beside_bytes = 0
        self._taken = _Ranges()

    def add(self, one: ReadItem, stored: str, kind: _Kind, start: tuple[int, ...]) -> None:
        """Notes a box; reads what is noted when there is much."""
        target = self._planner.resolve_tensor(one).detach()
        into = target
        if not self._is_direct(target, kind.dtype):
            into = torch.empty(tuple(one.lengths), dtype=kind.dtype)
            self._beside_bytes += into.nbytes
        if into.nbytes:
            box = stored_box(kind.parts, start, tuple(one.lengths))
            self._regions.append((stored, *box, into.data_ptr(), into.nbytes))
        self._awaited.append((one, target, None if into is target else into))
        if self._beside_bytes >= BESIDE_BYTES:
            self.finish()

    def _is_direct(self, target: torch.Tensor, dtype: torch.dtype) -> bool:
        """Whether a box can be read where it belongs: nobody else's lies there (tied weights)."""
        plain = target.device.type == "cpu" and target.dtype == dtype and target.is_contiguous()
        if not plain or target.is_conj() or target.is_neg():
            return False
        return self._taken.take(target.data_ptr(), target.nbytes)

    def finish(self) -> None:
        """Reads what is noted."""
        self._checkpoint.read(self._regions)
        with torch.no_grad():
            for one, target, beside in self._awaited:
                if beside is not None:
                    target.copy_(beside)
                self._planner.commit_tensor(one, target)
        self._regions, self._awaited, self._beside_bytes = [], [], 0
        self._taken = _Ranges()


class _Ranges:
    """Ranges of memory, none of which overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def take(self, start: int, length: int) -> bool:
        """Adds a range; says no if some of it is taken."""
        end = start + length
        at = bisect_left(self._starts, start)
        if at > 0 and self._ends[at - 1] > start or at < len(self._starts) and self._starts[at] < end:
            return False
        if length:
            self._starts.insert(at, start)
            self._ends.insert(at, end)
        return True


def _chunks(item: Item, kind: _Kind) -> list[StoredBox]:
    """What the planner may ask for boxes of."""
    if item.is_split:
        return item.boxes
    assert item.stored is not None, "only tensors have chunks"
    return [StoredBox(item.stored, (0,) * len(kind.whole), kind.whole)]


def _chunk_at(item: Item, kind: _Kind, start: torch.Size | None) -> StoredBox:
    chunks = _chunks(item, kind)
    if start is None:
        return chunks[0]
    return next(chunk for chunk in chunks if chunk.start == tuple(start))
