"""Jobs of three ranks that are killed with SIGKILL at random moments, and what they leave.

``FOREBAY_KILL_ROUNDS`` says how often, 1 if it is not set; `make checkpoint-kills` sets 50.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forebay
import pytest
import torch
from forebay import _forebay
from forebay._feed import LOCAL_BUDGET, open_engine
from forebay._share import share

SCRIPT = Path(__file__).parent / "scripts" / "train_ranks.py"
ROUNDS = int(os.environ.get("FOREBAY_KILL_ROUNDS", "1"))
PATIENCE_SECONDS = 180


def start(kind: str, lake: Path, folder: Path, ranks: int, steps: int, mode: str) -> Any:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "lake").mkdir(parents=True, exist_ok=True)
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    launcher += [f"--nproc-per-node={ranks}", f"--master-port={port}"]
    arguments = [kind, lake, folder, steps, mode]
    return subprocess.Popen(
        [*launcher, SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(job: Any) -> None:
    said, _ = job.communicate(timeout=PATIENCE_SECONDS)
    assert job.returncode == 0, said


def losses(folder: Path, ranks: int) -> list[tuple[int, str]]:
    file = folder / f"losses-{ranks}"
    lines = file.read_text().splitlines() if file.exists() else []
    # The last line may be cut off.
    pairs = [line.split() for line in lines]
    return [(int(pair[0]), pair[1]) for pair in pairs if len(pair) == 2 and "p" in pair[1]]


def kill(job: Any, folder: Path, before: int, chance: random.Random) -> None:
    """Kills launcher and ranks, at once and at any moment after the first step of this launch."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(losses(folder, 3)) == before:
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()[0]
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.4))
    job.kill()
    for file in folder.glob("pid-*"):
        try:
            os.kill(int(file.name.removeprefix("pid-")), signal.SIGKILL)
        except ProcessLookupError:
            pass
        file.unlink()
    job.communicate()


# A launch of three ranks takes a quarter of a minute: one kind will do where nobody asked for more.
@pytest.mark.parametrize("kind", ["fsdp", "ddp"] if ROUNDS > 1 else ["fsdp"])
def test_a_killed_job_goes_on_bit_for_bit_and_with_any_world_size(
    kind: str, lake: Path, tmp_path: Path
) -> None:
    chance = random.Random(f"{kind} {ROUNDS}")
    folder = tmp_path / "killed"
    for round in range(ROUNDS):
        job = start(kind, lake, folder, 3, 1 << 30, "train")
        kill(job, folder, len(losses(folder, 3)), chance)
        if round % 5 == 0:
            # Another world size restores the same bits at the same place of the data.
            finish(start(kind, lake, folder, 1 + round // 5 % 2, 0, "look"))
    end = max(step for step, _ in losses(folder, 3)) + 3
    finish(start(kind, lake, folder, 3, end, "train"))
    finish(start(kind, lake, tmp_path / "whole", 3, end, "train"))
    whole = losses(tmp_path / "whole", 3)
    assert [step for step, _ in whole] == list(range(end))
    assert {step for step, _ in losses(folder, 3)} == set(range(end))
    # A step that was thrown away and taken again gives the same loss, too.
    assert set(losses(folder, 3)) == set(whole)
    for ranks in (1, 2):
        for step, loss in losses(folder, ranks):
            assert float.fromhex(loss) == pytest.approx(float.fromhex(dict(whole)[step]), rel=1e-4)
    check_leftovers(folder)


def check_leftovers(folder: Path) -> None:
    """Nothing staged, and of checkpoints what the commits name."""
    assert not [path for path in (folder / "local" / "staging").rglob("*") if path.is_file()]
    checkpoints = folder / "lake" / "runs" / "run" / "checkpoints"
    objects = [path.relative_to(checkpoints) for path in checkpoints.rglob("*") if path.is_file()]
    steps = sorted({path.parts[0] for path in objects})
    assert len(steps) == 2
    # The commit, and of each rank a record and its tensors.
    assert len(objects) == 2 * (1 + 2 * 3), sorted(objects)


def test_what_ranks_hold_alike_is_written_once_and_shared_out() -> None:
    def said(*names: str) -> list[list[Any]]:
        return [[name, "F32", [4], None, 16] for name in names]

    ours = share([said("a", "b", "c"), said("a", "b", "d")])
    written = [{"abc"[index] for index in ours[0]}, {"abd"[index] for index in ours[1]}]
    assert written[0] | written[1] == {"a", "b", "c", "d"} and not written[0] & written[1]
    assert abs(len(written[0]) - len(written[1])) == 0
    parts = [[["w", "F32", [2], [[4], [2 * rank]], 8]] for rank in range(2)]
    assert share(parts) == [frozenset({0}), frozenset({0})]


def test_a_rank_that_drops_its_save_tells_those_that_wait_for_it(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "lake", tmp_path / "local", LOCAL_BUDGET)
    values = torch.arange(8.0)
    address, copyings, ranks = values.data_ptr(), [], []
    for rank in range(2):
        native = engine.checkpointer(
            run="run",
            rank=rank,
            world_size=2,
            launch="one",
            settings=json.dumps({"commit_wait_seconds": 60}),
            dataset=None,
        )
        plan = _forebay.StatePlan([(f"w.{rank}", "F32", [8], None, 32)])
        copyings.append(native.save(1, plan, [address], "{}", 1)[1])
        ranks.append(native)
    for copying, is_intact in zip(copyings, [True, False]):
        copying.wait()
        copying.settle(is_intact)
    # It was told already, and says nothing again.
    assert json.loads(ranks[1].wait()) == []
    with pytest.raises(forebay.UnavailableError, match="rank 1 gave its part up .its state changed"):
        ranks[0].wait()
    assert engine.checkpoint("run") is None
