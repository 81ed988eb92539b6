"""MosaicML Streaming: MDS shards in a local directory, `shuffle=True` with its default algorithm (py1e)."""

from __future__ import annotations

from pathlib import Path

import torch
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

import workloads as w

PACKAGES = ("mosaicml-streaming", "torch")
SETTINGS = {
    w.TOKENS: "MDS ndarray:uint16:2048, shards of 64 MiB, StreamingDataLoader, 0 workers",
    w.IMAGES: "MDS bytes, shards of 64 MiB, StreamingDataLoader, 2 persistent workers",
    w.BLOBS: "MDS bytes, shards of 64 MiB, StreamingDataLoader, batch_size=1, 0 workers",
}
RESUME = "state"
SHARD_BYTES = 64 << 20


def prepare(workload, source: Path, target: Path) -> None:
    columns = {
        w.TOKENS: {"tokens": f"ndarray:uint16:{w.ROW_TOKENS}"},
        w.IMAGES: {"image": "bytes", "number": "int"},
        w.BLOBS: {"blob": "bytes"},
    }[workload.name]
    with MDSWriter(out=str(target / "mds"), columns=columns, size_limit=SHARD_BYTES) as out:
        if workload.name == w.TOKENS:
            for row in w.token_rows(source):
                out.write({"tokens": row})
        for number in range(workload.samples):
            if workload.name == w.IMAGES:
                out.write({"image": w.image_file(source, number).read_bytes(), "number": number})
            elif workload.name == w.BLOBS:
                out.write({"blob": w.blob_file(source, number).read_bytes()})


class Samples(StreamingDataset):
    """Turns a sample's columns into what its workload delivers."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        if "tokens" in sample:
            return torch.from_numpy(sample["tokens"])
        if "image" in sample:
            from pictures import augment_bytes

            return augment_bytes(sample["image"]), sample["number"]
        return torch.frombuffer(sample["blob"], dtype=torch.uint8)


def view(samples):
    """A batch of one blob, [1, bytes], over the blob itself: stacking would copy it, and the loader counts rows."""
    return samples[0].unsqueeze(0)


class Feed:
    def __init__(self, workload, target: Path, state):
        dataset = Samples(local=str(target / "mds"), shuffle=True, shuffle_seed=w.SEED, batch_size=workload.batch_size)
        self.blobs = workload.name == w.BLOBS
        self.loader = StreamingDataLoader(
            dataset,
            batch_size=workload.batch_size,
            num_workers=workload.workers,
            persistent_workers=workload.workers > 0,
            collate_fn=view if workload.name == w.BLOBS else None,
        )
        if state:
            self.loader.load_state_dict(state)

    def __iter__(self):
        return (batch[0] for batch in self.loader) if self.blobs else iter(self.loader)

    def state(self, batches: int):
        return self.loader.state_dict()


def open_feed(workload, target: Path, state=None):
    return Feed(workload, target, state)
