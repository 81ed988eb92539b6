"""Tensors as a checkpoint stores them: named boxes of plain numbers.

Every type that torch computes with is stored bit for bit. safetensors has a name for most; the
others are stored as what they are made of (``complex128`` as pairs of ``F64``), and the tree says
what they were. Tensors over one and the same memory (tied weights) are stored once.

A ``DTensor`` is stored as the part of it that lies on this rank.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ._errors import InvalidError
from ._tree import Json, Path, is_tensor, show, torch_dtype


class Form(NamedTuple):
    """How the elements of a type are stored."""

    dtype: str
    #: torch's type that the stored elements are looked at as; none if it is the same.
    view: str | None = None
    #: The stored elements of one element.
    parts: int = 1


#: Forms by torch's name of the type; numpy has the same names.
FORMS = {
    "float64": Form("F64"),
    "float32": Form("F32"),
    "float16": Form("F16"),
    "bfloat16": Form("BF16"),
    "int64": Form("I64"),
    "int32": Form("I32"),
    "int16": Form("I16"),
    "int8": Form("I8"),
    "uint64": Form("U64"),
    "uint32": Form("U32"),
    "uint16": Form("U16"),
    "uint8": Form("U8"),
    "bool": Form("BOOL"),
    "complex64": Form("C64"),
    "float8_e5m2": Form("F8_E5M2"),
    "float8_e4m3fn": Form("F8_E4M3"),
    "float8_e8m0fnu": Form("F8_E8M0"),
    "complex128": Form("F64", "float64", 2),
    "complex32": Form("F16", "float16", 2),
    "float8_e5m2fnuz": Form("U8", "uint8"),
    "float8_e4m3fnuz": Form("U8", "uint8"),
    "float4_e2m1fn_x2": Form("U8", "uint8"),
}


class Box(NamedTuple):
    """The part of a tensor that a rank holds; ``start`` is none when it holds the whole."""

    whole: tuple[int, ...]
    start: tuple[int, ...] | None
    shape: tuple[int, ...]


#: A tensor as the engine plans for it: name, type, shape, whole and start where it is a part, bytes.
Given = tuple[str, str, list[int], tuple[list[int], list[int]] | None, int]


@dataclass(frozen=True)
class Leaf:
    """A tensor that is to be stored."""

    name: str
    path: Path
    form: Form
    box: Box
    #: What holds the values: a tensor of torch or an array of numpy, maybe strided, maybe elsewhere.
    value: Any

    @property
    def bytes(self) -> int:
        count = 1
        for side in self.box.shape:
            count *= side
        return count * int(self.value.dtype.itemsize)

    def is_as_it_lies(self) -> bool:
        """Whether a tensor's values lie side by side in this process's memory as they are stored."""
        value = self.value
        if isinstance(value, np.ndarray) or value.device.type != "cpu" or not value.is_contiguous():
            return False
        # What is yet to be conjugated or negated does not lie there as it is.
        return not (value.is_conj() or value.is_neg())

    def given(self) -> Given:
        """What the engine is told of it."""
        return (*self.described(), self.bytes)

    def described(self) -> tuple[str, str, list[int], tuple[list[int], list[int]] | None]:
        """Name, stored type, stored shape, and whole and start where it is a part."""
        more = [self.form.parts] if self.form.parts > 1 else []
        zero = [0] if more else []
        whole, start, shape = self.box
        part = None if start is None else ([*whole, *more], [*start, *zero])
        return self.name, self.form.dtype, [*shape, *more], part


def stored(value: Any) -> tuple[Any, int]:
    """Memory that holds the values side by side, and where: keep the first as long as needed."""
    if isinstance(value, np.ndarray):
        value = np.ascontiguousarray(value)
        return value, int(value.ctypes.data)
    value = value.detach()
    if value.is_complex() or value.is_neg():
        value = value.resolve_conj().resolve_neg()
    value = value.cpu().contiguous()
    return value, int(value.data_ptr())


def lend(leaves: Iterable[Leaf]) -> tuple[list[Any], list[int]]:
    """Memory that holds the values of tensors, and where they begin in it.

    The second is of use for as long as the first is kept.
    """
    found = [stored(leaf.value) for leaf in leaves]
    return [memory for memory, _ in found], [address for _, address in found]


class Leaves:
    """The tensors of a state, in the order in which they were met."""

    def __init__(self) -> None:
        self.leaves: list[Leaf] = []
        self._names: set[str] = set()
        self._seen: dict[Any, Json] = {}

    def put(self, value: Any, path: Path) -> Json:
        """See :class:`forebay._tree.Sink`."""
        if isinstance(value, (np.ndarray, np.generic)):
            return self._put_array(value, path)
        local, box = placed(value, path)
        # Of one memory, one copy. What is empty has none.
        where = (
            local.device, local.data_ptr(), local.dtype, local.stride(), box, local.is_conj(), local.is_neg(),
        )  # fmt: skip
        known = self._seen.get(where) if local.numel() else None
        if known is not None:
            return known
        tree = self.put_tensor(local, path, box)
        self._seen[where] = tree
        return tree

    def put_tensor(self, value: Any, path: Path, box: Box) -> dict[str, Any]:
        """Notes a tensor as it is, whatever its memory; returns what stands for it in the tree."""
        form = _form(_type_name(value), path)
        tree: dict[str, Any] = {"$tensor": self._name(path)}
        if form.view is not None:
            tree["dtype"] = _type_name(value)
        self._add(tree["$tensor"], path, form, box, value)
        return tree

    def _put_array(self, value: Any, path: Path) -> Json:
        native = native_array(value)
        form = _form(native.dtype.name, path)
        tree: dict[str, Any] = {"$array": self._name(path)}
        if form.view is not None:
            tree["dtype"] = native.dtype.name
        self._add(tree["$array"], path, form, Box(native.shape, None, native.shape), native)
        return tree

    def _add(self, name: str, path: Path, form: Form, box: Box, value: Any) -> None:
        self.leaves.append(Leaf(name, path, form, box, value))

    def _name(self, path: Path) -> str:
        """The keys that lead there; told apart by a number where that says the same twice."""
        name = plain = ".".join(str(key) for key in path)
        count = 1
        while name in self._names:
            count += 1
            name = f"{plain}#{count}"
        self._names.add(name)
        return name


def native_array(value: Any) -> np.ndarray[Any, Any]:
    """An array or a number of numpy, in this machine's order of bytes."""
    array = np.asarray(value)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _type_name(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _form(name: str, path: Path) -> Form:
    form = FORMS.get(name)
    if form is None:
        raise InvalidError(f"{show(path)} cannot be stored: there is no form for elements of {name}")
    return form


def is_distributed(value: Any) -> bool:
    """Whether this is a ``DTensor``, for which nothing is imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def placed(value: Any, path: Path) -> tuple[Any, Box]:
    """The values of a tensor that lie on this rank, and where they belong.

    Raises :class:`InvalidError` naming a tensor of a kind that cannot be stored.
    """
    import torch

    if is_distributed(value):
        return value.to_local(), box_of(value, path)
    why = None
    if value.is_meta:
        why = "it is on the meta device and has no values"
    elif value.is_quantized:
        why = "it is quantized; dequantize it, or store its int_repr, scale and zero point"
    elif value.layout != torch.strided:
        why = f"its layout is {value.layout}; store its indices and values, or to_dense()"
    elif type(value).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        why = f"it is a {type(value).__qualname__}, whose values lie in other tensors; store those"
    elif torch.nn.parameter.is_lazy(value):
        why = "it is a parameter without a shape yet; run the model once before"
    if why is not None:
        raise InvalidError(f"{show(path)} cannot be stored: {why}")
    shape = tuple(value.shape)
    return value, Box(shape, None, shape)


def box_of(value: Any, path: Path) -> Box:
    """Where the part of a ``DTensor`` on this rank lies in the whole."""
    from torch.distributed.tensor import Partial, Replicate, Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    for placement in value.placements:
        if type(placement) not in (Shard, Replicate):
            kind = "a sum that is not made yet" if isinstance(placement, Partial) else "interleaved"
            raise InvalidError(f"{show(path)} cannot be stored: its parts are {kind} ({placement})")
    whole = tuple(value.shape)
    shape, start = compute_local_shape_and_global_offset(
        value.shape, value.device_mesh, value.placements
    )
    if tuple(shape) == whole:
        return Box(whole, None, whole)
    return Box(whole, tuple(start), tuple(shape))


def empty(dtype: str, shape: tuple[int, ...], is_array: bool) -> tuple[Any, int]:
    """Memory for a stored tensor of a type, as torch's or numpy's, and where it is."""
    if is_array:
        array = np.empty(shape, np.dtype(dtype))
        return array, int(array.ctypes.data)
    import torch

    tensor = torch.empty(shape, dtype=torch_dtype(dtype))
    return tensor, int(tensor.data_ptr())


def stored_box(form_parts: int, start: tuple[int, ...], shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """A box of elements as the box of stored ones."""
    if form_parts == 1:
        return list(start), list(shape)
    return [*start, 0], [*shape, form_parts]


__all__ = ["FORMS", "Box", "Form", "Leaf", "Leaves", "box_of", "empty", "is_tensor", "lend", "native_array", "placed", "stored", "stored_box"]
