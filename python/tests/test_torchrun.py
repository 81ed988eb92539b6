"""Jobs under torchrun that are killed and go on with another world size."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import forebay

from conftest import OpenFeed, ids_of

SCRIPT = Path(__file__).parent / "scripts" / "train.py"
PATIENCE_SECONDS = 180


def torchrun(lake: Path, folder: Path, processes: int, steps: int, dies_at: int) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes}",
        f"--master-port={port}",
    ]
    arguments = [lake, folder, folder / "local", steps, dies_at]
    done = subprocess.run(
        [*launcher, SCRIPT, *map(str, arguments)],
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return done.returncode


def seen(folder: Path, step: int, world_size: int) -> list[str]:
    ranks = [
        json.loads((folder / f"step-{step}-rank-{rank}-of-{world_size}.json").read_text())
        for rank in range(world_size)
    ]
    return [ranks[i % world_size][i // world_size] for i in range(12)]


def test_two_then_three_then_one_process_see_each_sample_once_in_order(
    lake: Path, tmp_path: Path, open_feed: OpenFeed
) -> None:
    unbroken = open_feed(global_batch_size=12, seed=5)
    steps = unbroken.steps_per_epoch + 3
    deaths = {2: 4, 3: 9}
    for processes, dies_at in [*deaths.items(), (1, -1)]:
        code = torchrun(lake, tmp_path, processes, steps, dies_at)
        assert (code == 0) == (dies_at < 0)
    whole = ids_of(unbroken, steps)
    found: list[list[str]] = []
    for step in range(steps):
        world_size = 2 if step <= 4 else 3 if step <= 9 else 1
        found.append(seen(tmp_path, step, world_size))
    assert found == whole
    epoch = [id for ids in found[: unbroken.steps_per_epoch] for id in ids]
    assert len(set(epoch)) == len(epoch) == unbroken.rows // 12 * 12
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["step"], state["epoch"], state["samples_in_epoch"]) == (steps, 1, 3 * 12)
    assert isinstance(unbroken, forebay.Feed)
