"""Orbax: its manager with asynchronous saves, which keeps the newest step. It is given the tensors' memory as numpy
arrays, copies those in the call, and writes in the background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import orbax.checkpoint as orbax
import torch

from contestants.torch_save import TorchSave


class Orbax(TorchSave):
    LABEL = "Orbax, asynchronous"
    PACKAGES = ("orbax-checkpoint", "jax")

    def __init__(self, folder: Path, model: Any, optimizer: Any) -> None:
        super().__init__(folder, model, optimizer)
        options = orbax.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=True)
        self.manager = orbax.CheckpointManager(folder.resolve(), options=options)
        self.taken = 0

    def arrays(self) -> dict[str, numpy.ndarray]:
        return {name: one.detach().numpy() for name, one in self.flat().items()}

    def save(self) -> None:
        self.taken += 1
        self.manager.save(self.taken, args=orbax.args.StandardSave(self.arrays()))

    def settle(self) -> tuple[float, float] | None:
        self.manager.wait_until_finished()
        return super().settle()

    def restore(self) -> None:
        wanted = orbax.args.StandardRestore(self.arrays())
        restored = self.manager.restore(self.manager.latest_step(), args=wanted)
        self.take({name: torch.from_numpy(one) for name, one in restored.items()})

    def close(self) -> None:
        self.manager.close()
