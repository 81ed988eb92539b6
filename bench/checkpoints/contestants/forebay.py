"""Forebay as its users call it: `step`, and everything durable when `settle` returns. The one file to change when its
interface changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forebay

RUN = "run"


class Overlapped:
    LABEL = "forebay"
    PACKAGES = ("torch",)
    overlap = True
    memory: int | None = None

    def __init__(self, folder: Path, model: Any, optimizer: Any, lake: str | None = None) -> None:
        self.folder = folder
        if lake is None:
            self.saved.mkdir(parents=True, exist_ok=True)
        self.taken = 0
        self.checkpointer = forebay.Checkpointer(
            lake or self.saved, run=RUN, state={"model": model, "optimizer": optimizer},
            local=folder / "local", interval=1, keep_last=1, overlap=self.overlap, memory=self.memory,
        )  # fmt: skip

    @property
    def saved(self) -> Path:
        return self.folder / "lake"

    def save(self) -> None:
        self.checkpointer.step(self.taken)
        self.taken += 1

    def settle(self) -> tuple[float, float] | None:
        report = self.checkpointer.wait()[-1]
        return 1e3 * report["stage_seconds"], 1e3 * report["durable_seconds"]

    def restore(self) -> None:
        self.checkpointer.resume()

    def close(self) -> None:
        self.checkpointer.close()


class AtOnce(Overlapped):
    LABEL = "forebay, `overlap=False`"
    overlap = False


class Streamed(Overlapped):
    LABEL = "forebay, `memory=0`"
    memory = 0
