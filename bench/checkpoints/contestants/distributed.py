"""torch.distributed.checkpoint in a process of one rank; and its asynchronous saves, with memory for staging that is
kept from save to save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from contestants.torch_save import TorchSave


class Distributed(TorchSave):
    LABEL = "torch.distributed.checkpoint"

    @property
    def saved(self) -> Path:
        return self.folder / "dcp"

    def save(self) -> None:
        dcp.save(self.state(), checkpoint_id=self.saved, no_dist=True)

    def restore(self) -> None:
        state = self.state()
        dcp.load(state, checkpoint_id=self.saved, no_dist=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


class Asynchronous(Distributed):
    LABEL = "the same, `async_save`, staging kept"

    def __init__(self, folder: Path, model: Any, optimizer: Any) -> None:
        super().__init__(folder, model, optimizer)
        self.stager = DefaultStager(StagingOptions(False, False, False, False))
        self.future: Any = None

    def save(self) -> None:
        self.settle()
        self.future = dcp.async_save(self.state(), checkpoint_id=self.saved, no_dist=True, async_stager=self.stager)

    def settle(self) -> tuple[float, float] | None:
        if self.future is None:
            return None
        self.future.result()
        self.future = None
        return super().settle()
