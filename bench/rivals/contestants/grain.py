"""Grain: ArrayRecord files (one record a group, as it asks for) under a MapDataset with its global shuffle."""

from __future__ import annotations

import warnings
from pathlib import Path

import grain
import numpy
import torch
from array_record.python.array_record_module import ArrayRecordWriter

import workloads as w

PACKAGES = ("grain", "array-record", "torch")
SETTINGS = {
    w.TOKENS: "ArrayRecord group_size:1 uncompressed, MapDataset.shuffle, batched, read threads 0 (data in memory)",
    w.IMAGES: "ArrayRecord group_size:1 uncompressed, MapDataset.shuffle, mp_prefetch with 2 workers",
    w.BLOBS: "ArrayRecord group_size:1 uncompressed, MapDataset.shuffle, read threads 0",
}
RESUME = "state"
FILE_SAMPLES = {w.TOKENS: 16_384, w.IMAGES: 512, w.BLOBS: 2}
NUMBER_BYTES = 8  # an image's number stands before its JPEG


def prepare(workload, source: Path, target: Path) -> None:
    rows = w.token_rows(source) if workload.name == w.TOKENS else None
    limit = FILE_SAMPLES[workload.name]
    for first in range(0, workload.samples, limit):
        out = ArrayRecordWriter(str(target / f"{first:08d}.array_record"), "group_size:1,uncompressed")
        for number in range(first, min(first + limit, workload.samples)):
            if workload.name == w.TOKENS:
                out.write(rows[number].tobytes())
            elif workload.name == w.IMAGES:
                out.write(number.to_bytes(NUMBER_BYTES, "little") + w.image_file(source, number).read_bytes())
            else:
                out.write(w.blob_file(source, number).read_bytes())
        out.close()


def row(record: bytes):
    return numpy.frombuffer(record, numpy.uint16)


def picture(record: bytes):
    number = int.from_bytes(record[:NUMBER_BYTES], "little")
    encoded = memoryview(record)[NUMBER_BYTES:]
    from pictures import augment_bytes

    return augment_bytes(encoded).numpy(), numpy.int64(number)


def blob(record: bytes):
    return numpy.frombuffer(record, numpy.uint8)


def to_torch(value):
    return tuple(torch.from_numpy(part) for part in value) if isinstance(value, tuple) else torch.from_numpy(value)


class Feed:
    def __init__(self, workload, target: Path, state):
        files = sorted(str(path) for path in target.glob("*.array_record"))
        dataset = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(files)).seed(w.SEED)
        # Epochs follow one another in one stream, each shuffled anew, so that workers are started once.
        dataset = dataset.shuffle().repeat()
        dataset = dataset.map({w.TOKENS: row, w.IMAGES: picture, w.BLOBS: blob}[workload.name])
        if workload.name != w.BLOBS:
            dataset = dataset.batch(workload.batch_size)
        threads = 1 if workload.workers else 0
        ahead = 2 if workload.workers else 0
        self.dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead))
        if workload.workers:
            self.dataset = self.dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workload.workers, per_worker_buffer_size=2)
            )
        self.iterator = iter(self.dataset)
        self.left = self.epoch_batches = workload.batches
        if state:
            self.iterator.set_state(state["position"])
            self.left -= state["batches"]

    def __iter__(self):
        # Its arrays lie over bytes that are not writable, and nothing writes to them.
        warnings.simplefilter("ignore", UserWarning)
        left, self.left = self.left, self.epoch_batches
        for _ in range(left):
            yield to_torch(next(self.iterator))

    def state(self, batches: int):
        return {"position": self.iterator.get_state(), "batches": batches}

    def close(self) -> None:
        """Without it its shared memory is left to Python's resource tracker."""
        self.iterator.close()


def open_feed(workload, target: Path, state=None):
    return Feed(workload, target, state)
