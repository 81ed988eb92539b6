"""What a feed delivers, against what is stored and against itself."""

from __future__ import annotations

import time
from pathlib import Path

import forebay
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import torch

from conftest import OpenFeed, ids_of


def stored(lake: Path) -> dict[str, np.ndarray]:
    """Every row of every shard, read by Arrow itself, by its identity."""
    rows: dict[str, np.ndarray] = {}
    for path in (lake / "shards").rglob("*.arrow"):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if {"sample_id", "tokens"} <= set(table.column_names):
            ids = [value.as_py().hex() for value in table["sample_id"]]
            rows.update(zip(ids, (np.array(row.as_py(), np.uint16) for row in table["tokens"])))
    return rows


def test_every_sample_is_what_is_stored_and_comes_once(lake: Path, open_feed: OpenFeed) -> None:
    rows, seen = stored(lake), set()
    feed = open_feed(epochs=1, output="numpy", columns=["tokens", "__id__"])
    assert len(feed) == feed.steps_per_epoch == feed.rows // 8
    for step, batch in enumerate(feed, 1):
        assert batch["tokens"].dtype == np.uint16 and batch["tokens"].shape == (8, 513)
        ids = forebay.sample_ids(batch["__id__"])
        assert ids == feed.last_ids
        for id, tokens in zip(ids, batch["tokens"]):
            np.testing.assert_array_equal(tokens, rows[id])
        seen.update(ids)
        assert (feed.step, len(feed)) == (step, feed.steps_per_epoch - step)
    assert len(seen) == feed.rows // 8 * 8
    with pytest.raises(StopIteration):
        next(feed)


def test_tensors_where_torch_is_installed(open_feed: OpenFeed) -> None:
    tensors, arrays = open_feed(), open_feed(output="numpy")
    for _ in range(3):
        tensor, array = next(tensors)["tokens"], next(arrays)["tokens"]
        assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.uint16
        np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_split_what_one_process_sees(open_feed: OpenFeed, world_size: int) -> None:
    alone = ids_of(open_feed(global_batch_size=12), 20)
    ranks = [
        ids_of(open_feed(global_batch_size=12, rank=rank, world_size=world_size), 20)
        for rank in range(world_size)
    ]
    for step, whole in enumerate(alone):
        assert [ranks[i % world_size][step][i // world_size] for i in range(12)] == whole


def test_batch_size_is_of_a_rank_and_global_batch_size_of_all(open_feed: OpenFeed) -> None:
    feed = open_feed(batch_size=4, rank=1, world_size=3)
    assert (feed.batch_size, feed.global_batch_size) == (4, 12)
    assert next(feed)["tokens"].shape[0] == 4
    assert open_feed(global_batch_size=12, rank=1, world_size=3).batch_size == 4


def test_the_rank_comes_from_the_launcher(
    open_feed: OpenFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    feed = open_feed(batch_size=2, rank=None, world_size=None)
    assert (feed.rank, feed.world_size, feed.global_batch_size) == (2, 4, 8)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(forebay.InvalidError, match="rank 4 of world size 4 does not exist"):
        open_feed(batch_size=2, rank=None, world_size=None)


def test_a_feed_for_ever_has_no_length(open_feed: OpenFeed) -> None:
    feed = open_feed()
    with pytest.raises(TypeError, match="goes on for ever"):
        len(feed)
    ids_of(feed, feed.steps_per_epoch + 1)
    assert feed.epoch == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 8, "global_batch_size": 8}, "exactly one of batch_size"),
        ({"batch_size": 10**6}, "does not fit into an epoch"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"split": "test"}, "`test` is not a split"),
        ({"dataset": "text@0"}, "write 'name' or 'name@3'"),
        ({"dataset": "Text"}, "is not a name"),
        ({"columns": ["labels"]}, "no field `labels`; there are tokens"),
        ({"columns": []}, "cannot be none"),
        ({"output": "tensorflow"}, "choose 'torch' or 'numpy'"),
        ({"output": "numpy", "device": "cuda"}, "has no device 'cuda'"),
        ({"local_budget": "many"}, "write bytes as a number"),
        ({"buffer_bytes": "1kB"}, "raise buffer_bytes"),
        ({"rank": 1, "world_size": None}, "give both rank and world_size"),
        ({"transform": lambda batch: batch, "transform_threads": 0}, "transform_threads is 0"),
        ({"seed": -1}, "settings"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    open_feed: OpenFeed, options: dict[str, object], says: str
) -> None:
    with pytest.raises(forebay.InvalidError, match=says):
        open_feed(**options)


def test_a_closed_feed_says_so_and_its_batches_stay(open_feed: OpenFeed) -> None:
    with open_feed(output="numpy") as feed:
        batch = next(feed)["tokens"]
        before = batch.copy()
    with pytest.raises(forebay.InvalidError, match="the feed is closed"):
        next(feed)
    feed.close()
    np.testing.assert_array_equal(batch, before)


def test_statistics_count_what_was_delivered(open_feed: OpenFeed) -> None:
    feed = open_feed()
    ids_of(feed, 5)
    stats = feed.stats()
    assert (stats["batches"], stats["samples"], stats["bytes"]) == (5, 40, 40 * 513 * 2)
    assert stats["lake_bytes"] > 0 and stats["waited"].keys() == {"lake", "local", "assembly"}
    # What is fetched ahead goes on between two questions.
    for _ in range(400):
        read = feed.traffic()["shard"]["bytes_read"]
        if read == feed.stats()["lake_bytes"]:
            break
        time.sleep(0.05)
    else:
        pytest.fail("what was read of the lake and what was counted never agree")
