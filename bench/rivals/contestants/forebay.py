"""Forebay itself. Tokens from its own shards; images and blobs from the very tars that WebDataset reads, by an index.

The one file to change when the Python interface changes.
"""

from __future__ import annotations

from pathlib import Path

import forebay
import forebay.torch

import workloads as w

PACKAGES = ("forebay", "torch")
SETTINGS = {
    w.TOKENS: "feed over indexed Parquet rows in a local lake, no worker processes",
    w.IMAGES: "feed over an index of WebDataset's tars, decode in 2 threads, no worker processes",
    w.BLOBS: "feed over an index of WebDataset's tars, room for 4 blobs, no worker processes",
}
RESUME = "state"


def prepare(workload, source: Path, target: Path) -> None:
    lake = str(target / "lake")
    if workload.name == w.TOKENS:
        write_parquet(source, target / "parquet")
        forebay.index(lake, workload.name, str(target / "parquet"), local=target / "local")
        return
    # Another contestant's converted data: run.py prepares that one first.
    shards = str(target.parent / "webdataset" / "shards")
    forebay.index(lake, workload.name, shards, local=target / "local")


def write_parquet(source: Path, target: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    target.mkdir()
    rows = w.token_rows(source)
    values = pyarrow.array(rows.reshape(-1))
    table = pyarrow.table({"tokens": pyarrow.FixedSizeListArray.from_arrays(values, w.ROW_TOKENS)})
    pyarrow.parquet.write_table(table, target / "rows.parquet", compression="none", use_dictionary=False)


class Feed:
    """One epoch for each iteration, as the harness asks for."""

    def __init__(self, workload, target: Path, state):
        self.workload = workload
        options = {}
        if workload.name == w.IMAGES:
            options = {"images": {"jpg": {"size": [w.IMAGE_PIXELS, w.IMAGE_PIXELS], "dtype": "U8"}}}
        elif workload.name == w.BLOBS:
            options = {"buffer_bytes": 4 * w.BLOB_BYTES}
        self.loader = forebay.torch.DataLoader(
            str(target / "lake"),
            workload.name,
            split="train",
            batch_size=workload.batch_size,
            seed=w.SEED,
            local=str(target / "local"),
            last_batch="short",
            **options,
        )
        if state:
            self.loader.load_state_dict(state)

    def __iter__(self):
        for batch in self.loader:
            if self.workload.name == w.TOKENS:
                yield batch["tokens"]
            elif self.workload.name == w.IMAGES:
                yield batch["jpg"], batch["cls"]
            else:
                yield batch["bin"][0]

    def state(self, batches: int):
        return self.loader.state_dict()

    def close(self):
        self.loader.close()


def open_feed(workload, target: Path, state=None):
    return Feed(workload, target, state)
