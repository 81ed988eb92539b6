"""Giving a stored state back to the objects it came from."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from . import _forebay
from ._errors import InvalidError
from ._tensors import FORMS, Box, box_of, empty, is_distributed, stored_box
from ._tree import Json, Path, decode, has_state, is_tensor, show

#: Gives the tensor that a stored one is to be laid out like, if it is spread over ranks.
Template = Callable[[Path], Any]


class Reader:
    """Reads trees of one checkpoint, and their tensors together."""

    def __init__(self, checkpoint: _forebay.Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._stored = {name: (dtype, shape) for name, dtype, shape in checkpoint.tensors()}

    def read(self, tree: Json, template: Template | None = None, path: Path = ()) -> Any:
        """The value of a tree. Where ``template`` gives a ``DTensor``, this rank's part of one is read."""
        wanted: dict[str, tuple[str, list[int], list[int], int, int]] = {}
        made: dict[str, Any] = {}
        later: list[tuple[Any, Any]] = []

        def make(tag: Json, path: Path) -> Any:
            name: str = tag.get("$tensor") or tag["$array"]
            like = template(path) if template is not None else None
            key = json.dumps([name, None if like is None else str(like.placements)])
            if key not in made:
                made[key] = self._make(tag, name, like, path, wanted, later)
            return made[key]

        value = decode(tree, make, path)
        self._checkpoint.read(list(wanted.values()))
        for target, source in later:
            target.copy_(source)
        return value

    def _make(
        self,
        tag: Json,
        name: str,
        like: Any,
        path: Path,
        wanted: dict[str, tuple[str, list[int], list[int], int, int]],
        later: list[tuple[Any, Any]],
    ) -> Any:
        dtype, shape = self._stored[name]
        form = FORMS[tag["dtype"]] if "dtype" in tag else None
        parts = 1 if form is None else form.parts
        whole = tuple(shape[:-1]) if parts > 1 else tuple(shape)
        if like is not None and tuple(like.shape) != whole:
            like = None
        box = Box(whole, None, whole) if like is None else box_of(like, path)
        local, address = empty(tag, dtype, box.shape)
        start = box.start or (0,) * len(whole)
        for stored, part_start, part_shape in _parts(tag, name, start, box.shape):
            into = local
            if part_shape != box.shape:
                into, address = empty(tag, dtype, part_shape)
                later.append((_cut(local, start, part_start, part_shape), into))
            if into.nbytes:
                region = stored_box(parts, part_start, part_shape)
                wanted[f"{stored} {address}"] = (stored, *region, address, int(into.nbytes))
        if like is None:
            return local
        from torch.distributed.tensor import DTensor

        placed = local
        if like.device != local.device:
            # What is read comes into `local`, and only then goes there.
            placed = local.new_empty(local.shape, device=like.device)
            later.append((placed, local))
        return DTensor.from_local(
            placed,
            like.device_mesh,
            like.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )


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


def templates(value: Any) -> Template:
    """Where the tensors of an object are spread over ranks, as they are now.

    An optimizer that has taken no step has no state yet: its parameters say how it will be laid out.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.optim.Optimizer):
        parameters = [one for group in value.param_groups for one in group["params"]]

        def of_optimizer(path: Path) -> Any:
            # ("state", number of the parameter, name)
            if len(path) == 3 and path[0] == "state" and isinstance(path[1], int):
                if path[1] < len(parameters) and is_distributed(parameters[path[1]]):
                    return parameters[path[1]]
            return None

        return of_optimizer
    if not has_state(value):
        return lambda path: None
    state = value.state_dict()

    def of_state(path: Path) -> Any:
        found = state
        for key in path:
            if not isinstance(found, Mapping) or key not in found:
                return None
            found = found[key]
        return found if is_distributed(found) else None

    return of_state


def compare(name: str, module: Any, restored: Any) -> list[str]:
    """What keeps a module from taking a state, in words; nothing for what is no module."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(module, torch.nn.Module) or not isinstance(restored, Mapping):
        return []
    here = module.state_dict()
    differs = [f"  missing in the checkpoint: {name}.{key}" for key in here if key not in restored]
    differs += [f"  not in the model: {name}.{key}" for key in restored if key not in here]
    for key in here:
        ours, theirs = here[key], restored.get(key)
        if theirs is None:
            continue
        if is_tensor(ours) and is_tensor(theirs) and ours.shape != theirs.shape:
            shapes = f"{list(theirs.shape)} in the checkpoint, {list(ours.shape)} in the model"
            differs.append(f"  of another shape: {name}.{key} ({shapes})")
    return differs


def give_back(target: Any, value: Any, path: Path) -> Any:
    """Puts ``value`` where it came from, in place; returns what is to stand there now."""
    if has_state(target):
        target.load_state_dict(value)
        return target
    if isinstance(target, dict) and isinstance(value, Mapping):
        for key in [key for key in target if key not in value]:
            del target[key]
        for key, one in value.items():
            target[key] = give_back(target[key], one, (*path, key)) if key in target else one
        return target
    if isinstance(target, list) and isinstance(value, list):
        target[:] = [
            give_back(target[index], one, (*path, index)) if index < len(target) else one
            for index, one in enumerate(value)
        ]
        return target
    if is_tensor(target) and is_tensor(value):
        import torch

        if target.shape == value.shape and target.dtype == value.dtype:
            with torch.no_grad():
                return target.copy_(value)
        raise InvalidError(
            f"{show(path)} is {target.dtype} of {list(target.shape)} here, and {value.dtype} of "
            f"{list(value.shape)} in the checkpoint"
        )
    return value
