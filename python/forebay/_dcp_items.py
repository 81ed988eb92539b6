"""What a rank's plan of ``torch.distributed.checkpoint`` has to be stored: tensors, and trees.

A tensor is stored under its name in the plan. A file holds a name once, so further parts of a
tensor on the same rank have a number behind it (``w``, ``w#2``), and so has a name that could be taken
for one of those (``w#2`` becomes ``w#2#1``): no two ranks and no two names come to mean the same.
Tensors inside of other values (a tuple of them) are called after those: ``pair#.0``.
"""

from __future__ import annotations

from typing import Any

from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from ._errors import InvalidError
from ._tensors import FORMS, Box, Leaf, Leaves, placed
from ._tree import Json, Path, encode, has_state, show

#: A name that the format of tensor files keeps for itself.
_RESERVED = "__metadata__"


class Items:
    """Collects what one rank writes, without a copy of any tensor.

    Raises :class:`InvalidError` naming the first value that cannot be stored.
    """

    def __init__(self, plan: SavePlan, planner: SavePlanner) -> None:
        self.leaves: list[Leaf] = []
        #: What is stored beside the tensors: see ``_stored``.
        self.items: list[Json] = []
        #: What the planner is told of each item.
        self.results: list[WriteResult] = []
        self._counts: dict[str, int] = {}
        mapping = plan.planner_data if isinstance(plan.planner_data, dict) else {}
        for item in plan.items:
            name = item.index.fqn
            path = tuple(mapping.get(name, (name,)))
            before = len(self.leaves)
            if item.type == WriteItemType.BYTE_IO:
                self._add_value(name, path, _look_up(planner, item))
            else:
                self._add_tensor(name, path, item, planner.resolve_data(item))
            size = sum(leaf.bytes for leaf in self.leaves[before:])
            self.results.append(WriteResult(item.index, size, None))

    def _add_tensor(self, name: str, path: Path, item: WriteItem, tensor: Any) -> None:
        data = item.tensor_data
        assert data is not None, "a tensor's item says where its part lies"
        local, _ = placed(tensor, path)
        whole, shape = tuple(data.size), tuple(data.chunk.sizes)
        start = tuple(data.chunk.offsets)
        if tuple(local.shape) != shape:
            raise InvalidError(
                f"{show(path)} cannot be stored: the plan says a part of {list(shape)}, and the "
                f"planner gave one of {list(local.shape)}"
            )
        box = Box(whole, None if shape == whole else start, shape)
        type_name = str(local.dtype).removeprefix("torch.")
        form = FORMS[check_type(type_name, path)]
        stored = self._stored_name(name)
        tree: dict[str, Any] = {"$tensor": stored}
        if form.view is not None:
            tree["dtype"] = type_name
        said: dict[str, Any] = {"name": name, "path": list(path), "value": tree}
        if box.start is not None:
            said |= {"start": list(box.start), "shape": list(box.shape)}
        self.items.append(said)
        self.leaves.append(Leaf(stored, path, form, box, local))

    def _stored_name(self, name: str) -> str:
        count = self._counts[name] = self._counts.get(name, 0) + 1
        plain = count == 1 and "#" not in name and name != _RESERVED
        return name if plain else f"{name}#{count}"

    def _add_value(self, name: str, path: Path, value: Any) -> None:
        if has_state(value):
            raise InvalidError(
                f"{show(path)} cannot be stored: it is a {type(value).__qualname__}, and would come "
                "back as what it holds; give its state_dict()"
            )
        inner = _Inner(name, len(path))
        self.items.append(
            {"name": name, "path": list(path), "value": encode(value, path, inner)}
        )
        self.leaves += inner.leaves


class _Inner(Leaves):
    """The tensors inside of a value, called after it."""

    def __init__(self, name: str, depth: int) -> None:
        super().__init__()
        self._value = name
        self._depth = depth

    def _name(self, path: Path) -> str:
        return super()._name((f"{self._value}#", *path[self._depth :]))

    def _add(self, name: str, path: Path, form: Any, box: Box, value: Any) -> None:
        if box.start is not None:
            raise InvalidError(
                f"{show(path)} cannot be stored: it is spread over ranks inside of a value that one "
                "rank writes; put it into dicts and lists alone, which the planner takes apart"
            )
        super()._add(name, path, form, box, value)


def check_type(type_name: str, path: Path) -> str:
    """The name of a type of elements, if it can be stored."""
    if type_name in FORMS:
        return type_name
    raise InvalidError(
        f"{show(path)} cannot be stored: there is no form for elements of {type_name}"
    )


def _look_up(planner: SavePlanner, item: WriteItem) -> Any:
    # `resolve_data` would give what torch.save makes of it, which is a pickle.
    look_up = getattr(planner, "lookup_object", None)
    if look_up is None:
        raise InvalidError(
            f"{show((item.index.fqn,))} is no tensor, and {type(planner).__qualname__} has no "
            "lookup_object(), which gives it as it is; derive the planner from DefaultSavePlanner"
        )
    return look_up(item.index)
