"""What a save knows of the state from the save before.

To walk a state costs some twenty calls for each tensor, and a training loop's state is the same walk every
time. So the first one notes what it found: keys and types of what holds tensors, each tensor's type, shape,
strides and device, which of them are one memory, and what all of that is as JSON. A later save goes the
same way through the live state and compares, mostly by calls that Python makes for a whole list at once.
What holds no tensors (rates, counts, a history) is encoded anew each time, and tensors may lie elsewhere
than before.

Anything else than what was noted, and the state is walked anew, by the rules of ``_tree`` and ``_tensors``,
which also say what cannot be stored. So a plan decides nothing, and no tensor is kept by one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from operator import attrgetter, eq
from typing import Any, NamedTuple, Protocol

import numpy as np

from ._fill import is_filled
from ._tensors import Leaf, Leaves, is_distributed, native_array, placed
from ._tree import Json, Path, check_depth, encode, encode_key, has_state, is_tensor, needs_items

#: Keys of these types are equal when they compare so and their types are one.
_SIMPLE_KEYS = {str, int, bool, type(None)}


class Changed(Exception):
    """The state is not what was noted."""


class Forms:
    """The tensors that a state has, without their values; another object when anything is different."""

    def __init__(self, leaves: list[Leaf]) -> None:
        self.names = [leaf.name for leaf in leaves]
        #: Each as the engine is told of it, see :meth:`Leaf.described`.
        self.described = [leaf.described() for leaf in leaves]
        self.bytes = [leaf.bytes for leaf in leaves]
        #: Whether the values lie side by side in this process's memory as they are stored.
        self.as_it_lies = [leaf.is_as_it_lies() for leaf in leaves]
        #: Whether a device brings the values into the engine's memory by itself.
        self.is_filled = [is_filled(leaf.value) for leaf in leaves]

    @cached_property
    def said(self) -> bytes:
        """What a rank says of them to the others."""
        return json.dumps([[*one, size] for one, size in zip(self.described, self.bytes)]).encode()

    @cached_property
    def digest(self) -> bytes:
        """Tells them from others."""
        return hashlib.sha256(self.said).digest()


class Seen(NamedTuple):
    """A state as it is now."""

    forms: Forms
    #: What holds the values of each tensor on this rank, and where it begins; 0 for arrays.
    values: list[Any]
    addresses: list[int]
    #: The trees of the state's parts, as JSON.
    texts: dict[str, str]


class Plan:
    """Walks a state, and keeps what it found until the state is something else."""

    def __init__(self) -> None:
        self._noted: _Noted | None = None

    def look(self, parts: Mapping[str, tuple[Path, Any]]) -> Seen:
        """The state of ``parts`` as it is now, each with the keys that lead to it.

        Raises :class:`InvalidError` naming the first value that cannot be stored.
        """
        if self._noted is not None:
            try:
                return self._noted.follow(parts)
            except Changed:
                self._noted = None
        self._noted, seen = _note(parts)
        return seen


def _note(parts: Mapping[str, tuple[Path, Any]]) -> tuple[_Noted, Seen]:
    met = _Met()
    nodes = {name: _survey(value, path, met) for name, (path, value) in parts.items()}
    tensors = _Tensors(met.tensors)
    noted = _Noted(nodes, tensors, Forms(met.leaves), met.sources())
    values = [leaf.value for leaf in met.leaves]
    addresses = [0 if isinstance(one, np.ndarray) else int(one.data_ptr()) for one in values]
    texts = {name: node.text for name, node in nodes.items()}
    return noted, Seen(noted.forms, values, addresses, texts)


class _Noted:
    """A state as it was noted."""

    def __init__(
        self, nodes: dict[str, _Node], tensors: _Tensors, forms: Forms, sources: list[int]
    ) -> None:
        self._nodes = nodes
        self._tensors = tensors
        self.forms = forms
        #: Of each stored tensor, its number among those met, arrays behind the others.
        self._sources = sources

    def follow(self, parts: Mapping[str, tuple[Path, Any]]) -> Seen:
        """The state, if it is still what was noted; else raises :class:`Changed`."""
        if list(parts) != list(self._nodes):
            raise Changed
        found = _Found()
        texts = {name: self._nodes[name].follow(value, found) for name, (_, value) in parts.items()}
        values, addresses = self._tensors.match(found.tensors)
        values += found.arrays
        addresses += [0] * len(found.arrays)
        of_leaves = [values[source] for source in self._sources]
        return Seen(self.forms, of_leaves, [addresses[source] for source in self._sources], texts)


class _Found:
    """What is met on the way through a live state."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.arrays: list[Any] = []


class _Met(Leaves):
    """The same, when a state is walked for the first time."""

    def __init__(self) -> None:
        super().__init__()
        #: Every tensor with what of it lies here, those too that are another's memory.
        self.tensors: list[_MetTensor] = []
        self._arrays = 0
        #: Of each leaf, its number among the tensors, or among the arrays, and whether it is one.
        self._origins: list[tuple[int, bool]] = []

    @property
    def count(self) -> int:
        return len(self.tensors) + self._arrays

    def put(self, value: Any, path: Path) -> Json:
        before = len(self.leaves)
        tree = super().put(value, path)
        is_new = len(self.leaves) > before
        is_array = isinstance(value, (np.ndarray, np.generic))
        if is_new:
            self._origins.append((self._arrays if is_array else len(self.tensors), is_array))
        if is_array:
            self._arrays += 1
        else:
            leaf = self.leaves[-1]
            local, box = (leaf.value, leaf.box) if is_new else placed(value, path)
            layout = _layout(value) if is_distributed(value) else None
            self.tensors.append(_MetTensor(type(value), local, box, layout))
        return tree

    def sources(self) -> list[int]:
        """Of each leaf, its number among tensors and arrays."""
        return [number + is_array * len(self.tensors) for number, is_array in self._origins]


class _MetTensor(NamedTuple):
    kind: type
    local: Any
    box: Any
    #: How a ``DTensor`` is cut.
    layout: Any


def _layout(value: Any) -> Any:
    return value.device_mesh, value.placements, tuple(value.shape)


class _Tensors:
    """What the tensors of a state are, in the order in which they are met."""

    def __init__(self, met: list[_MetTensor]) -> None:
        self._kinds = [one.kind for one in met]
        self._layouts = [(number, one.layout) for number, one in enumerate(met) if one.layout is not None]
        local = [one.local for one in met]
        #: What is compared of each, by what asks for it.
        self._forms = [(ask, list(map(ask, local))) for ask in _questions()] if local else []
        # Of real numbers no conjugates are put off.
        self._complex = [number for number, one in enumerate(local) if one.is_complex()]
        self._conjugates = [local[number].is_conj() for number in self._complex]
        self._addresses = [int(one.data_ptr()) for one in local]
        # Two are one memory if this is the same of both, and the address. What is empty has none.
        said: dict[Any, int] = {}
        self._said: list[int] = []
        for number, one in enumerate(met):
            alone = None if one.local.numel() else number
            form = (alone, one.box, one.local.is_conj(), *(held[number] for _, held in self._forms))
            self._said.append(said.setdefault(form, number))
        self._tied = self._ties(self._addresses)

    def _are(self, tensors: list[Any]) -> bool:
        # One answer at a time: lists of them would wake the collector of garbage.
        if not all(all(map(eq, map(ask, tensors), held)) for ask, held in self._forms):
            return False
        return [tensors[number].is_conj() for number in self._complex] == self._conjugates

    def _ties(self, addresses: list[int]) -> list[int]:
        """Of each tensor, the first that is the same memory."""
        first: dict[tuple[int, int], int] = {}
        return list(map(first.setdefault, zip(addresses, self._said), range(len(addresses))))

    def match(self, tensors: list[Any]) -> tuple[list[Any], list[int]]:
        """What lies here of live tensors, and where, if they are what was noted."""
        if list(map(type, tensors)) != self._kinds:
            raise Changed
        if not tensors:
            return [], []
        import torch

        for number, layout in self._layouts:
            whole = tensors[number]
            if _layout(whole) != layout:
                raise Changed
            tensors[number] = whole.to_local()
        try:
            addresses: list[int] = list(map(torch.Tensor.data_ptr, tensors))
            if not self._are(tensors):
                raise Changed
        except RuntimeError:
            # What has no memory or no strides is nothing that was noted.
            raise Changed from None
        if addresses != self._addresses:
            if self._ties(addresses) != self._tied:
                raise Changed
            self._addresses = addresses
        return tensors, addresses.copy()


def _questions() -> list[Callable[[Any], Any]]:
    """What is asked of tensors, beside their addresses."""
    import torch

    one = torch.Tensor
    return [attrgetter("dtype"), attrgetter("device"), attrgetter("shape"), one.is_neg, one.stride]


class _Node(Protocol):
    """A place of a state that a walk passed."""

    text: str
    #: Whether the text is the same as long as nothing changed.
    is_fixed: bool

    def follow(self, value: Any, found: _Found) -> str:
        """What ``value`` is as JSON, if it still is what was noted."""


def _survey(value: Any, path: Path, met: _Met) -> _Node:
    """Notes a value, by the rules of :func:`forebay._tree.encode`."""
    before = met.count
    if is_tensor(value):
        return _Leaf(json.dumps(met.put(value, path)))
    if isinstance(value, (np.ndarray, np.generic)):
        text = json.dumps(met.put(value, path))
        return _Array(text, native_array(value))
    node: _Node | None = None
    if isinstance(value, Mapping):
        check_depth(path)
        keys = list(value)
        children = [_survey(one, (*path, key), met) for key, one in value.items()]
        node = _Branch(type(value), children, _around(keys, path), _Keys(keys, path))
    elif type(value) in (list, tuple):
        check_depth(path)
        children = [_survey(one, (*path, index), met) for index, one in enumerate(value)]
        ends = ("[", "]") if type(value) is list else ('{"$tuple": [', "]}")
        node = _Branch(type(value), children, _between(ends, [""] * len(children), ""), None)
    elif has_state(value) and not isinstance(value, (bool, str)):
        check_depth(path)
        node = _Object(type(value), _survey(value.state_dict(), path, met))
    if node is None:
        return _Plain(path, json.dumps(encode(value, path, met)))
    return node if met.count > before else _Plain(path, node.text)


class _Refusing:
    """Takes no tensors."""

    def put(self, value: Any, path: Path) -> Json:
        raise Changed


class _Plain:
    """What held no tensors."""

    is_fixed = False

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self.text = text

    def follow(self, value: Any, found: _Found) -> str:
        return json.dumps(encode(value, self._path, _Refusing()))


class _Leaf:
    """A tensor of torch; what it is, is compared with those of all others."""

    is_fixed = True

    def __init__(self, text: str) -> None:
        self.text = text

    def follow(self, value: Any, found: _Found) -> str:
        found.tensors.append(value)
        return self.text


class _Array:
    """An array of numpy."""

    is_fixed = True

    def __init__(self, text: str, array: np.ndarray[Any, Any]) -> None:
        self.text = text
        self._form = (array.dtype, array.shape)

    def follow(self, value: Any, found: _Found) -> str:
        if not isinstance(value, (np.ndarray, np.generic)):
            raise Changed
        array = native_array(value)
        if (array.dtype, array.shape) != self._form:
            raise Changed
        found.arrays.append(array)
        return self.text


class _Object:
    """What says its state itself."""

    def __init__(self, kind: type, state: _Node) -> None:
        self._kind: Any = kind
        self._state = state
        self.text, self.is_fixed = state.text, state.is_fixed

    def follow(self, value: Any, found: _Found) -> str:
        if type(value) is not self._kind or not has_state(value):
            raise Changed
        return self._state.follow(value.state_dict(), found)


class _Branch:
    """A dict, list or tuple that holds tensors, at any depth."""

    def __init__(
        self, kind: type, children: list[_Node], around: list[str], keys: _Keys | None
    ) -> None:
        self._kind: Any = kind
        self._children = children
        self._keys = keys
        self._are_tensors = all(type(child) is _Leaf for child in children)
        self.is_fixed = all(child.is_fixed for child in children)
        #: The JSON: what stands before each child, the child, and at last what stands behind.
        self._pieces = [piece for pair in zip(around, (one.text for one in children)) for piece in pair]
        self._pieces.append(around[-1])
        self.text = "".join(self._pieces)
        if self.is_fixed:
            self._pieces.clear()

    def follow(self, value: Any, found: _Found) -> str:
        if type(value) is not self._kind or len(value) != len(self._children):
            raise Changed
        values = value
        if self._keys is not None:
            if not self._keys.are(list(value)):
                raise Changed
            values = value.values()
        if self._are_tensors:
            found.tensors.extend(values)
            return self.text
        texts = [child.follow(one, found) for child, one in zip(self._children, values)]
        if self.is_fixed:
            return self.text
        self._pieces[1::2] = texts
        return "".join(self._pieces)


class _Keys:
    """The keys of a dict, in their order."""

    def __init__(self, keys: list[Any], path: Path) -> None:
        self._keys = keys
        self._kinds = list(map(type, keys))
        self._path = path
        # What is equal may be another in a tuple: (1,) and (True,).
        self._text = None if set(self._kinds) <= _SIMPLE_KEYS else self._show(keys)

    def _show(self, keys: list[Any]) -> str:
        return json.dumps([encode_key(key, self._path) for key in keys])

    def are(self, keys: list[Any]) -> bool:
        """Whether these are the same."""
        if keys != self._keys or list(map(type, keys)) != self._kinds:
            return False
        return self._text is None or self._show(keys) == self._text


def _around(keys: list[Any], path: Path) -> list[str]:
    """The JSON of a dict, without its values."""
    if needs_items(keys):
        said = [f"[{json.dumps(encode_key(key, path))}, " for key in keys]
        return _between(('{"$items": [', "]}"), said, "]")
    return _between(("{", "}"), [f"{json.dumps(key)}: " for key in keys], "")


def _between(ends: tuple[str, str], before: list[str], behind: str) -> list[str]:
    """What stands before each of some values, and at last what stands behind."""
    if not before:
        return ["".join(ends)]
    first, *others = before
    return [ends[0] + first, *(f"{behind}, {one}" for one in others), behind + ends[1]]
