"""Copying the state while training goes on.

Parameters and the optimizers' state change in the optimizer's step and nowhere else. So a save copies
everything else at once and leaves those to threads of the engine; the next forward and backward pass
run meanwhile, and a hook before every optimizer's step waits for what is left.

Whether that held is checked: torch counts the changes of each tensor in place. A state that changed
while it was copied, in a script that writes its weights by itself, is dropped before it is stored
anywhere; the state after the next step is saved in its place, and nothing is overlapped any more. What
torch does not count, writes through ``.data``, is the one thing that must not happen outside of an
optimizer's step: such scripts say ``overlap=False``.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from . import _forebay
from ._errors import InvalidError
from ._tensors import Leaf, is_distributed

#: A smaller tensor is copied at once.
_BYTES_MIN = 64 << 10


class Overlap:
    """What of a state may be copied later, and the copying that is under way."""

    def __init__(self, state: Mapping[str, Any], enabled: bool) -> None:
        self._state = state
        self._watcher: threading.Thread | None = None
        self._broken: str | None = None
        self._hook: Any = None
        torch = sys.modules.get("torch")
        if enabled and torch is not None:
            from torch.optim.optimizer import register_optimizer_step_pre_hook

            self._hook = register_optimizer_step_pre_hook(lambda *_: self.settle())

    def split(self, leaves: list[Leaf]) -> tuple[list[Leaf], list[Leaf]]:
        """Those that are copied at once, and those that are copied later."""
        if self._hook is None:
            return leaves, []
        lasting = {_place(one) for one in _lasting(self._state)}
        now: list[Leaf] = []
        later: list[Leaf] = []
        for leaf in leaves:
            large = leaf.bytes >= _BYTES_MIN and hasattr(leaf.value, "untyped_storage")
            as_it_lies = large and leaf.value.device.type == "cpu" and leaf.value.is_contiguous()
            # What is yet to be conjugated or negated does not lie there as it is.
            as_it_lies = as_it_lies and not (leaf.value.is_conj() or leaf.value.is_neg())
            (later if as_it_lies and _place(leaf.value) in lasting else now).append(leaf)
        return now, later

    def watch(self, copying: _forebay.Copying, later: list[Leaf]) -> None:
        """Keeps what is copied until it is, and vouches for it."""
        if not later:
            return
        versions = [leaf.value._version for leaf in later]

        def watch() -> None:
            copying.wait()
            changed = [
                leaf.name for leaf, version in zip(later, versions) if leaf.value._version != version
            ]
            copying.settle(not changed)
            if changed:
                self._broken = changed[0]

        # No daemon: a script that ends waits for what it saved.
        self._watcher = threading.Thread(target=watch, name="forebay-copying")
        self._watcher.start()

    def settle(self) -> None:
        """Waits until nothing is being copied."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.join()

    def take_broken(self, alone: bool) -> bool:
        """Whether a save was dropped since this was last asked; then nothing is overlapped any more.

        A rank among others cannot drop a save that they go on with: it raises :class:`InvalidError`.
        """
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
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def _place(value: Any) -> tuple[int, int]:
    return int(value.data_ptr()), int(value.nbytes)


def _lasting(state: Any) -> Iterator[Any]:
    """The tensors in a state that change in an optimizer's step alone."""
    torch: Any = sys.modules["torch"]
    if isinstance(state, torch.nn.Module):
        found: Any = state.parameters()
    elif isinstance(getattr(state, "param_groups", None), list):
        found = [one for group in state.param_groups for one in group["params"]]
        found += [one for held in state.state.values() for one in held.values() if torch.is_tensor(one)]
    elif isinstance(state, Mapping):
        found = (one for part in state.values() for one in _lasting(part))
    elif isinstance(state, (list, tuple)):
        found = (one for part in state for one in _lasting(part))
    else:
        return
    for one in found:
        yield one.to_local() if is_distributed(one) else one
