"""Training state as a tree of plain values that JSON can hold, and tensors beside it.

Nothing is pickled: what is not listed here is refused by its name. Dicts with text keys, lists,
texts, numbers, booleans and ``None`` are what they are in JSON; everything else is an object with
one key that starts with ``$``::

    {"$tensor": "model.weight"}          a tensor, stored under this name
    {"$array": "rng.keys"}               the same, an array of numpy
    {"$items": [[0, …], [1, …]]}         a dict whose keys are not texts, or whose order says something
    {"$tuple": […]}   {"$bytes": "…"}    a tuple; bytes in base64
    {"$int": "…"}  {"$float": "nan"}  {"$complex": [re, im]}     numbers that JSON cannot hold
    {"$dtype": "bfloat16"}  {"$device": "cuda:0"}  {"$size": […]}  torch's small objects
"""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from ._errors import CorruptError, InvalidError

Json = Any
#: Where a value is in the state: the keys that lead to it.
Path = tuple[Any, ...]

_INT_MAX = 1 << 63
#: Levels of nesting: more is a cycle, or nothing that a training state has.
_DEPTH_MAX = 64
#: Types of which most values are what they are in JSON.
_SAME_IN_JSON = {type(None), bool, str, int}


class Sink(Protocol):
    """Takes the tensors of a state."""

    def put(self, value: Any, path: Path) -> Json:
        """Notes a tensor or array; returns what stands for it in the tree."""


def encode(value: Any, path: Path, sink: Sink) -> Json:
    """``value`` as JSON, its tensors given to ``sink``.

    Raises :class:`InvalidError` naming the first value that cannot be stored.
    """
    if value is None or isinstance(value, (bool, str)):
        return value if type(value) in (type(None), bool, str) else _refuse(value, path)
    check_depth(path)
    if is_tensor(value) or isinstance(value, (np.ndarray, np.generic)):
        return sink.put(value, path)
    kind = type(value)
    if kind is int:
        return value if -_INT_MAX <= value < _INT_MAX else {"$int": str(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if kind is complex:
        return {"$complex": [_float(value.real), _float(value.imag)]}
    if kind in (bytes, bytearray):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return _encode_mapping(value, path, sink)
    if kind is list:
        if set(map(type, value)) <= _SAME_IN_JSON and _are_small(value):
            return list(value)
        return [encode(one, (*path, index), sink) for index, one in enumerate(value)]
    torch = sys.modules.get("torch")
    if torch is not None:
        if isinstance(value, torch.Size):
            return {"$size": list(value)}
        if isinstance(value, torch.dtype):
            return {"$dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"$device": str(value)}
    if kind is tuple:
        return {"$tuple": [encode(one, (*path, index), sink) for index, one in enumerate(value)]}
    if has_state(value):
        return encode(value.state_dict(), path, sink)
    return _refuse(value, path)


def _encode_mapping(value: Mapping[Any, Any], path: Path, sink: Sink) -> Json:
    keys = list(value)
    items = [(key, encode(one, (*path, key), sink)) for key, one in value.items()]
    if needs_items(keys):
        return {"$items": [[encode_key(key, path), one] for key, one in items]}
    return dict(items)


def needs_items(keys: list[Any]) -> bool:
    """Whether a dict of these keys is no object of JSON."""
    texts = all(type(key) is str and not key.startswith("$") for key in keys)
    # JSON's objects are sorted when they are stored; a dict's order is kept where it is another.
    return not texts or keys != sorted(keys)


def _are_small(values: list[Any]) -> bool:
    """Whether JSON can hold the integers among these."""
    numbers = [one for one in values if type(one) is int]
    return not numbers or (-_INT_MAX <= min(numbers) and max(numbers) < _INT_MAX)


def check_depth(path: Path) -> None:
    """Refuses what is nested deeper than any state."""
    if len(path) > _DEPTH_MAX:
        raise InvalidError(f"{show(path[:4])}… is nested deeper than {_DEPTH_MAX} levels")


def encode_key(key: Any, path: Path) -> Json:
    """A key of a dict as JSON."""
    if type(key) in (str, bool, type(None)) or (type(key) is int and abs(key) < _INT_MAX):
        return key
    if type(key) is tuple:
        return {"$tuple": [encode_key(one, path) for one in key]}
    raise InvalidError(
        f"{show(path)} has a key that cannot be stored: {key!r} is a {type(key).__name__}; "
        "texts, numbers and tuples of them can be"
    )


def _float(value: float) -> Json:
    return value if math.isfinite(value) else {"$float": str(value)}


def _refuse(value: Any, path: Path) -> Json:
    raise InvalidError(
        f"{show(path)} cannot be stored: it is a {type(value).__module__}.{type(value).__qualname__}; "
        "tensors, arrays, numbers, texts, bytes, None, dicts, lists and tuples of them, and objects "
        "with state_dict() can be"
    )


def decode(tree: Json, make: Callable[[dict[str, Any], Path], Any], path: Path = ()) -> Any:
    """The value of a tree; ``make`` gives what stands in a tensor's place."""
    if isinstance(tree, list):
        return [decode(one, make, (*path, index)) for index, one in enumerate(tree)]
    if not isinstance(tree, dict):
        return tree
    tag = next((key for key in tree if key.startswith("$")), None)
    if tag is None:
        return {key: decode(one, make, (*path, key)) for key, one in tree.items()}
    held = tree[tag]
    if tag in ("$tensor", "$array"):
        return make(tree, path)
    if tag == "$items":
        keys = [decode_key(key) for key, _ in held]
        return {key: decode(one, make, (*path, key)) for key, (_, one) in zip(keys, held)}
    if tag == "$tuple":
        return tuple(decode(one, make, (*path, index)) for index, one in enumerate(held))
    if tag == "$bytes":
        return base64.b64decode(held, validate=True)
    if tag == "$int":
        return int(held)
    if tag == "$float":
        return float(held)
    if tag == "$complex":
        return complex(*(decode(one, make) for one in held))
    if tag in ("$size", "$dtype", "$device"):
        import torch

        if tag == "$size":
            return torch.Size(held)
        return torch.device(held) if tag == "$device" else torch_dtype(held)
    raise CorruptError(f"{show(path)}: nothing is known of values called {tag!r}")


def decode_key(key: Json) -> Any:
    """A key of a dict from JSON."""
    return tuple(decode_key(one) for one in key["$tuple"]) if isinstance(key, dict) else key


def torch_dtype(name: str) -> Any:
    """torch's type of this name; nothing else of torch."""
    import torch

    dtype = getattr(torch, name, None)
    if isinstance(dtype, torch.dtype):
        return dtype
    raise InvalidError(f"this torch, {torch.__version__}, has no type {name!r}")


def is_tensor(value: Any) -> bool:
    """Whether this is a tensor of torch, which is not imported for that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def has_state(value: Any) -> bool:
    """Whether this keeps a state and takes it back."""
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def show(path: Path) -> str:
    """A path for people: ``state['optimizer']['state'][0]``."""
    return "state" + "".join(f"[{key!r}]" for key in path)
