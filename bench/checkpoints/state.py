"""The training state that every contestant saves, and the training beside which it does so.

The same seed gives the same state in every process, so a restart begins with another state than the one it restores.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import torch

SEED = 7
SIDE = 1024


class State:
    """A model whose weights and AdamW moments take so much together, after one step."""

    def __init__(self, mebibytes: int, layers_min: int = 1) -> None:
        torch.manual_seed(SEED)
        side = SIDE
        while layers(mebibytes, side) < layers_min:
            side //= 2
        count = max(1, layers(mebibytes, side))
        self.model = torch.nn.Sequential(*(torch.nn.Linear(side, side, bias=False) for _ in range(count)))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.give_gradients()
        self.optimizer.step()

    def give_gradients(self) -> None:
        """Random ones: moments of equal gradients would compress as no training's do."""
        for parameter in self.model.parameters():
            parameter.grad = 1e-3 * torch.randn_like(parameter)

    def freeze(self, share: float) -> int:
        """Leaves gradients, and so changes, to this share of the layers; returns the bytes that a step changes."""
        parameters = list(self.model.parameters())
        kept = parameters[: max(1, round(share * len(parameters)))]
        for parameter in parameters[len(kept) :]:
            parameter.grad = None
        held = [one for parameter in kept for one in self.optimizer.state[parameter].values()]
        return sum(one.nbytes for one in kept + held)

    def tensors(self) -> list[torch.Tensor]:
        """The large ones first."""
        held = [one for values in self.optimizer.state.values() for one in values.values()]
        return sorted([*self.model.parameters(), *held], key=lambda one: -one.nbytes)

    @property
    def bytes(self) -> int:
        return sum(one.nbytes for one in self.tensors())

    def digest(self) -> str:
        """Of the bits of every tensor, summed: a state of another step has another."""
        held = self.optimizer.state
        named = [(parameter, *held[parameter].values()) for parameter in self.model.parameters()]
        sums = [int(one.detach().view(torch.int32).sum()) for group in named for one in group]
        return hashlib.sha256(repr(sums).encode()).hexdigest()


def layers(mebibytes: int, side: int) -> int:
    """Of `side` squared weights and two moments each, in 4 bytes."""
    return (mebibytes << 20) // (3 * 4 * side * side)


def timed(act: Callable[[], Any]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


class Training:
    """A training step of about so many milliseconds of computing, and the optimizer's."""

    def __init__(self, optimizer: Any, milliseconds: float) -> None:
        self.optimizer = optimizer
        # It runs after the hooks that libraries give to all optimizers, so it knows when those let the step begin.
        optimizer.register_step_pre_hook(lambda *_: self.begin())
        self.inputs = torch.randn(SIDE, SIDE)
        self.multiply()
        self.products = max(1, round(milliseconds / timed(self.multiply)))
        self.begun = 0.0

    def multiply(self) -> None:
        self.inputs @ self.inputs

    def begin(self) -> None:
        self.begun = time.perf_counter()

    def step(self) -> float:
        """Returns how many milliseconds the optimizer's step had to wait for what is still being copied."""
        for _ in range(self.products):
            self.multiply()
        asked = time.perf_counter()
        self.optimizer.step()
        return (self.begun - asked) * 1e3
