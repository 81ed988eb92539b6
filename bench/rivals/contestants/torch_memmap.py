"""PyTorch's own DataLoader over memory-mapped numpy arrays and plain files.

`__getitems__` hands the whole batch's indices to the dataset, so rows are gathered by one numpy call; without it the
same loader collates row by row. PyTorch keeps no position: a resume skips indices in the sampler, as Accelerate's
`skip_first_batches` does.
"""

from __future__ import annotations

from pathlib import Path

import numpy
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler

import workloads as w

PACKAGES = ("torch", "torchvision", "numpy")
SETTINGS = {
    w.TOKENS: "DataLoader over numpy.memmap with __getitems__, 0 workers",
    w.IMAGES: "DataLoader over JPEG files, 2 persistent workers, torchvision v2 transforms",
    w.BLOBS: "DataLoader over numpy.memmap (copy on write), batch_size=None, 0 workers",
}
RESUME = "skip"


def prepare(workload, source: Path, target: Path) -> None:
    """Nothing to convert: arrays and files are its format."""
    (target / "source").symlink_to(source.resolve())


class Rows(Dataset):
    def __init__(self, source: Path):
        self.rows = w.token_rows(source)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices):
        return torch.from_numpy(self.rows[indices])


class Pictures(Dataset):
    def __init__(self, source: Path, samples: int):
        self.source, self.samples = source, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index):
        from torchvision.io import read_file

        from pictures import augment

        return augment(read_file(str(w.image_file(self.source, index)))), index


class BlobFiles(Dataset):
    def __init__(self, source: Path, samples: int):
        self.source, self.samples = source, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index):
        return torch.from_numpy(numpy.memmap(w.blob_file(self.source, index), numpy.uint8, "c"))


def keep(batch):
    """The dataset has put the batch together already."""
    return batch


class SkipFirst(Sampler):
    """Batches of indices less the first few, once: the sampler runs, no sample is read."""

    def __init__(self, batches, skip: int):
        self.batches, self.skip = batches, skip

    def __iter__(self):
        skip, self.skip = self.skip, 0
        for place, batch in enumerate(self.batches):
            if place >= skip:
                yield batch

    def __len__(self) -> int:
        return len(self.batches) - self.skip


class MapFeed:
    """A map-style dataset under a DataLoader whose shuffle is seeded anew each epoch."""

    def __init__(self, workload, dataset, collate, state):
        self.epoch, skip = (state["epoch"], state["batches"]) if state else (0, 0)
        self.generator = torch.Generator()
        sampler = RandomSampler(dataset, generator=self.generator)
        options = {"num_workers": workload.workers, "persistent_workers": workload.workers > 0}
        if workload.name == w.BLOBS:
            self.loader = DataLoader(dataset, sampler=SkipFirst(sampler, skip), batch_size=None, **options)
        else:
            batches = BatchSampler(sampler, workload.batch_size, drop_last=False)
            self.loader = DataLoader(dataset, batch_sampler=SkipFirst(batches, skip), collate_fn=collate, **options)

    def __iter__(self):
        self.generator.manual_seed(w.SEED + self.epoch)
        yield from self.loader
        self.epoch += 1

    def state(self, batches: int):
        return {"epoch": self.epoch, "batches": batches}


def open_feed(workload, target: Path, state=None):
    source = target / "source"
    if workload.name == w.TOKENS:
        return MapFeed(workload, Rows(source), keep, state)
    if workload.name == w.IMAGES:
        return MapFeed(workload, Pictures(source, workload.samples), None, state)
    return MapFeed(workload, BlobFiles(source, workload.samples), None, state)
