"""Directories of ``torch.distributed.checkpoint``, read without running anything in them.

::

    .metadata                 a pickle: which tensors there are, and where the parts of each lie
    __0_0.distcp, …           the parts, each as torch.save writes it

torch's reader gives ``.metadata`` to ``pickle.load``, which runs whatever it names. Here every class
that it names is replaced by an inert one that remembers what it was given; what is not torch's is
refused. Then the facts are taken out of these records and checked: names of files, ranges, shapes,
and that the parts of a tensor cover it, each element once.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

from ._errors import CorruptError, InvalidError
from ._tree import torch_dtype

METADATA = ".metadata"
#: The longest ``.metadata`` that is read.
METADATA_BYTES_MAX = 1 << 28
#: The most parts of a tensor: each is compared with every other.
_PARTS_MAX = 1 << 12
#: Packages whose classes it may name, and functions by which Python pickles some of them. None is
#: ever looked up.
_PACKAGES = frozenset({"torch", "pathlib", "collections"})
_FUNCTIONS = frozenset({("builtins", "getattr"), ("builtins", "set"), ("copyreg", "_reconstructor")})


class _Record:
    """Stands for an object of a class that is not looked up."""

    given: tuple[Any, ...] = ()
    facts: Any = None

    def __new__(cls, *given: Any) -> _Record:
        record = super().__new__(cls)
        record.given = given
        return record

    def __init__(self, *given: Any) -> None:
        pass

    def __setstate__(self, facts: Any) -> None:
        self.facts = facts


class _Plain(pickle.Unpickler):
    """Unpickles into records."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] not in _PACKAGES and (module, name) not in _FUNCTIONS:
            raise InvalidError(f"it names {module}.{name}, which is nothing of torch's checkpoints")
        # A class of its own each time: whatever the pickle does to it, it does to nobody else.
        kind = dict if (module, name) == ("collections", "OrderedDict") else _Record
        return type("Record", (kind,), {"name": name})


class _Part(NamedTuple):
    """A box of a tensor, and where its values lie."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    offset: int
    bytes: int


class Directory:
    """A directory, its metadata read and checked.

    ``value`` is what was saved: dicts, lists and plain values, with a tensor on the meta device in
    the place of each tensor; :meth:`read` gives its values.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[int, tuple[str, list[_Part]]] = {}
        #: Kept, so that no other object gets the identity of one of them.
        self._tensors: list[Any] = []
        facts = _facts(self._metadata(), "Metadata")
        places = self._places(facts.get("storage_data"))
        paths = facts.get("planner_data") or {}
        if not isinstance(paths, dict):
            raise self._damaged("its paths are no dict")
        self.value: Any = {}
        held = facts.get("state_dict_metadata")
        if not isinstance(held, dict):
            raise self._damaged("it names no state")
        for name, about in held.items():
            if not isinstance(name, str):
                raise self._damaged("a name is no text")
            where = paths.get(name, (name,))
            self._put(where, self._value(name, about, places.get(name, {})))
        self.value = _lists(self.value)

    def holds(self, value: Any) -> bool:
        """Whether this is a tensor of ``value`` that :meth:`read` gives."""
        return id(value) in self._parts

    def read(self, tensor: Any) -> Any:
        """The values of a tensor of ``value``: one part beside the whole is in memory."""
        import torch

        name, parts = self._parts[id(tensor)]
        shape = tuple(tensor.shape)
        if len(parts) == 1 and parts[0].shape == shape:
            return self._load_part(name, parts[0], tensor.dtype)
        whole = torch.empty(shape, dtype=tensor.dtype)
        for part in parts:
            box = tuple(slice(start, start + side) for start, side in zip(part.start, part.shape))
            whole[box] = self._load_part(name, part, tensor.dtype)
        return whole

    def _metadata(self) -> Any:
        path = self._path / METADATA
        size = path.stat().st_size
        if size > METADATA_BYTES_MAX:
            raise self._damaged(f"it has {size} bytes, more than {METADATA_BYTES_MAX}")
        try:
            return _Plain(io.BytesIO(path.read_bytes())).load()
        except InvalidError as error:
            raise InvalidError(f"{path} is refused: {error}") from error
        except Exception as error:
            raise self._damaged(str(error) or type(error).__name__) from error

    def _damaged(self, why: str) -> CorruptError:
        return CorruptError(f"{self._path / METADATA} is damaged: {why}")

    def _places(self, stored: Any) -> dict[str, dict[tuple[int, ...], Any]]:
        """Where the parts of each name lie, by where they begin."""
        if not isinstance(stored, dict):
            raise self._damaged("it does not say where values lie")
        places: dict[str, dict[tuple[int, ...], Any]] = {}
        for index, place in stored.items():
            at, info = _facts(index, "MetadataIndex"), _facts(place, "_StorageInfo")
            if info.get("transform_descriptors"):
                raise InvalidError(f"{self._path}: its values are transformed; load it with torch")
            start = () if at.get("offset") is None else self._sizes(at["offset"])
            places.setdefault(str(at.get("fqn")), {})[start] = info
        return places

    def _value(self, name: str, about: Any, places: dict[tuple[int, ...], Any]) -> Any:
        import torch

        kind = getattr(type(about), "name", None)
        if kind == "BytesStorageMetadata":
            return self._load(name, *self._range(name, next(iter(places.values()), None)))
        facts = _facts(about, "TensorStorageMetadata")
        shape = self._sizes(facts.get("size"))
        tensor = torch.empty(shape, dtype=self._dtype(facts.get("properties")), device="meta")
        parts = []
        for chunk in facts.get("chunks") or []:
            box = _facts(chunk, "ChunkStorageMetadata")
            start, sides = self._sizes(box.get("offsets")), self._sizes(box.get("sizes"))
            # What has no dimension was stored without saying where it begins.
            place = places.get(start) if start in places else places.get(())
            parts.append(_Part(start, sides, *self._range(name, place)))
        self._require_cover(name, shape, parts)
        self._tensors.append(tensor)
        self._parts[id(tensor)] = (name, parts)
        return tensor

    def _sizes(self, value: Any) -> tuple[int, ...]:
        """A ``torch.Size``, whose numbers a record was given."""
        found = next(iter(value.given), ()) if isinstance(value, _Record) else value
        if not isinstance(found, (tuple, list)) or not all(
            type(side) is int and 0 <= side < 1 << 62 for side in found
        ):
            raise self._damaged("a shape is none")
        return tuple(found)

    def _dtype(self, properties: Any) -> Any:
        facts = getattr(properties, "facts", None)
        dtype = facts[0] if isinstance(facts, tuple) and facts else None
        name = getattr(dtype, "name", None)
        if not isinstance(dtype, type) or not isinstance(name, str):
            raise self._damaged("a tensor has no type")
        return torch_dtype(name)

    def _range(self, name: str, info: Any) -> tuple[str, int, int]:
        if not isinstance(info, dict):
            raise self._damaged(f"it does not say where {name!r} lies")
        file, offset, length = (info.get(key) for key in ("relative_path", "offset", "length"))
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise InvalidError(f"{self._path / METADATA} is refused: it names the file {file!r}")
        if type(offset) is not int or type(length) is not int or min(offset, length) < 0:
            raise self._damaged(f"{name!r} lies nowhere")
        path = self._path / file
        if not path.is_file():
            raise CorruptError(f"{path} is missing, though {METADATA} names it")
        if offset + length > path.stat().st_size:
            raise CorruptError(f"{path} ends before the values of {name!r}")
        return file, offset, length

    def _require_cover(self, name: str, shape: tuple[int, ...], parts: list[_Part]) -> None:
        elements = 0
        for part in parts:
            fits = len(part.start) == len(part.shape) == len(shape) and all(
                start + side <= whole for start, side, whole in zip(part.start, part.shape, shape)
            )
            if not fits:
                raise self._damaged(f"a part of {name!r} does not lie in it")
            elements += math.prod(part.shape)
        if len(parts) > _PARTS_MAX:
            raise InvalidError(f"{self._path}: {name!r} has {len(parts)} parts, more than {_PARTS_MAX}")
        apart = not any(
            _overlap(one, other) for at, one in enumerate(parts) for other in parts[:at]
        )
        if elements != math.prod(shape) or not apart:
            raise self._damaged(f"the parts of {name!r} do not cover it, each element once")

    def _load_part(self, name: str, part: _Part, dtype: Any) -> Any:
        tensor = self._load(name, part.file, part.offset, part.bytes)
        if getattr(tensor, "dtype", None) != dtype or tuple(tensor.shape) != part.shape:
            raise CorruptError(f"{self._path / part.file}: a part of {name!r} is not what it must be")
        return tensor

    def _load(self, name: str, file: str, offset: int, length: int) -> Any:
        import torch

        path = self._path / file
        with open(path, "rb") as opened:
            opened.seek(offset)
            held = io.BytesIO(opened.read(length))
        try:
            return torch.load(held, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InvalidError(
                f"{path} is refused: {name!r} is more than tensors and plain values, and could only "
                f"be had by running what it says: {str(error).splitlines()[0]}"
            ) from error
        except Exception as error:
            raise CorruptError(f"{path} is damaged at {name!r}: {error}") from error

    def _put(self, where: Any, value: Any) -> None:
        """Puts a value where the path of dicts and lists leads to."""
        if not isinstance(where, tuple) or not where or not all(type(key) in (str, int) for key in where):
            raise self._damaged("a path is none")
        holder = self.value
        for key in where[:-1]:
            holder = holder.setdefault(key, {})
            if not isinstance(holder, dict):
                raise self._damaged(f"a path leads through a value: {where!r}")
        if where[-1] in holder:
            raise self._damaged(f"two values have one path: {where!r}")
        holder[where[-1]] = value


def _facts(record: Any, name: str) -> dict[str, Any]:
    """What a record of a class of this name was given."""
    facts = getattr(record, "facts", None)
    if getattr(type(record), "name", None) != name or not isinstance(facts, dict):
        raise CorruptError(f"{METADATA} is damaged: something is no {name}")
    return facts


def _overlap(one: _Part, other: _Part) -> bool:
    sides = zip(one.start, one.shape, other.start, other.shape)
    return all(a < b + wide and b < a + long for a, long, b, wide in sides)


def _lists(value: Any) -> Any:
    """Dicts whose keys count from 0 were lists: keys of dicts are texts."""
    if not isinstance(value, dict):
        return value
    inner = {key: _lists(one) for key, one in value.items()}
    if inner and sorted(inner, key=str) == sorted(range(len(inner)), key=str):
        return [inner[index] for index in range(len(inner))]
    return inner
