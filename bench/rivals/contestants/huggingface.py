"""Hugging Face `datasets`, map style: Arrow files under a memory map, `shuffle` as an index mapping.

Map style is its fast way to a full shuffle of local data. The position is a count of batches that the sampler skips,
as its Trainer resumes a map-style dataset. A shuffle of the DataLoader's sampler costs nothing against
`Dataset.shuffle`, which writes an index map first.
"""

from __future__ import annotations

from pathlib import Path

import numpy
import pyarrow
import torch
from datasets import Dataset, load_from_disk

import workloads as w
from contestants.torch_memmap import MapFeed

PACKAGES = ("datasets", "pyarrow", "torch")
SETTINGS = {
    w.TOKENS: "map-style Dataset, List(uint16, 2048), with_format('arrow') read in whole batches, 0 workers",
    w.IMAGES: "map-style Dataset, binary column, DataLoader with 2 persistent workers",
    w.BLOBS: "map-style Dataset, large list of uint8, with_format('arrow'), 0 workers",
}
RESUME = "skip"
TABLE_ROWS = 1000


def prepare(workload, source: Path, target: Path) -> None:
    """Arrow tables over the source's own bytes; through Python rows the same conversion takes a hundred times longer."""
    make = {w.TOKENS: token_tables, w.IMAGES: image_tables, w.BLOBS: blob_tables}[workload.name]
    dataset = Dataset(pyarrow.concat_tables(make(workload, source)))
    dataset.save_to_disk(str(target / "dataset"), max_shard_size="512MB")


def token_tables(workload, source: Path):
    """Fixed-size lists, a thousand rows a record batch."""
    rows = w.token_rows(source)
    for first in range(0, len(rows), TABLE_ROWS):
        values = pyarrow.array(rows[first:first + TABLE_ROWS].reshape(-1))
        yield pyarrow.table({"tokens": pyarrow.FixedSizeListArray.from_arrays(values, w.ROW_TOKENS)})


def image_tables(workload, source: Path):
    for first in range(0, workload.samples, TABLE_ROWS):
        numbers = range(first, min(first + TABLE_ROWS, workload.samples))
        pictures = [w.image_file(source, number).read_bytes() for number in numbers]
        yield pyarrow.table({"image": pyarrow.array(pictures, pyarrow.binary()), "number": pyarrow.array(numbers)})


def blob_tables(workload, source: Path):
    """One blob a record batch, so that a blob is read alone."""
    for number in range(workload.samples):
        values = pyarrow.array(numpy.memmap(w.blob_file(source, number), numpy.uint8, "r"))
        yield pyarrow.table({"blob": pyarrow.LargeListArray.from_arrays([0, len(values)], values)})


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
