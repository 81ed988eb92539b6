"""What a contestant has in its folder: made durable, dropped from the page cache, and counted."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from memory import descendants

PAGE_BYTES = mmap.PAGESIZE


def found(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def sync(folder: Path) -> None:
    """Makes all of it durable, the names too; older saves may be removed meanwhile."""
    for path in [folder, *folder.rglob("*")]:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def drop(folder: Path) -> float:
    """Drops all of it from the page cache; returns the share that stayed, which what somebody maps does."""
    sync(folder)
    total = stayed = 0
    for path in found(folder):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        total += path.stat().st_size
        stayed += cached(path)
    return stayed / max(total, 1)


def cached(path: Path) -> int:
    """Bytes of a file that lie in the page cache."""
    length = path.stat().st_size
    if not length:
        return 0
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY)
    pages = (ctypes.c_ubyte * -(-length // PAGE_BYTES))()
    place = (ctypes.c_char * length).from_buffer(mapped)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(ctypes.byref(place), ctypes.c_size_t(length), pages):
        raise OSError(ctypes.get_errno(), f"mincore of {path}")
    return PAGE_BYTES * sum(page & 1 for page in pages)


def versions(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Each file's inode, time of change and size."""
    states = ((path, path.stat()) for path in found(folder))
    return {path: (state.st_ino, state.st_mtime_ns, state.st_size) for path, state in states}


def written(before: dict[Path, tuple[int, int, int]], after: dict[Path, tuple[int, int, int]]) -> int:
    """Bytes of the files that are new or were written again."""
    return sum(state[2] for path, state in after.items() if before.get(path) != state)


def sent_to_disk() -> int:
    """Bytes that this process and those it started made the kernel write, whatever became of the files."""
    tree = [os.getpid(), *descendants(os.getpid())]
    lines = [line for pid in tree for line in Path(f"/proc/{pid}/io").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))
