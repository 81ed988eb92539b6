"""Copying the state while training goes on.

Parameters and the optimizers' state change in the optimizer's step and nowhere else. So a save copies
everything else at once and leaves those to threads of the engine; the next forward and backward pass
run meanwhile, and a hook before every optimizer's step waits for what is left. What lies on a GPU is
brought over by that, see ``_fill``: there the hook has the device wait, and the host goes on.

Whether that held is checked: torch counts the changes of each tensor in place. A state that changed
while it was copied, in a script that writes its weights by itself, is dropped before it is a
checkpoint anywhere; the state after the next step is saved in its place, and nothing is overlapped any more. What
torch does not count, writes through ``.data``, is the one thing that must not happen outside of an
optimizer's step: such scripts say ``overlap=False``.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from operator import attrgetter
from queue import SimpleQueue
from typing import Any

from . import _forebay
from ._errors import InvalidError
from ._fill import Filling, is_capturing
from ._plan import Seen

#: A smaller tensor is copied at once.
_BYTES_MIN = 64 << 10
_VERSION = attrgetter("_version")


class Overlap:
    """What of a state may be copied later, and the copying that is under way."""

    def __init__(self, state: Mapping[str, Any], enabled: bool) -> None:
        self._state = state
        self._watched: _Watched | None = None
        #: To the thread that vouches for what was copied; there when it was needed.
        self._watcher: SimpleQueue[_Watched | None] | None = None
        self._broken: str | None = None
        #: Whether an optimizer's step was seen since the save before, and one in a graph of CUDA's.
        self._is_stepped = False
        self._is_captured = False
        self._hook: Any = None
        torch = sys.modules.get("torch")
        if enabled and torch is not None:
            from torch.optim.optimizer import register_optimizer_step_pre_hook

            self._hook = register_optimizer_step_pre_hook(lambda *_: self._before_step())

    def later(self, seen: Seen, ours: list[int]) -> list[int]:
        """The numbers of those of our tensors that may be copied later."""
        if self._hook is None:
            return []
        forms = seen.forms
        # What a graph replays calls no hook.
        by_device = self._is_stepped and not self._is_captured
        self._is_stepped = False
        large = [
            one
            for one in ours
            if (by_device if forms.is_filled[one] else forms.bytes[one] >= _BYTES_MIN and forms.as_it_lies[one])
        ]
        lasting = _places(self._state) if large else frozenset()
        return [one for one in large if (seen.addresses[one], forms.bytes[one]) in lasting]

    def watch(
        self,
        copying: _forebay.Copying,
        later: Mapping[str, Any],
        filling: Filling | None,
        *,
        is_on_host: bool,
    ) -> None:
        """Keeps what is copied, by its names, until it is, and vouches for it."""
        if not later and filling is None:
            return
        self._watched = _Watched(copying, later, filling, is_on_host)
        if self._watcher is None:
            self._watcher = SimpleQueue()
            # Whoever ends the process waits for the save, and the save for this.
            threading.Thread(
                target=_judge_all, args=(self._watcher,), name="forebay-copying", daemon=True
            ).start()
        self._watcher.put(self._watched)

    def _before_step(self) -> None:
        """What an optimizer's step waits for."""
        self._is_stepped = True
        self._is_captured = self._is_captured or is_capturing()
        if self._watched is None or self._is_captured or not self._watched.hold_back():
            self.settle()

    def settle(self) -> None:
        """Waits until nothing is being copied."""
        watched, self._watched = self._watched, None
        if watched is not None:
            self._broken = watched.judge() or self._broken

    def take_broken(self, alone: bool) -> bool:
        """Whether a save was dropped since this was last asked; then nothing is overlapped any more.

        A rank among others cannot drop a save that they go on with: it raises :class:`InvalidError`.
        """
        if self._watched is not None and self._watched.changed is not None:
            self.settle()
        if self._broken is None:
            return False
        changed = f"{self._broken} changed outside of an optimizer's step while a checkpoint was taken"
        self._broken = None
        self.close()
        if not alone:
            raise InvalidError(f"{changed}: make the checkpointer with overlap=False")
        warnings.warn(
            f"{changed}; that one is dropped, the next state is saved instead, and from now on every save "
            "copies all of the state at once (overlap=False)",
            stacklevel=4,
        )
        return True

    def close(self) -> None:
        """Waits, and takes the hook away."""
        self.settle()
        if self._watcher is not None:
            self._watcher.put(None)
            self._watcher = None
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


class _Watched:
    """A state that is being copied; whoever waits for it first judges it."""

    def __init__(
        self,
        copying: _forebay.Copying,
        later: Mapping[str, Any],
        filling: Filling | None,
        is_on_host: bool,
    ) -> None:
        self._copying = copying
        self._later: Mapping[str, Any] | None = later
        self._filling = filling
        #: Whether the engine copies any of it, which the host has to wait for.
        self._is_on_host = is_on_host
        self._versions: list[int] | None = list(map(_VERSION, later.values()))
        self._lock = threading.Lock()
        self._failure: Exception | None = None
        #: A tensor that changed while it was copied.
        self.changed: str | None = None

    def hold_back(self) -> bool:
        """Judges it, and has devices wait for the copy; false where the host has to, or nobody.

        What they are given from now on cannot change what is copied, whatever torch counts.
        """
        if self._filling is None or self._is_on_host or self._later is None:
            return False
        with self._lock:
            self._compare()
        self._filling.hold_back()
        return True

    def judge(self) -> str | None:
        """Waits until it is copied, and says whether it is what it was; names what is not.

        Raises what went wrong on a device.
        """
        try:
            if self._filling is not None:
                self._filling.wait()
                self._copying.filled()
        except Exception as error:
            self._fail(error)
        else:
            self._copying.wait()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._compare()
            later, self._later = self._later, None
            if later is not None:
                self._copying.settle(self.changed is None)
            return self.changed

    def _fail(self, error: Exception) -> None:
        """Drops the save."""
        with self._lock:
            if self._filling is not None:
                # A device that fails here too writes no more.
                with contextlib.suppress(Exception):
                    self._filling.drain()
            if self._later is not None:
                self._failure, self._later = error, None
                self._copying.settle(False)

    def _compare(self) -> None:
        """Notes what changed, the first time."""
        later, before = self._later, self._versions
        if later is not None and before is not None:
            self._versions = None
            same = map(int.__eq__, map(_VERSION, later.values()), before)
            self.changed = next((name for name, is_same in zip(later, same) if not is_same), None)


def _judge_all(waiting: SimpleQueue[_Watched | None]) -> None:
    """What the thread does that vouches for what was copied."""
    for watched in iter(waiting.get, None):
        # What went wrong, whoever waits is told.
        with contextlib.suppress(Exception):
            watched.judge()
        # Until the next one comes, nothing of this is kept.
        del watched


def _places(state: Any) -> set[tuple[int, int]]:
    """Where the tensors lie that change in an optimizer's step alone, and their bytes."""
    torch: Any = sys.modules["torch"]
    found = list(_lasting(state))
    module = sys.modules.get("torch.distributed.tensor")
    if module is not None:
        # Without a gradient the local part is looked up, and not computed.
        with torch.no_grad():
            found = [one.to_local() if isinstance(one, module.DTensor) else one for one in found]
    return set(zip(map(torch.Tensor.data_ptr, found), map(attrgetter("nbytes"), found)))


def _lasting(state: Any) -> Iterator[Any]:
    """The tensors in a state that change in an optimizer's step alone."""
    torch: Any = sys.modules["torch"]
    if isinstance(state, torch.nn.Module):
        # As `parameters`, without the names, which take most of its time; twice is no harm.
        for module in _modules(state):
            yield from filter(torch.is_tensor, module._parameters.values())
    elif isinstance(getattr(state, "param_groups", None), list):
        for group in state.param_groups:
            yield from group["params"]
        for held in state.state.values():
            yield from filter(torch.is_tensor, held.values())
    elif isinstance(state, Mapping):
        for part in state.values():
            yield from _lasting(part)
    elif isinstance(state, (list, tuple)):
        for part in state:
            yield from _lasting(part)


def _modules(module: Any) -> set[Any]:
    """A module and all that are in it."""
    found, left = {module}, [module]
    while left:
        inner = [one for one in left.pop()._modules.values() if one is not None and one not in found]
        found.update(inner)
        left += inner
    return found
