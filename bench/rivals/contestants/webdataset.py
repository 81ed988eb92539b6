"""WebDataset: tar shards, shards shuffled, then samples in a buffer of 1000, as its documentation shows.

It keeps no position. With seeded shuffles (`detshuffle`) the same epoch can be read again up to the place where it
stopped, so that is what a resume does here.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import webdataset

import workloads as w

PACKAGES = ("webdataset", "torch")
SETTINGS = {
    w.TOKENS: "shards of 2048 records, shardshuffle, buffer of 1000, batched in the pipeline, WebLoader, 0 workers",
    w.IMAGES: "shards of 64 records, shardshuffle, buffer of 1000, batched in the pipeline, WebLoader, 2 workers",
    w.BLOBS: "shards of 2 records, shardshuffle, buffer of 4, WebLoader, 0 workers",
}
RESUME = "replay"
SHARD_SAMPLES = {w.TOKENS: 2048, w.IMAGES: 64, w.BLOBS: 2}
BUFFER_SAMPLES = {w.TOKENS: 1000, w.IMAGES: 1000, w.BLOBS: 4}


def prepare(workload, source: Path, target: Path) -> None:
    shards = target / "shards"
    shards.mkdir()
    rows = w.token_rows(source) if workload.name == w.TOKENS else None
    pattern = str(shards / "%06d.tar")
    limit_bytes = 1 << 40  # the count alone ends a shard
    with webdataset.ShardWriter(pattern, maxcount=SHARD_SAMPLES[workload.name], maxsize=limit_bytes, verbose=0) as out:
        for number in range(workload.samples):
            key = f"{number:08d}"
            if workload.name == w.TOKENS:
                out.write({"__key__": key, "tokens": rows[number].tobytes()})
            elif workload.name == w.IMAGES:
                out.write({"__key__": key, "jpg": w.image_file(source, number).read_bytes(), "cls": number})
            else:
                out.write({"__key__": key, "bin": w.blob_file(source, number).read_bytes()})


def row(sample):
    return torch.frombuffer(bytearray(sample["tokens"]), dtype=torch.uint16)


def picture(sample):
    from pictures import augment_bytes

    return augment_bytes(sample["jpg"]), int(sample["cls"])


def blob(sample):
    return torch.frombuffer(sample["bin"], dtype=torch.uint8)


def stack_rows(rows):
    return torch.stack(rows)


def stack_pictures(samples):
    pictures, numbers = zip(*samples)
    return torch.stack(pictures), torch.tensor(numbers)


class Feed:
    def __init__(self, workload, target: Path, state):
        urls = sorted(str(path) for path in (target / "shards").glob("*.tar"))
        dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), detshuffle=True, seed=w.SEED)
        dataset = dataset.compose(
            webdataset.detshuffle(bufsize=BUFFER_SAMPLES[workload.name], initial=100, seed=w.SEED)
        )
        dataset = dataset.map({w.TOKENS: row, w.IMAGES: picture, w.BLOBS: blob}[workload.name])
        if workload.name != w.BLOBS:
            stack = stack_rows if workload.name == w.TOKENS else stack_pictures
            dataset = dataset.batched(workload.batch_size, collation_fn=stack, partial=True)
        # Workers are started for each epoch: only so does a replay begin with the epoch that it replays.
        self.loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=workload.workers)
        self.skip = state["batches"] if state else 0

    def __iter__(self):
        skip, self.skip = self.skip, 0
        return itertools.islice(iter(self.loader), skip, None)

    def state(self, batches: int):
        return {"batches": batches}


def open_feed(workload, target: Path, state=None):
    return Feed(workload, target, state)
