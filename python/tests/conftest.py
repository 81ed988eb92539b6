"""One small dataset of real text for all tests; a local tier of its own for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import forebay
import pytest

RAW = Path(__file__).parents[2] / "data" / "raw" / "state-of-the-union"
#: Small rows and shards: several shards, a few hundred samples.
RECIPE: dict[str, Any] = {"row_tokens": 513, "shard_bytes": 1 << 16, "batch_bytes": 1 << 13}


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Part of the State of the Union addresses, as lines of text."""
    import gzip
    import json

    folder = tmp_path_factory.mktemp("raw")
    file = sorted(RAW.glob("*.jsonl.gz"))[0]
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for _, line in zip(range(40), lines)]
    text = "\n".join(json.dumps({"text": record["text"][:20_000]}) for record in records)
    (folder / "addresses.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="session")
def lake(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with version 1 of dataset `text`."""
    folder = tmp_path_factory.mktemp("lake")
    local = tmp_path_factory.mktemp("tier")
    forebay.prepare(folder / "lake", "text", source, local=local / "local", **RECIPE)
    return folder / "lake"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return tmp_path / "local"


@pytest.fixture
def open_feed(lake: Path, local: Path) -> Any:
    """Opens feeds of `text`, alone and with batches of 8 unless told otherwise."""
    opened: list[forebay.Feed] = []

    def open_feed(**options: Any) -> forebay.Feed:
        if "batch_size" not in options and "global_batch_size" not in options:
            options["batch_size"] = 8
        options.setdefault("rank", 0)
        options.setdefault("world_size", 1)
        options.setdefault("local", local)
        feed = forebay.feed(options.pop("lake", lake), options.pop("dataset", "text"), **options)
        opened.append(feed)
        return feed

    yield open_feed
    for feed in opened:
        feed.close()


@pytest.fixture
def open_checkpointer(tmp_path: Path, local: Path) -> Any:
    """Opens the checkpointer of run `run`, which saves only when it is told to."""
    opened = []

    def open_checkpointer(state: dict[str, Any], **options: Any) -> forebay.Checkpointer:
        options.setdefault("interval", None)
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        checkpointer = forebay.Checkpointer(
            tmp_path / "checkpoints", "run", state, local=local, **options
        )
        opened.append(checkpointer)
        return checkpointer

    yield open_checkpointer
    for checkpointer in opened:
        checkpointer.close()


OpenFeed = Callable[..., forebay.Feed]


def ids_of(feed: forebay.Feed, steps: int) -> list[list[str]]:
    """The sample identities of the next steps."""
    found = []
    for _ in range(steps):
        next(feed)
        found.append(feed.last_ids)
    return found


def bits(tensor: Any) -> bytes:
    """The bytes of a tensor, whatever its type."""
    import torch

    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""
