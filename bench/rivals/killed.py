"""Kills a contestant with SIGKILL in mid-epoch and says what is left: processes, shared memory, files.

Best run as the first process of its own namespaces (`unshare --map-root-user --mount --pid --fork --mount-proc`), as
run.py does where it may: /dev/shm is then a private one, every process that survives is the contestant's, and all of
it vanishes with this process. Without them /dev/shm is compared before and after, so other programs can blur it;
nothing there is removed, because it might be theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
START_SECONDS = 120.0
SETTLE_SECONDS = 8.0  # a DataLoader worker looks for its parent every 5 s


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--ready", type=Path, required=True)
    parser.add_argument("--watch", type=Path, nargs="+", required=True)
    parser.add_argument("--private", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.private:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(SHARED_MEMORY)], check=True)
    result = kill_and_look(arguments)
    arguments.output.write_text(json.dumps(result))
    return 0


def kill_and_look(arguments) -> dict:
    command = arguments.command[1:] if arguments.command[0] == "--" else arguments.command
    memory_before, files_before = entries(SHARED_MEMORY), files(arguments.watch)
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + START_SECONDS
    while not arguments.ready.exists():
        if process.poll() is not None:
            return {"error": "ended before it could be killed"}
        if time.monotonic() > deadline:
            kill(process.pid)
            process.wait()
            return {"error": f"not half way after {START_SECONDS:.0f} s"}
        time.sleep(0.05)
    time.sleep(0.3)
    started = descendants(process.pid)
    kill(process.pid)
    process.wait()
    settle = time.monotonic() + SETTLE_SECONDS
    while any(alive(pid) for pid in started) and time.monotonic() < settle:
        time.sleep(0.2)
    left = [pid for pid in started if alive(pid)]
    result = {
        "processes_before": len(started) + 1,
        "processes": len(left),
        "shared_memory": len(entries(SHARED_MEMORY) - memory_before),
        "shared_memory_bytes": sum(size(SHARED_MEMORY / n) for n in entries(SHARED_MEMORY) - memory_before),
        "files": sorted(Path(f).name for f in files(arguments.watch) - files_before)[:20],
        "private": arguments.private,
    }
    for pid in left:
        kill(pid)
    return result


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def alive(pid: int) -> bool:
    """Whether a process still runs; one that ended and waits for its parent does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def entries(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()} if directory.is_dir() else set()


def files(directories: list[Path]) -> set[str]:
    return {str(path) for directory in directories for path in directory.rglob("*") if path.is_file()}


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
