"""A job of several ranks under DDP or FSDP2 that saves every other step, until somebody kills it.

Rank 0 appends the loss of each global step to a file. At each start every rank checks that its feed
stands where the weights do, and that the weights are those of the checkpoint, however it is laid out
over ranks. With `look` it takes one step, goes back to the checkpoint, which it reads into the memory
that it has, and leaves, without a save.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import forebay
import torch
import torch.distributed as distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

BATCH = 12


def build(kind: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model: Any = torch.nn.Sequential(
        torch.nn.Embedding(256, 6), torch.nn.Flatten(), torch.nn.Linear(6 * 64, 31),
        torch.nn.GELU(), torch.nn.Linear(31, 256),
    )  # fmt: skip
    if kind == "fsdp":
        for part in (model[2], model[4], model):
            fully_shard(part)
    else:
        # Without it the first backward pass of a process sums gradients in another order than the rest
        # (buckets are laid out anew after it), which three ranks see in the last bit.
        model = DistributedDataParallel(model, find_unused_parameters=True)
    return model, torch.optim.AdamW(model.parameters(), lr=3e-3)


def digest(state: dict[Any, Any]) -> str:
    """The digest of every tensor of a state, whole."""
    sha256 = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for one in value.values():
                add(one)
        elif isinstance(value, torch.Tensor):
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            sha256.update(whole.detach().contiguous().numpy().tobytes())

    add(state)
    return sha256.hexdigest()


def places(*objects: Any) -> list[int]:
    """Where the parts of the tensors lie that this rank has of the states of modules and optimizers."""
    found = []
    for one in objects:
        state = one.state_dict()
        for held in state["state"].values() if "state" in state else [state]:
            parts = [part.to_local() if isinstance(part, DTensor) else part for part in held.values()]
            found += [part.data_ptr() for part in parts]
    return found


def check(folder: str, model: Any, optimizer: Any, step: int) -> None:
    """Weights and moments are those of the checkpoint of this step."""
    stored = forebay.load_checkpoint(
        Path(folder, "lake"), "run", step=step, local=Path(folder, "local"), names=["model", "optimizer"]
    )
    assert digest(model.state_dict()) == digest(stored["model"])
    assert digest(optimizer.state_dict()["state"]) == digest(stored["optimizer"]["state"])


def main() -> None:
    kind, lake, folder, steps, mode = sys.argv[1:]
    distributed.init_process_group("gloo")
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    Path(folder, f"pid-{os.getpid()}").touch()
    local = Path(folder, "local")
    feed = forebay.feed(lake, "text", global_batch_size=BATCH, seed=5, local=local)
    model, optimizer = build(kind)
    state = {"model": model, "optimizer": optimizer, "feed": feed}
    checkpointer = forebay.Checkpointer(
        Path(folder, "lake"), run="run", state=state, interval=2, keep_last=2, local=local
    )
    inner = getattr(model, "module", model)
    before = places(inner)
    start = checkpointer.resume()
    assert feed.step == start, (feed.step, start)
    assert places(inner) == before
    if start:
        check(folder, inner, optimizer, start)
    end = start + 1 if mode == "look" else int(steps)
    for step in range(start, end):
        tokens = next(feed)["tokens"][:, :65].long() % 256
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]), tokens[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() * len(tokens) / BATCH
        distributed.all_reduce(mean)
        if rank == 0:
            with Path(folder, f"losses-{world_size}").open("a") as file:
                file.write(f"{step} {mean.item().hex()}\n")
        if mode != "look":
            checkpointer.step(step, metrics={"loss": mean})
    if mode == "look" and start:
        before = places(inner, optimizer)
        assert checkpointer.resume(start) == start == feed.step
        assert places(inner, optimizer) == before
        check(folder, inner, optimizer, start)
    checkpointer.wait()
    distributed.barrier()
    if rank == 0 and mode == "train":
        # Nobody else writes: what no commit names is of no use any more.
        checkpointer.sweep(older_than=1e-3)
    checkpointer.close()
    distributed.destroy_process_group()


main()
