"""The least time that this machine needs for the bytes of a state, measured right before a contestant's own times.

*copy*         into warm memory, with as many threads as cores; *copy_alone* with one
*disk_write*   to a new file of the work disk past the page cache (O_DIRECT), in order, until it is durable
*disk_read*    of that file, past the page cache, in order
*cached_read*  of that file from a warm page cache into warm memory, with as many threads as cores: by `preadv` or out
               of a map, whichever is quicker

Each is milliseconds. The disk's are left out where the file system has no O_DIRECT. One region of anonymous memory is
target and source of all; it and the file are gone before the contestant starts, so neither warms anything for it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from state import timed

BLOCK_BYTES = 16 << 20
PIECE_BYTES = 4 << 20
PAGE_BYTES = 4096
REPEATS = 3


class Limits:
    """A state's bytes, and memory and a file for them."""

    def __init__(self, tensors: list[torch.Tensor], folder: Path) -> None:
        self.file = folder / "limit"
        self.bytes = -(-sum(one.nbytes for one in tensors) // PAGE_BYTES) * PAGE_BYTES
        # Maps begin at a page, as O_DIRECT asks for.
        self.memory = mmap.mmap(-1, self.bytes)
        target = torch.frombuffer(self.memory, dtype=torch.uint8)
        self.copies, place = [], 0
        for one in tensors:
            flat = one.detach().reshape(-1).view(torch.uint8)
            self.copies += list(zip(target[place : place + flat.nbytes].split(PIECE_BYTES), flat.split(PIECE_BYTES)))
            place += flat.nbytes
        self.threads = len(os.sched_getaffinity(0))
        self.copy(self.threads)

    def measure(self) -> dict[str, float]:
        """The quickest of a few for what lies in memory; the disk's once, as a contestant writes and reads once."""
        found = {
            "copy": quickest(lambda: self.copy(self.threads)),
            "copy_alone": quickest(lambda: self.copy(1)),
        }
        try:
            found["disk_write"] = timed(self.write)
            found["disk_read"] = timed(self.read)
        except OSError:
            self.file.write_bytes(self.memory)
        # The first of a few brings the file into the page cache.
        found["cached_read"] = min(quickest(self.read_cached), quickest(self.copy_map))
        self.file.unlink()
        return found

    def copy(self, threads: int) -> None:
        deal(threads, self.copies, lambda pair: pair[0].copy_(pair[1]))

    def write(self) -> None:
        descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT)
        try:
            os.posix_fallocate(descriptor, 0, self.bytes)
            for place, block in blocks(self.memory, BLOCK_BYTES):
                write_all(descriptor, block, place)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> None:
        descriptor = os.open(self.file, os.O_RDONLY | os.O_DIRECT)
        try:
            for place, block in blocks(self.memory, BLOCK_BYTES):
                read_all(descriptor, block, place)
        finally:
            os.close(descriptor)

    def read_cached(self) -> None:
        with self.file.open("rb") as file:
            pieces = blocks(self.memory, PIECE_BYTES)
            deal(self.threads, pieces, lambda piece: read_all(file.fileno(), piece[1], piece[0]))

    def copy_map(self) -> None:
        with self.file.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        whole = torch.frombuffer(mapped, dtype=torch.uint8).split(PIECE_BYTES)
        target = torch.frombuffer(self.memory, dtype=torch.uint8).split(PIECE_BYTES)
        deal(self.threads, list(zip(target, whole)), lambda pair: pair[0].copy_(pair[1]))


def quickest(act: Callable[[], object]) -> float:
    return min(timed(act) for _ in range(REPEATS))


def blocks(memory: mmap.mmap, length: int) -> list[tuple[int, memoryview]]:
    """Where each begins, and its bytes."""
    view = memoryview(memory)
    return [(place, view[place : place + length]) for place in range(0, len(view), length)]


def deal(threads: int, pieces: list, act: Callable) -> None:
    """Pieces are dealt out to threads like cards."""

    def take(first: int) -> None:
        for piece in pieces[first::threads]:
            act(piece)

    if threads == 1:
        return take(0)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(take, range(threads)))


def write_all(descriptor: int, block: memoryview, place: int) -> None:
    while block:
        written = os.pwritev(descriptor, [block], place)
        block, place = block[written:], place + written


def read_all(descriptor: int, block: memoryview, place: int) -> None:
    while block:
        read = os.preadv(descriptor, [block], place)
        if not read:
            raise EOFError(f"the file ends at {place}")
        block, place = block[read:], place + read
