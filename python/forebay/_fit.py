"""How a stored state fits the objects that it is to be given back to.

All of it is compared before any of it is read: what does not fit is refused while nothing is
overwritten.

Then each stored tensor's place is found. Most of a state is tensors that are there already, and
what is stored is read into the memory that they have: nothing is faulted in and nothing copied.
That is done where it comes to the same as a fresh tensor given to ``load_state_dict``, which is
called all the same:

- a parameter or persistent buffer of a module, or a tensor of an optimizer's state, whose
  ``load_state_dict`` is torch's own and has no hook before it, which might take a value for another
  place than that of its name; or a tensor in a dict or list;
- in this machine's memory or a GPU's, contiguous, of the stored type and shape, and no subclass but
  ``DTensor``;
- no other stored tensor belongs into any of that memory.

All else is read into fresh memory. Nothing here writes; the first thing that does is the read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ._errors import InvalidError
from ._tensors import Box, box_of, is_distributed
from ._tree import Path, has_state, is_tensor, show


@dataclass(frozen=True)
class StoredTensor:
    """What is known of a stored tensor or array before it is read."""

    name: str
    #: torch's and numpy's name of its type.
    dtype: str
    shape: tuple[int, ...]
    is_array: bool


class Place(NamedTuple):
    """Where a stored tensor belongs."""

    #: The tensor whose memory it is read into; none where it is read into fresh memory.
    live: Any = None
    #: The ``DTensor`` that it is to be laid out like, if there is one.
    like: Any = None


class Fit:
    """Objects and what is stored for them, compared: what differs, and what goes where.

    :meth:`add` them all, then :meth:`settle`.
    """

    def __init__(self) -> None:
        #: What keeps modules from taking all of their state, in words.
        self.differs: list[str] = []
        self._shared_keys: dict[Path, frozenset[Any]] = {}
        self._found: dict[Path, tuple[Place, StoredTensor]] = {}
        self._direct: set[Path] = set()

    def add(self, target: Any, stored: Any, path: Path) -> None:
        """Compares an object with its state, in which :class:`StoredTensor` stands for tensors.

        Raises :class:`InvalidError` where not even part of it could be taken.
        """
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(target, torch.nn.Module):
            self._add_module(target, stored, path)
        elif torch is not None and isinstance(target, torch.optim.Optimizer):
            self._add_optimizer(target, stored, path)
        elif has_state(target):
            self._add_layouts(target.state_dict(), stored, path)
        elif isinstance(target, dict) and isinstance(stored, Mapping):
            for key, one in stored.items():
                if key in target:
                    self.add(target[key], one, (*path, key))
        elif isinstance(target, list) and isinstance(stored, list):
            for index, (one, other) in enumerate(zip(target, stored)):
                self.add(one, other, (*path, index))
        elif is_tensor(target) and isinstance(stored, StoredTensor) and not stored.is_array:
            if _kind(target) != (stored.dtype, stored.shape):
                raise InvalidError(
                    f"{show(path)} is {target.dtype} of {list(target.shape)} here, and "
                    f"torch.{stored.dtype} of {list(stored.shape)} in the checkpoint"
                )
            self._put(path, target, stored)

    def _add_module(self, module: Any, stored: Any, path: Path) -> None:
        if not isinstance(stored, Mapping):
            return
        here, name = module.state_dict(), ".".join(map(str, path))
        differs = [f"  missing in the checkpoint: {name}.{key}" for key in here if key not in stored]
        differs += [f"  not in the model: {name}.{key}" for key in stored if key not in here]
        for key, ours in here.items():
            theirs = stored.get(key)
            if not is_tensor(ours) or not isinstance(theirs, StoredTensor) or theirs.is_array:
                continue
            if tuple(ours.shape) != theirs.shape:
                shapes = f"{list(theirs.shape)} in the checkpoint, {list(ours.shape)} in the model"
                differs.append(f"  of another shape: {name}.{key} ({shapes})")
        if differs:
            self.differs += differs
            self._shared_keys[path] = frozenset(
                key for key, one in stored.items() if key in here and _shape(here[key]) == _shape(one)
            )
        self._add_layouts(here, stored, path)
        for key, live in _held(module) if _takes_as_it_is(module) else ():
            one = stored.get(key)
            if isinstance(one, StoredTensor):
                self._put((*path, key), live, one, here.get(key))

    def _add_optimizer(self, optimizer: Any, stored: Any, path: Path) -> None:
        numbers = _parameter_numbers(stored)
        if numbers is None:
            return
        import torch

        is_plain = _is_own(optimizer.load_state_dict, torch.optim.Optimizer.load_state_dict)
        is_plain = is_plain and not optimizer._optimizer_load_state_dict_pre_hooks
        groups = [group["params"] for group in optimizer.param_groups]
        ours, theirs = [len(one) for one in groups], [len(one) for one in numbers]
        if is_plain and ours != theirs:
            raise InvalidError(
                f"{show(path)} has {len(ours)} groups of {ours} parameters here, and {len(theirs)} of "
                f"{theirs} in the checkpoint"
            )
        parameters = dict(zip(_flat(numbers), _flat(groups)))
        states = stored.get("state")
        for number, moments in states.items() if isinstance(states, Mapping) else ():
            parameter = parameters.get(number)
            if parameter is None or not isinstance(moments, Mapping):
                continue
            held = optimizer.state.get(parameter) if is_plain else None
            for key, one in moments.items():
                if isinstance(one, StoredTensor):
                    live = held.get(key) if isinstance(held, Mapping) else None
                    # Before its first step an optimizer has no state; what it will have is laid out
                    # as its parameters are.
                    self._put((*path, "state", number, key), live, one, parameter)

    def _add_layouts(self, state: Any, stored: Any, path: Path) -> None:
        """Notes how a state that is taken by other code is spread over ranks now."""
        if isinstance(state, Mapping) and isinstance(stored, Mapping):
            for key, one in stored.items():
                if key in state:
                    self._add_layouts(state[key], one, (*path, key))
        elif isinstance(stored, StoredTensor) and is_distributed(state):
            self._put(path, None, stored, state)

    def _put(self, path: Path, live: Any, stored: StoredTensor, like: Any = None) -> None:
        if not is_tensor(live) or stored.is_array:
            live = None
        like = live if live is not None and is_distributed(live) else like
        if like is not None and not (is_distributed(like) and tuple(like.shape) == stored.shape):
            like = None
        if live is not None or like is not None:
            self._found[path] = Place(live, like), stored

    def settle(self) -> None:
        """Decides what is read into memory that is there."""
        fitting: list[Path] = []
        claims: list[tuple[int, int, Any, Path]] = []
        for path, (place, stored) in self._found.items():
            if place.live is None or self._is_left_out(path):
                continue
            local, box = local_part(place.live, path)
            if not _is_plain(local):
                continue
            if _kind(local) == (stored.dtype, box.shape) and _lies_as_stored(local):
                fitting.append(path)
            if _is_addressed(local) and local.numel():
                # Also what does not fit is written, by `load_state_dict`.
                claims.append((*_extent(local), (stored.name, box.start, box.shape), path))
        shared = set(_shared(claims))
        self._direct = {path for path in fitting if path not in shared}

    def place(self, path: Path) -> Place | None:
        """Where the tensor of this path belongs; none if its module has no place for it."""
        if self._is_left_out(path):
            return None
        place = self._found[path][0] if path in self._found else Place()
        return place if path in self._direct else Place(None, place.like)

    def shared_keys(self, path: Path) -> frozenset[Any] | None:
        """The keys that a module and its state have in common where the two differ; else none."""
        return self._shared_keys.get(path)

    def _is_left_out(self, path: Path) -> bool:
        for at in range(1, len(path)):
            keys = self._shared_keys.get(path[:at])
            if keys is not None and path[at] not in keys:
                return True
        return False


def local_part(live: Any, path: Path) -> tuple[Any, Box]:
    """What of a tensor lies on this rank, and where in the whole that belongs."""
    if not is_distributed(live):
        return live, Box(tuple(live.shape), None, tuple(live.shape))
    import torch

    with torch.no_grad():
        return live.to_local(), box_of(live, path)


def _kind(tensor: Any) -> tuple[str, tuple[int, ...]]:
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if hasattr(value, "shape") else None


def _held(module: Any) -> Iterator[tuple[str, Any]]:
    """What ``load_state_dict`` copies into, by the keys it goes by."""
    for name, child in module.named_modules(remove_duplicate=False):
        prefix = f"{name}." if name else ""
        for key, one in (*child._parameters.items(), *child._buffers.items()):
            if one is not None and key not in child._non_persistent_buffers_set:
                yield prefix + key, one


def _takes_as_it_is(module: Any) -> bool:
    """Whether a module's ``load_state_dict`` copies each value into the tensor of its name.

    Code of others may rename, permute or convert values first. What torch's normalizations override
    only adds values that are missing.
    """
    import torch

    return _is_own(module.load_state_dict, torch.nn.Module.load_state_dict) and all(
        not child._load_state_dict_pre_hooks
        and child._load_from_state_dict.__module__.startswith("torch.nn.modules.")
        for child in module.modules()
    )


def _is_own(method: Any, function: Any) -> bool:
    return getattr(method, "__func__", None) is function


def _parameter_numbers(stored: Any) -> list[list[Any]] | None:
    """What an optimizer's state calls the parameters of each group; none if it is none of torch's."""
    groups = stored.get("param_groups") if isinstance(stored, Mapping) else None
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        return None
    numbers = [group.get("params") for group in groups]
    return numbers if all(isinstance(one, list) for one in numbers) else None


def _flat(lists: list[list[Any]]) -> list[Any]:
    return [one for part in lists for one in part]


def _is_plain(local: Any) -> bool:
    """Whether a tensor's values are what lies in its memory."""
    import torch

    return type(local) in (torch.Tensor, torch.nn.Parameter) and local.layout == torch.strided


def _lies_as_stored(local: Any) -> bool:
    # What was made in inference mode is not changed outside of it; `load_state_dict` says so.
    is_marked = local.is_conj() or local.is_neg() or local.is_inference()
    return _is_addressed(local) and local.is_contiguous() and not is_marked


def _is_addressed(local: Any) -> bool:
    """Whether a tensor's addresses are its own among those of all devices."""
    return local.device.type in ("cpu", "cuda")


def _extent(local: Any) -> tuple[int, int]:
    """From the first byte of a tensor to behind the last."""
    reach = sum((side - 1) * stride for side, stride in zip(local.shape, local.stride()))
    start = int(local.data_ptr())
    return start, start + (reach + 1) * int(local.element_size())


def _shared(claims: list[tuple[int, int, Any, Path]]) -> Iterator[Path]:
    """The paths whose memory, from a start to an end, is also that of something else.

    Tied weights are one memory and one stored tensor.
    """
    claims = sorted(claims, key=lambda claim: claim[:2])
    at = 0
    while at < len(claims):
        end, behind = claims[at][1], at + 1
        while behind < len(claims) and claims[behind][0] < end:
            end = max(end, claims[behind][1])
            behind += 1
        if len({claim[:3] for claim in claims[at:behind]}) > 1:
            yield from (claim[3] for claim in claims[at:behind])
        at = behind
