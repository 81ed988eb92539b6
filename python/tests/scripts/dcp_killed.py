"""Saves steps without end through ``dcp.async_save``, and kills itself so long after the third began."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from forebay.dcp import StorageWriter


def main() -> None:
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    writer = StorageWriter(folder / "lake", "run", local=folder / "local")
    weight = torch.empty(1 << 20)
    for step in range(1, 100):
        weight.fill_(step)
        if step == 3:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        future = dcp.async_save({"weight": weight, "step": step}, checkpoint_id=step, storage_writer=writer)
        weight.fill_(-1)
        future.result()


main()
