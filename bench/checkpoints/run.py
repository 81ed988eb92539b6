"""Saves and restores one training state with Forebay and with what people use today, in turns.

For each contestant, in milliseconds over the rounds (median):

*pause*     how long the training thread stands still: in the call that saves, and before the optimizer's
            step for what is still being copied
*lost*      how much longer a save and the training step after it take than that step alone, which is
            matrix products on one thread, and AdamW: the pause, and what the background takes away
*node*      from the start of a save, with nothing beside it, until a copy is durable on this node
*durable*   the same, until it cannot be lost: for Forebay a second copy, in the lake, and its commit
*restore*   into a live model and optimizer; Forebay from the lake, every tensor verified

Every save is of a state that changed. Beside them a copy of the same bytes on one thread into warm
memory: the floor of a capture that is not overlapped. The page cache is warm; what is asynchronous is
waited for before the next save. Needs torch, safetensors and forebay.
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
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions


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

    def await_copy(self) -> None:
        """Nothing is copied in the background."""

    def settle(self) -> float | None:
        """Waits until the save is on disk; says how many milliseconds after its capture it was on this
        node, where that is another moment."""
        sync(self.folder)
        return None

    def restore(self) -> None:
        state = torch.load(self.file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


class Safetensors(TorchSave):
    """One file of flat names; the optimizer's numbers stay with the caller, as its users do."""

    def flat(self) -> dict[str, torch.Tensor]:
        moments = self.optimizer.state_dict()["state"]
        flat = {f"model.{name}": one for name, one in self.model.state_dict().items()}
        return flat | {f"{at}.{key}": one for at, held in moments.items() for key, one in held.items()}

    def save(self) -> None:
        save_file(self.flat(), self.folder / "state.safetensors")

    def restore(self) -> None:
        state = load_file(self.folder / "state.safetensors")
        with torch.no_grad():
            for name, one in self.flat().items():
                one.copy_(state[name])


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


class Asynchronous(Distributed):
    """Its asynchronous saves, with memory for staging that is kept from save to save."""

    def __init__(self, folder: Path, model: Any, optimizer: Any) -> None:
        super().__init__(folder, model, optimizer)
        self.stager = DefaultStager(StagingOptions(False, False, False, False))
        self.future: Any = None

    def save(self) -> None:
        self.settle()
        self.future = dcp.async_save(
            self.state(), checkpoint_id=self.folder / "dcp", no_dist=True, async_stager=self.stager
        )

    def settle(self) -> float | None:
        if self.future is not None:
            self.future.result()
            self.future = None
        return super().settle()


class Forebay:
    """What users call: `step`, which overlaps, and everything durable when `settle` returns."""

    overlap = True

    def __init__(self, folder: Path, model: Any, optimizer: Any) -> None:
        (folder / "lake").mkdir(parents=True)
        self.taken = 0
        self.checkpointer = forebay.Checkpointer(
            folder / "lake", run="run", state={"model": model, "optimizer": optimizer},
            local=folder / "local", interval=1, keep_last=1, overlap=self.overlap,
        )  # fmt: skip

    def save(self) -> None:
        self.checkpointer.step(self.taken)
        self.taken += 1

    def await_copy(self) -> None:
        self.checkpointer._overlap.settle()

    def settle(self) -> float | None:
        return 1e3 * self.checkpointer.wait()[-1]["stage_seconds"]

    def restore(self) -> None:
        self.checkpointer.resume()


class NotOverlapped(Forebay):
    overlap = False


CONTESTANTS: dict[str, Callable[..., Any]] = {
    "forebay": Forebay,
    "forebay, overlap=False": NotOverlapped,
    "torch.save": TorchSave,
    "safetensors": Safetensors,
    "torch.distributed.checkpoint": Distributed,
    "the same, async_save": Asynchronous,
}


def timed(act: Callable[[], Any]) -> float:
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


class Training:
    """A training step of about so many milliseconds of computing, and the optimizer's."""

    def __init__(self, optimizer: Any, milliseconds: float) -> None:
        self.optimizer = optimizer
        self.inputs = torch.randn(1024, 1024)
        self.products = max(1, round(milliseconds / timed(self.multiply)))

    def multiply(self) -> None:
        self.inputs @ self.inputs

    def compute(self) -> None:
        for _ in range(self.products):
            self.multiply()

    def step(self) -> None:
        self.compute()
        self.optimizer.step()


def measure(one: Any, training: Training) -> dict[str, float]:
    alone = timed(training.step)
    start = time.perf_counter()
    pause = timed(one.save)
    training.compute()
    pause += timed(one.await_copy)
    training.optimizer.step()
    lost = (time.perf_counter() - start) * 1e3 - alone
    one.settle()
    training.optimizer.step()
    start = time.perf_counter()
    call = timed(one.save)
    staged = one.settle()
    durable = (time.perf_counter() - start) * 1e3
    return {
        "pause": pause,
        "lost": lost,
        "node": durable if staged is None else call + staged,
        "durable": durable,
        "restore": timed(one.restore),
    }


COLUMNS = ("pause", "lost", "node", "durable", "restore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="directory for data")
    parser.add_argument("--mebibytes", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, optimizer = build(arguments.mebibytes)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    tensors = [one for state in optimizer.state.values() for one in state.values()]
    tensors += list(model.parameters())
    total = sum(one.nbytes for one in tensors)
    copies = [torch.empty_like(one) for one in tensors]

    def copy() -> None:
        with torch.no_grad():
            for into, one in zip(copies, tensors):
                into.copy_(one)

    copy()
    floor = timed(copy)
    training = Training(optimizer, 4 * floor)
    opened = {}
    for name, make in CONTESTANTS.items():
        folder = arguments.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        opened[name] = make(folder, model, optimizer)
    first = {}
    for name, one in opened.items():
        first[name] = measure(one, training)["pause"]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in opened}
    floors = []
    for _ in range(arguments.rounds):
        floors.append(timed(copy))
        for name, one in opened.items():
            found[name].append(measure(one, training))
    floor = statistics.median(floors)
    print(f"{total / 2**20:.0f} MiB, {arguments.rounds} rounds, {os.cpu_count()} cores")
    print(f"copy on one thread: {floor:.0f} ms; a training step: {timed(training.step):.0f} ms\n")
    print(f"| contestant | first pause | of the copy | {' | '.join(COLUMNS)} |")
    print("|---" * (3 + len(COLUMNS)) + "|")
    for name, times in found.items():
        medians = {key: statistics.median(one[key] for one in times) for key in COLUMNS}
        row = [f"{medians[key]:.0f} ms" for key in COLUMNS]
        print(f"| {name} | {first[name]:.0f} ms | {medians['pause'] / floor:.2f} | {' | '.join(row)} |")
    for name in opened:
        shutil.rmtree(arguments.work / name, ignore_errors=True)


main()
