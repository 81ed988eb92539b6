"""Hugging Face `datasets`, map style: Arrow files under a memory map, `shuffle` as an index mapping.

Map style is its fast way to a full shuffle of local data. The position is a count of batches that the sampler skips,
as its Trainer resumes a map-style dataset. A shuffle of the DataLoader's sampler costs nothing against
`Dataset.shuffle`, which writes an index map first.
"""

from __future__ import annotations

from pathlib import Path

import numpy
import torch
from datasets import Dataset, Features, LargeList, List, Value, load_from_disk

import workloads as w
from contestants.torch_memmap import MapFeed

PACKAGES = ("datasets", "pyarrow", "torch")
SETTINGS = {
    w.TOKENS: "map-style Dataset, List(uint16, 2048), with_format('arrow') read in whole batches, 0 workers",
    w.IMAGES: "map-style Dataset, binary column, DataLoader with 2 persistent workers",
    w.BLOBS: "map-style Dataset, large list of uint8, with_format('arrow'), 0 workers",
}
RESUME = "skip"


def prepare(workload, source: Path, target: Path) -> None:
    def rows():
        if workload.name == w.TOKENS:
            for row in w.token_rows(source):
                yield {"tokens": row}
        elif workload.name == w.IMAGES:
            for number in range(workload.samples):
                yield {"image": w.image_file(source, number).read_bytes(), "number": number}
        else:
            for number in range(workload.samples):
                yield {"blob": numpy.fromfile(w.blob_file(source, number), numpy.uint8)}

    features = {
        w.TOKENS: Features({"tokens": List(Value("uint16"), length=w.ROW_TOKENS)}),
        w.IMAGES: Features({"image": Value("binary"), "number": Value("int64")}),
        w.BLOBS: Features({"blob": LargeList(Value("uint8"))}),
    }[workload.name]
    # A record batch of one blob, so that a blob is read alone.
    options = {"writer_batch_size": 1} if workload.name == w.BLOBS else {}
    made = Dataset.from_generator(rows, features=features, cache_dir=str(target / "cache"), **options)
    made.save_to_disk(str(target / "dataset"))


class TokenBatches(torch.utils.data.Dataset):
    """Whole batches of token rows: an Arrow table's fixed-size list is one numpy array."""

    def __init__(self, dataset):
        self.dataset = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices):
        column = self.dataset[indices].column("tokens").combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=True)
        return from_readonly(values).view(len(indices), w.ROW_TOKENS)


class Blobs(torch.utils.data.Dataset):
    """One blob at a time, without a copy."""

    def __init__(self, dataset):
        self.dataset = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index):
        column = self.dataset[index].column("blob").combine_chunks()
        return from_readonly(column.flatten().to_numpy(zero_copy_only=True))


def from_readonly(values):
    """A tensor over Arrow's read-only memory; nothing here writes to it, so torch's warning is not for us."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(values)


class Pictures(torch.utils.data.Dataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index):
        row = self.dataset[index]
        from pictures import augment_bytes

        return augment_bytes(row["image"]), row["number"]


def keep(batch):
    return batch


def open_feed(workload, target: Path, state=None):
    dataset = load_from_disk(str(target / "dataset"))
    if workload.name == w.TOKENS:
        return MapFeed(workload, TokenBatches(dataset), keep, state)
    if workload.name == w.IMAGES:
        return MapFeed(workload, Pictures(dataset), None, state)
    return MapFeed(workload, Blobs(dataset), None, state)
