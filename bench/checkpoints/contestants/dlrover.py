"""DLRover's flash checkpoint, without its agent or a master: outside of `dlrover-run` the checkpointer starts its saver
as a process of its own, which writes to disk what the call copied into shared memory.

While that process lives a restore is a view of the shared memory, which is copied into the live state here, so that
the next save does not overwrite it. A restart here reads the file: run.py removes the shared memory and the sockets,
which outlive both processes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from dlrover.python.common.multi_process import SharedQueue
from dlrover.python.common.storage import KeepLatestStepStrategy
from dlrover.trainer.torch.flash_checkpoint.ddp import DdpCheckpointer, StorageType
from dlrover.trainer.torch.flash_checkpoint.engine import CheckpointEngine, start_saver_process

from contestants.torch_save import TorchSave

POLL_SECONDS = 0.002
LIMIT_SECONDS = 300.0


class DLRover(TorchSave):
    LABEL = "DLRover flash checkpoint"
    PACKAGES = ("dlrover", "torch")

    def __init__(self, folder: Path, model: Any, optimizer: Any) -> None:
        super().__init__(folder, model, optimizer)
        # The checkpointer would start it too, but its first message is lost where it comes before the saver listens.
        CheckpointEngine.saver_proc = start_saver_process()
        queue = SharedQueue(name="factory")
        while not queue.is_available() or queue.qsize() < 0:
            time.sleep(POLL_SECONDS)
        # It removes the oldest as soon as there are so many.
        keep = KeepLatestStepStrategy(2, str(folder))
        self.checkpointer = DdpCheckpointer(str(folder), deletion_strategy=keep)
        self.taken = 0

    def save(self) -> None:
        self.taken += 1
        # A save is passed over in silence while its saver still tidies up after the one before.
        while self.checkpointer._engine.latest_step != self.taken:
            self.checkpointer.save_checkpoint(self.taken, self.flat(), storage_type=StorageType.DISK)

    def settle(self) -> tuple[float, float] | None:
        """Its own wait looks every three seconds; this one looks into the same file."""
        newest, deadline = self.folder / "dlrover_latest.txt", time.monotonic() + LIMIT_SECONDS
        while not newest.exists() or newest.read_text() != str(self.taken):
            if time.monotonic() > deadline:
                raise TimeoutError(f"step {self.taken} was not written")
            time.sleep(POLL_SECONDS)
        return super().settle()

    def restore(self) -> None:
        self.take(self.checkpointer.load_checkpoint())

    def close(self) -> None:
        """Its saver is a daemon."""
