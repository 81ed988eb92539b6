"""Reading a stored state, and giving it back to the objects it came from.

A tree's tensors are read together, by the engine's threads, each verified: into memory that objects
have already where :mod:`forebay._fit` says so, else into fresh memory. Only the latter is beside the
state, of one object at a time. What belongs on a GPU comes there through one bucket of 256 MiB of
page-locked memory, or as much as the largest stored tensor takes, after the other. An error leaves memory that was read into as it happens to be; for
torch it counts as changed either way. Stored objects are never touched.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from . import _forebay
from ._fill import is_filled
from ._fit import Fit, Place, StoredTensor, local_part
from ._tensors import FORMS, Box, box_of, empty, is_distributed, stored_box
from ._tree import Json, Path, decode, has_state, is_tensor, torch_dtype

#: What is read at a time of what belongs on a device.
BUCKET_BYTES = 256 << 20
_ALIGNMENT_BYTES = 16

#: Says where the tensor of a path belongs; none where it is left out.
Places = Callable[[Path], "Place | None"]


class Reader:
    """Reads trees of one checkpoint, and their tensors together."""

    def __init__(self, checkpoint: _forebay.Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._stored = {name: (dtype, shape) for name, dtype, shape in checkpoint.tensors()}

    def describe(self, tree: Json, path: Path = ()) -> Any:
        """The value of a tree, with a :class:`StoredTensor` in each tensor's place: nothing is read."""
        return decode(tree, lambda tag, _: self._described(tag), path)

    def read(self, tree: Json, path: Path = (), places: Places | None = None) -> Any:
        """The value of a tree.

        Tensors are fresh and whole, unless ``places`` names one to read into, which then stands in the
        value, or a ``DTensor``, as whose parts they are read. ``None`` stands where it says so.
        """
        reading = _Reading()

        def make(tag: Json, path: Path) -> Any:
            place = Place() if places is None else places(path)
            return None if place is None else reading.add(tag, self._described(tag), place, path)

        value = decode(tree, make, path)
        reading.finish(self._checkpoint)
        return value

    def _described(self, tag: Json) -> StoredTensor:
        name: str = tag.get("$tensor") or tag["$array"]
        dtype, shape = self._stored[name]
        kind = tag.get("dtype") or next(kind for kind, form in FORMS.items() if form.dtype == dtype)
        whole = shape[:-1] if FORMS[kind].parts > 1 else shape
        return StoredTensor(name, kind, tuple(whole), "$array" in tag)


class _Staged(NamedTuple):
    """A box of a stored tensor that belongs on a device."""

    name: str
    region: tuple[list[int], list[int]]
    target: Any


def is_staged(local: Any) -> bool:
    """Whether what is read for a tensor comes to it through a bucket."""
    return getattr(getattr(local, "device", None), "type", "cpu") != "cpu" or is_filled(local)


def _read_staged(checkpoint: _forebay.Checkpoint, staged: list[_Staged]) -> None:
    """Reads boxes into a bucket, as many as it holds at a time, and copies them from there."""
    # What is tied is one memory, and read once.
    found = {(one.name, one.target.data_ptr()): one for one in staged if one.target.nbytes}
    # In the order in which they are stored; taken from the end.
    left = list(found.values())[::-1]
    if not left:
        return
    import torch

    room = max(BUCKET_BYTES, max(_room(one) for one in left))
    room = min(room, sum(map(_room, left)))
    bucket = torch.empty(room, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    while left:
        wanted, pairs, at = [], [], 0
        while left and at + _room(left[-1]) <= room:
            one = left.pop()
            memory = bucket[at : at + one.target.nbytes]
            wanted.append((one.name, *one.region, int(memory.data_ptr()), int(memory.nbytes)))
            pairs.append((one.target, memory.view(one.target.dtype).view(one.target.shape)))
            at += _room(one)
        checkpoint.read(wanted)
        with torch.no_grad():
            for target, source in pairs:
                target.copy_(source, non_blocking=target.is_cuda)
        # The bucket is filled anew only when it was copied from.
        for device in {target.device for target, _ in pairs if target.is_cuda}:
            torch.cuda.current_stream(device).synchronize()


def _room(one: _Staged) -> int:
    """What it takes of a bucket, in which all lie so that any type may be read there."""
    return -(-int(one.target.nbytes) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


class _Reading:
    """Tensors that are read together."""

    def __init__(self) -> None:
        self._wanted: dict[str, tuple[str, list[int], list[int], int, int]] = {}
        self._fresh: dict[str, Any] = {}
        #: Tensors that were there, and are changed behind torch's back.
        self._live: list[Any] = []
        #: What is copied when everything was read: into the first, from the second.
        self._later: list[tuple[Any, Any]] = []
        #: What belongs on a device.
        self._staged: list[_Staged] = []

    def add(self, tag: Json, stored: StoredTensor, place: Place, path: Path) -> Any:
        """Notes a tensor; returns what holds its values once everything was read."""
        if place.live is not None:
            local, box = local_part(place.live, path)
            self._live += [local, place.live]
            self._fill(tag, stored, local.detach(), int(local.data_ptr()), box)
            return place.live
        like = place.like
        key = json.dumps([stored.name, None if like is None else str(like.placements)])
        if key not in self._fresh:
            self._fresh[key] = self._add_fresh(tag, stored, like, path)
        return self._fresh[key]

    def _add_fresh(self, tag: Json, stored: StoredTensor, like: Any, path: Path) -> Any:
        box = Box(stored.shape, None, stored.shape) if like is None else box_of(like, path)
        if like is None:
            local, address = empty(stored.dtype, box.shape, stored.is_array)
            self._fill(tag, stored, local, address, box)
            return local
        import torch
        from torch.distributed.tensor import DTensor

        local = torch.empty(box.shape, dtype=torch_dtype(stored.dtype), device=like.device)
        self._fill(tag, stored, local, int(local.data_ptr()), box)
        return DTensor.from_local(
            local,
            like.device_mesh,
            like.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )

    def _fill(self, tag: Json, stored: StoredTensor, local: Any, address: int, box: Box) -> None:
        start = box.start or (0,) * len(box.whole)
        for name, part_start, part_shape in _parts(tag, stored.name, start, box.shape):
            region = stored_box(FORMS[stored.dtype].parts, part_start, part_shape)
            if is_staged(local):
                target = _cut(local, start, part_start, part_shape)
                self._staged.append(_Staged(name, region, target))
                continue
            into = local
            if part_shape != box.shape:
                into, address = empty(stored.dtype, part_shape, stored.is_array)
                self._later.append((_cut(local, start, part_start, part_shape), into))
            if into.nbytes:
                # What is tied is one memory, and read once.
                self._wanted[f"{name} {address}"] = (name, *region, address, int(into.nbytes))

    def finish(self, checkpoint: _forebay.Checkpoint) -> None:
        """Reads what was noted."""
        try:
            checkpoint.read(list(self._wanted.values()))
            _read_staged(checkpoint, self._staged)
            if self._later:
                import torch

                with torch.no_grad():
                    for target, source in self._later:
                        target.copy_(source)
        finally:
            for one in self._live:
                sys.modules["torch"].autograd.graph.increment_version(one)


def _parts(
    tag: Json, name: str, start: tuple[int, ...], shape: tuple[int, ...]
) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """The stored tensors that a box is read from, and the part of it that each has."""
    if "boxes" not in tag:
        return [(name, start, shape)]
    found = []
    for stored, other, sides in tag["boxes"]:
        low = tuple(map(max, zip(start, other)))
        high = tuple(min(a + b, c + d) for a, b, c, d in zip(start, shape, other, sides))
        if all(a < b for a, b in zip(low, high)):
            found.append((stored, low, tuple(b - a for a, b in zip(low, high))))
    return found


def _cut(
    whole: Any, start: tuple[int, ...], part_start: tuple[int, ...], part_shape: tuple[int, ...]
) -> Any:
    """The part of a box, as a view."""
    lows = [low - origin for low, origin in zip(part_start, start)]
    return whole[tuple(slice(low, low + side) for low, side in zip(lows, part_shape))]


def give_back(target: Any, value: Any, path: Path, fit: Fit) -> Any:
    """Puts ``value`` where it came from, in place; returns what is to stand there now."""
    if has_state(target):
        keys = fit.shared_keys(path)
        if keys is None:
            target.load_state_dict(value)
        else:
            shared = {key: one for key, one in value.items() if key in keys}
            target.load_state_dict(shared, strict=False)
        return target
    if isinstance(target, dict) and isinstance(value, Mapping):
        for key in [key for key in target if key not in value]:
            del target[key]
        for key, one in value.items():
            target[key] = give_back(target[key], one, (*path, key), fit) if key in target else one
        return target
    if isinstance(target, list) and isinstance(value, list):
        target[:] = [
            give_back(target[index], one, (*path, index), fit) if index < len(target) else one
            for index, one in enumerate(value)
        ]
        return target
    if is_tensor(target) and is_tensor(value):
        import torch

        if target is not value:
            with torch.no_grad():
                target.copy_(value)
        return target
    return value
