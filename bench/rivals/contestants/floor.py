"""The barest loop that delivers the same batches: no library.

Tokens: rows of a map gathered by numpy into one batch buffer that torch sees. Images: decode, crop, resize in as many
processes as cores. Blobs: `readinto` one reused buffer. It is what every ratio is measured against.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy
import torch

import workloads as w

PACKAGES = ("torch", "torchvision", "numpy")
SETTINGS = {
    w.TOKENS: "numpy.take from a map into one reused buffer",
    w.IMAGES: "torchvision decode_jpeg + crop + resize, 2 processes, two reused batches in shared memory",
    w.BLOBS: "readinto one reused buffer",
}
RESUME = "skip"


def prepare(workload, source: Path, target: Path) -> None:
    """Nothing to convert: the floor reads the source."""
    (target / "source").symlink_to(source.resolve())


def open_feed(workload, target: Path, state=None):
    return {w.TOKENS: Tokens, w.IMAGES: Images, w.BLOBS: Blobs}[workload.name](workload, target / "source", state)


class Floor:
    """The order that all three share: a permutation for each epoch, and how many batches of it to skip."""

    def __init__(self, workload, source: Path, state):
        self.workload = workload
        self.source = source
        self.epoch, self.skip = (state["epoch"], state["batches"]) if state else (0, 0)

    def __iter__(self):
        order = numpy.random.default_rng((w.SEED, self.epoch)).permutation(self.workload.samples)
        first = self.skip * self.workload.batch_size
        self.skip = 0
        yield from self.batches(order[first:])
        self.epoch += 1

    def state(self, batches: int):
        return {"epoch": self.epoch, "batches": batches}


class Tokens(Floor):
    def __init__(self, workload, source, state):
        super().__init__(workload, source, state)
        self.rows = w.token_rows(source)
        self.buffer = numpy.empty((w.BATCH_SIZE, w.ROW_TOKENS), numpy.uint16)
        self.batch = torch.from_numpy(self.buffer)

    def batches(self, order):
        for first in range(0, len(order), w.BATCH_SIZE):
            chosen = order[first:first + w.BATCH_SIZE]
            # mode="clip" keeps numpy from gathering into a buffer of its own first.
            numpy.take(self.rows, chosen, axis=0, out=self.buffer[:len(chosen)], mode="clip")
            yield self.batch[:len(chosen)]


class Images(Floor):
    """A process a core, each filling its part of a batch in shared memory, one batch ahead: no GIL, no copies."""

    SLOTS = 2

    def __init__(self, workload, source, state):
        super().__init__(workload, source, state)
        shape = (self.SLOTS, w.BATCH_SIZE, 3, w.IMAGE_PIXELS, w.IMAGE_PIXELS)
        self.slots = torch.empty(shape, dtype=torch.uint8).share_memory_()
        context = multiprocessing.get_context("fork")
        self.pipes = []
        for _ in range(workload.workers):
            ours, theirs = context.Pipe()
            inherited = [pipe for pipe in self.pipes] + [ours]
            context.Process(target=self.work, args=(theirs, inherited), daemon=True).start()
            theirs.close()
            self.pipes.append(ours)

    def work(self, pipe, inherited) -> None:
        """Fills places of slots until the pipe is closed, which the end of the other process does too."""
        from pictures import augment

        for other in inherited:
            other.close()
        while True:
            try:
                slot, places, numbers = pipe.recv()
            except EOFError:
                return
            for place, number in zip(places, numbers):
                encoded = numpy.fromfile(w.image_file(self.source, number), numpy.uint8)
                self.slots[slot, place] = augment(torch.from_numpy(encoded))
            pipe.send(slot)

    def ask(self, batch: int, chosen) -> None:
        share = -(-len(chosen) // len(self.pipes))
        for part, pipe in enumerate(self.pipes):
            places = range(part * share, min((part + 1) * share, len(chosen)))
            pipe.send((batch % self.SLOTS, places, [int(chosen[place]) for place in places]))

    def batches(self, order):
        parts = [order[first:first + w.BATCH_SIZE] for first in range(0, len(order), w.BATCH_SIZE)]
        self.ask(0, parts[0])
        for batch, chosen in enumerate(parts):
            for pipe in self.pipes:
                pipe.recv()
            if batch + 1 < len(parts):
                self.ask(batch + 1, parts[batch + 1])
            yield self.slots[batch % self.SLOTS, :len(chosen)], torch.from_numpy(chosen)


class Blobs(Floor):
    def __init__(self, workload, source, state):
        super().__init__(workload, source, state)
        self.buffer = bytearray(w.BLOB_BYTES)
        self.batch = torch.frombuffer(self.buffer, dtype=torch.uint8)

    def batches(self, order):
        for number in order:
            with open(w.blob_file(self.source, number), "rb", buffering=0) as file:
                view, filled = memoryview(self.buffer), 0
                while filled < len(view):
                    read = file.readinto(view[filled:])
                    if not read:
                        raise OSError(f"blob {number} ends after {filled} bytes")
                    filled += read
            yield self.batch
