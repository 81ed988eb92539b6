"""Saves and restores one training state with Forebay and with what people use today, in turns.

For each contestant, in milliseconds over the rounds (median): *pause*, how long the training thread
stands still for a save; *durable*, from the start of that save until it is on disk; *restore*, into a
live model and optimizer. Beside them a copy of the same bytes on one thread into warm memory, the
floor of any capture. The page cache is warm; what is asynchronous is waited for before the next save.
Needs torch and forebay.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forebay
import torch
import torch.distributed.checkpoint as dcp


def build(mebibytes: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model whose weights and moments take so much together, after one step."""
    side = 1024
    layers = max(1, (mebibytes << 20) // (3 * 4 * side * side))
    model = torch.nn.Sequential(*(torch.nn.Linear(side, side, bias=False) for _ in range(layers)))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


class TorchSave:
    def __init__(self, folder: Path, model: Any, optimizer: Any) -> None:
        self.folder, self.model, self.optimizer = folder, model, optimizer
        self.file = folder / "state.pt"

    def save(self) -> None:
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, self.file)

    def settle(self) -> None:
        sync(self.folder)

    def restore(self) -> None:
        state = torch.load(self.file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


class Distributed(TorchSave):
    """torch.distributed.checkpoint in a process of one rank."""

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def save(self) -> None:
        dcp.save(self.state(), checkpoint_id=self.folder / "dcp", no_dist=True)

    def restore(self) -> None:
        state = self.state()
        dcp.load(state, checkpoint_id=self.folder / "dcp", no_dist=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


class Forebay:
    def __init__(self, folder: Path, model: Any, optimizer: Any) -> None:
        (folder / "lake").mkdir(parents=True)
        self.step = 0
        self.checkpointer = forebay.Checkpointer(
            folder / "lake", run="run", state={"model": model, "optimizer": optimizer},
            local=folder / "local", interval=None, keep_last=1,
        )  # fmt: skip

    def save(self) -> None:
        self.step += 1
        self.checkpointer.save(self.step)

    def settle(self) -> None:
        self.checkpointer.wait()

    def restore(self) -> None:
        self.checkpointer.resume()


CONTESTANTS: dict[str, Callable[..., Any]] = {
    "forebay": Forebay,
    "torch.save": TorchSave,
    "torch.distributed.checkpoint": Distributed,
}


def timed(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="directory for data")
    parser.add_argument("--mebibytes", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model, optimizer = build(arguments.mebibytes)
    tensors = [one for state in optimizer.state.values() for one in state.values()]
    tensors += list(model.parameters())
    total = sum(one.nbytes for one in tensors)
    copies = [torch.empty_like(one) for one in tensors]

    def copy() -> None:
        with torch.no_grad():
            for into, one in zip(copies, tensors):
                into.copy_(one)

    copy()
    opened = {}
    for name, make in CONTESTANTS.items():
        folder = arguments.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        opened[name] = make(folder, model, optimizer)
    first = {}
    for name, one in opened.items():
        first[name] = timed(one.save)
        one.settle()
    found: dict[str, dict[str, list[float]]] = {
        name: {"pause": [], "durable": [], "restore": []} for name in opened
    }
    floors = []
    threads = torch.get_num_threads()
    for _ in range(arguments.rounds):
        torch.set_num_threads(1)
        floors.append(timed(copy))
        torch.set_num_threads(threads)
        for name, one in opened.items():
            start = time.perf_counter()
            found[name]["pause"].append(timed(one.save))
            one.settle()
            found[name]["durable"].append((time.perf_counter() - start) * 1e3)
            found[name]["restore"].append(timed(one.restore))
    print(f"{total / 2**20:.0f} MiB, {arguments.rounds} rounds, {os.cpu_count()} cores")
    print(f"copy on one thread: {statistics.median(floors):.0f} ms\n")
    print("| contestant | first pause | pause | of the copy | durable | restore |\n|---|---|---|---|---|---|")
    for name, times in found.items():
        pause, durable, restore = (statistics.median(times[key]) for key in ("pause", "durable", "restore"))
        ratio = statistics.median(a / b for a, b in zip(times["pause"], floors))
        print(f"| {name} | {first[name]:.0f} ms | {pause:.0f} ms | {ratio:.2f} | {durable:.0f} ms | {restore:.0f} ms |")
    for name in opened:
        shutil.rmtree(arguments.work / name, ignore_errors=True)


main()
