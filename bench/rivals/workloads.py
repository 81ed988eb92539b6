"""What is delivered, and how much of it: the three workloads and their sizes.

Every image carries its number, so that an epoch can be counted although augmentation hides the bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

ROW_TOKENS = 2048
BATCH_SIZE = 32
IMAGE_PIXELS = 224
BLOB_BYTES = 32 << 20
SEED = 7

TOKENS = "tokens"
IMAGES = "images"
BLOBS = "blobs"
NAMES = (TOKENS, IMAGES, BLOBS)

# Samples of each workload. Token and image counts divide by the batch size and by two workers, so that no
# contestant pays for a short last batch that another does not have.
SIZES = {
    "tiny": {TOKENS: 2_048, IMAGES: 256, BLOBS: 3},
    "small": {TOKENS: 20_480, IMAGES: 1_536, BLOBS: 12},
    "medium": {TOKENS: 262_144, IMAGES: 8_192, BLOBS: 64},
    "large": {TOKENS: 2_097_152, IMAGES: 32_768, BLOBS: 256},
}

# Cores a contestant may use, and the workers (or threads) it starts on them. Zero workers: in the training process.
CORES = {TOKENS: 1, IMAGES: 2, BLOBS: 1}
WORKERS = {TOKENS: 0, IMAGES: 2, BLOBS: 0}


@dataclass(frozen=True)
class Workload:
    """One workload of one size, as every contestant is given it."""

    name: str
    samples: int

    @property
    def batch_size(self) -> int:
        """Samples a batch; a blob is a batch of its own."""
        return 1 if self.name == BLOBS else BATCH_SIZE

    @property
    def batches(self) -> int:
        return -(-self.samples // self.batch_size)

    @property
    def cores(self) -> int:
        return CORES[self.name]

    @property
    def workers(self) -> int:
        return WORKERS[self.name]


def token_file(source: Path) -> Path:
    return source / TOKENS / "rows.u16"


def image_file(source: Path, number: int) -> Path:
    return source / IMAGES / f"{number:07d}.jpg"


def blob_file(source: Path, number: int) -> Path:
    return source / BLOBS / f"{number:05d}.bin"


def token_rows(source: Path):
    """All rows of the source as a read-only map, [samples, 2048] u16."""
    import numpy

    return numpy.memmap(token_file(source), dtype=numpy.uint16, mode="r").reshape(-1, ROW_TOKENS)


def read_facts(path: Path) -> dict:
    return json.loads(path.read_text())
