"""What a rank stores beside its tensors, and the state that all ranks' make together.

There are two ways to say what a state is. :class:`forebay.Checkpointer` stores the whole tree on
every rank (``state``). ``forebay.dcp`` stores on each rank the items that this rank writes
(``items``): ``torch.distributed.checkpoint`` takes a state apart into items with dotted names, and
no rank knows those of all others. Both are read as either: a tree is taken apart by the same rule,
and items are put together by their paths.

An item::

    {"name": "model.layer.weight", "path": ["model", "layer.weight"], "value": {"$tensor": "…"},
     "start": [4, 0], "shape": [4, 3]}

``value`` is a tree (see ``_tree``); ``start`` and ``shape`` stand where a tensor is stored in parts,
and are the box that this rank stores under the name that ``value`` says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import _forebay
from ._errors import InvalidError, NewerFormatError
from ._tree import Json, Path, decode_key, encode_key

#: The version of what is stored beside the tensors.
VERSION = 1


class StoredBox(NamedTuple):
    """A part of a tensor, and the name it is stored under."""

    stored: str
    start: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass
class Item:
    """A value of a state that is taken apart: a tensor, or anything that is stored as a tree."""

    name: str
    path: Path
    value: Json
    #: The parts of a tensor, over all ranks; none when it is stored whole.
    boxes: list[StoredBox] = field(default_factory=list)

    @property
    def stored(self) -> str | None:
        """The name a tensor is stored under; none for everything else."""
        return self.value["$tensor"] if _is_tensor(self.value) else None

    @property
    def is_split(self) -> bool:
        """Whether parts of a tensor are stored under several names."""
        return any(box.stored != self.stored for box in self.boxes)


def read_metadata(text: str, run: str, step: int) -> dict[str, Any]:
    """What a rank stored beside its tensors, if this version reads it."""
    found = json.loads(text)
    version = found.get("version") if isinstance(found, dict) else None
    if version == VERSION:
        return dict(found)
    if isinstance(version, int) and version > VERSION:
        raise NewerFormatError(
            f"step {step} of run {run} was written by a newer Forebay (version {version}): upgrade it"
        )
    raise InvalidError(
        f"step {step} of run {run} was not written by forebay.Checkpointer or forebay.dcp; "
        "`forebay checkpoint restore` writes its tensors as safetensors"
    )


def read_state(checkpoint: _forebay.Checkpoint, run: str, rank: int = 0) -> dict[str, Json]:
    """The trees of a checkpoint's state, by name, as this rank stored them."""
    found = read_metadata(checkpoint.metadata(rank), run, checkpoint.step())
    if "items" in found:
        return unflatten(_join(checkpoint, run))
    return dict(found["state"])


def read_items(checkpoint: _forebay.Checkpoint, run: str) -> dict[str, Item]:
    """The items of a checkpoint's state, by name."""
    found = read_metadata(checkpoint.metadata(0), run, checkpoint.step())
    if "items" in found:
        return _join(checkpoint, run)
    return flatten(found["state"])


def _join(checkpoint: _forebay.Checkpoint, run: str) -> dict[str, Item]:
    """The items of all ranks; each tensor's parts together."""
    items: dict[str, Item] = {}
    for rank in range(checkpoint.world_size()):
        found = read_metadata(checkpoint.metadata(rank), run, checkpoint.step())
        for said in found.get("items", ()):
            item = items.setdefault(
                said["name"], Item(said["name"], tuple(said["path"]), said["value"])
            )
            if "start" in said:
                box = StoredBox(said["value"]["$tensor"], tuple(said["start"]), tuple(said["shape"]))
                item.boxes.append(box)
    return items


def flatten(state: Json) -> dict[str, Item]:
    """The items of a tree, by the rule of ``torch.distributed.checkpoint``.

    Dicts are taken apart, their keys as texts, and lists that hold tensors or dicts; all else, an
    empty list and a tuple too, is one value.
    """
    items: dict[str, Item] = {}

    def visit(tree: Json, path: Path) -> None:
        pairs = _pairs(tree)
        if pairs is not None:
            for key, one in pairs:
                visit(one, (*path, str(key)))
        elif isinstance(tree, list) and not _is_plain(tree):
            for index, one in enumerate(tree):
                visit(one, (*path, index))
        else:
            name = ".".join(map(str, path))
            if name in items:
                raise InvalidError(f"two values of the state are called {name!r}")
            items[name] = Item(name, path, tree)

    visit(state, ())
    return items


def _is_tensor(tree: Json) -> bool:
    return isinstance(tree, dict) and "$tensor" in tree


def _pairs(tree: Json) -> list[tuple[Any, Json]] | None:
    """Keys and values of a dict; none for everything else."""
    if not isinstance(tree, dict):
        return None
    if "$items" in tree:
        return [(decode_key(key), one) for key, one in tree["$items"]]
    return None if any(key.startswith("$") for key in tree) else list(tree.items())


def _is_plain(tree: list[Json]) -> bool:
    """Whether a list holds neither dicts nor tensors, at any depth of lists."""
    return not any(
        _is_tensor(one) or _pairs(one) is not None or (isinstance(one, list) and not _is_plain(one))
        for one in tree
    )


def unflatten(items: dict[str, Item]) -> dict[str, Json]:
    """The trees that items were taken from, by name. Keys of dicts are texts."""
    root: dict[Any, Any] = {}
    for item in items.values():
        node = root
        for key in item.path[:-1]:
            node = node.setdefault(key, _Node())
        node[item.path[-1]] = _tree(item)
    return {str(key): _assemble(one) for key, one in root.items()}


class _Node(dict[Any, Any]):
    """A dict or list of a state that is put together, apart from the dicts that are trees."""


def _tree(item: Item) -> Json:
    if not item.is_split:
        return item.value
    return {**item.value, "boxes": [list(box) for box in item.boxes]}


def _assemble(node: Any) -> Json:
    if not isinstance(node, _Node):
        return node
    if all(type(key) is int for key in node):
        # What is missing was an empty dict, which has no item.
        return [_assemble(node.get(index)) for index in range(max(node) + 1)]
    return {"$items": [[encode_key(key, ()), _assemble(one)] for key, one in node.items()]}
