"""A job of any world size that keeps its state with each step, as a training loop does.

For each step, rank by rank, it writes the samples it saw; after all have, rank 0 replaces the state
in one go. Killed anywhere, it goes on from the last state.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import forebay
import torch.distributed as distributed


def replace(path: Path, value: object) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(value))
    os.replace(partial, path)


def main() -> None:
    lake, folder, local, steps, dies_at = sys.argv[1:]
    distributed.init_process_group("gloo")
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    # Rank and world size are those of torch.distributed.
    feed = forebay.feed(lake, "text", global_batch_size=12, seed=5, local=local)
    assert (feed.rank, feed.world_size) == (rank, world_size)
    state = Path(folder, "state.json")
    if state.exists():
        feed.load_state_dict(json.loads(state.read_text()))
    while feed.step < int(steps):
        step = feed.step
        next(feed)
        replace(Path(folder, f"step-{step}-rank-{rank}-of-{world_size}.json"), feed.last_ids)
        distributed.barrier()
        if rank == 0:
            replace(state, feed.state_dict())
        if step == int(dies_at):
            os.kill(os.getpid(), 9)
        distributed.barrier()
    distributed.destroy_process_group()


main()
