"""LitData: chunks written by `optimize`, read by StreamingDataset and StreamingDataLoader with `shuffle=True`."""

from __future__ import annotations

from pathlib import Path

import litdata
import torch

import workloads as w

PACKAGES = ("litdata", "torch")
SETTINGS = {
    w.TOKENS: "optimize with TokensLoader, chunks of 64 MB, StreamingDataLoader, 0 workers",
    w.IMAGES: "optimize with encoded bytes, chunks of 64 MB, StreamingDataLoader, 2 persistent workers",
    w.BLOBS: "optimize with bytes, chunks of 64 MB, StreamingDataLoader, batch_size=1, 0 workers",
}
RESUME = "state"


class Read:
    """What `optimize` calls for each input, in a process of its own."""

    def __init__(self, workload, source: Path):
        self.name, self.source = workload.name, source

    def __call__(self, number: int):
        if self.name == w.TOKENS:
            return torch.from_numpy(w.token_rows(self.source)[number].copy())
        if self.name == w.IMAGES:
            return {"image": w.image_file(self.source, number).read_bytes(), "number": number}
        return {"blob": w.blob_file(self.source, number).read_bytes()}


def prepare(workload, source: Path, target: Path) -> None:
    litdata.optimize(
        fn=Read(workload, source),
        inputs=list(range(workload.samples)),
        output_dir=str(target / "chunks"),
        chunk_bytes="64MB",
        num_workers=2,
        item_loader=litdata.TokensLoader(w.ROW_TOKENS) if workload.name == w.TOKENS else None,
        verbose=False,
    )


def picture(sample):
    from pictures import augment_bytes

    return augment_bytes(sample["image"]), sample["number"]


def blob(sample):
    return torch.frombuffer(sample["blob"], dtype=torch.uint8)


def first(samples):
    """A batch of one blob is the blob: stacking it would only copy it."""
    return samples[0]


class Feed:
    def __init__(self, workload, target: Path, state):
        transform = {w.TOKENS: None, w.IMAGES: picture, w.BLOBS: blob}[workload.name]
        dataset = litdata.StreamingDataset(
            str(target / "chunks"),
            item_loader=litdata.TokensLoader(w.ROW_TOKENS) if workload.name == w.TOKENS else None,
            shuffle=True,
            seed=w.SEED,
            drop_last=False,
            transform=transform,
        )
        self.loader = litdata.StreamingDataLoader(
            dataset,
            batch_size=workload.batch_size,
            num_workers=workload.workers,
            persistent_workers=workload.workers > 0,
            collate_fn=first if workload.name == w.BLOBS else None,
        )
        if state:
            self.loader.load_state_dict(state)

    def __iter__(self):
        return iter(self.loader)

    def state(self, batches: int):
        return self.loader.state_dict()


def open_feed(workload, target: Path, state=None):
    return Feed(workload, target, state)
