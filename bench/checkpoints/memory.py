"""The peak memory of a process and what it started, watched by a process of its own: one that saves may hold the GIL.

Counted is what the kernel cannot drop: anonymous and shared pages, /dev/shm among them; mapped files are the page
cache. A lone process is asked for its counters every few milliseconds. Where it has children, pages that several of
them map are shared out between them (`smaps_rollup`), which takes the kernel some milliseconds more for each GiB.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

EVERY_SECONDS = 0.003


class Peak:
    """`bytes`, after the block: the most that was held in it beyond what was held when it began."""

    bytes = 0

    def __enter__(self) -> Peak:
        command = [sys.executable, "-S", __file__, str(os.getpid())]
        self.watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.watcher.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        # A line, not an end: a process that was forked meanwhile keeps the pipe open.
        self.bytes = int(self.watcher.communicate("end\n")[0])


def watch(pid: int) -> None:
    """Says so when it has begun, and the peak when it is given a line."""
    before = peak = held(pid)
    print("watching", flush=True)
    while not select.select([0], [], [], EVERY_SECONDS)[0]:
        peak = max(peak, held(pid))
    print(peak - before)


def held(pid: int) -> int:
    tree = [pid, *(child for child in descendants(pid) if child != os.getpid())]
    if len(tree) == 1:
        return counted(Path(f"/proc/{pid}/status"), ("RssAnon:", "RssShmem:"))
    return sum(counted(Path(f"/proc/{one}/smaps_rollup"), ("Pss_Anon:", "Pss_Shmem:")) for one in tree)


def counted(file: Path, names: tuple[str, ...]) -> int:
    """The sum of such lines; nothing of a process that has ended."""
    try:
        lines = file.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(names))


def descendants(pid: int) -> list[int]:
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in file.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += children + [below for child in children for below in descendants(child)]
    return found


if __name__ == "__main__":
    watch(int(sys.argv[1]))
