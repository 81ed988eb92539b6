"""Datasets as they lie: written by other libraries, fed without being converted."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import forebay
import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch

ROWS = 90
PICTURE = Path(__file__).parents[2] / "crates" / "image" / "golden"


def write_webdataset(folder: Path, picture: bytes) -> None:
    for shard in range(3):
        with tarfile.open(folder / f"part-{shard}.tar", "w") as tar:
            for row in range(shard * 30, shard * 30 + 30):
                for ending, body in [("jpg", picture), ("cls", str(row).encode())]:
                    member = tarfile.TarInfo(f"{row:05}.{ending}")
                    member.size = len(body)
                    tar.addfile(member, io.BytesIO(body))


def write_parquet(folder: Path) -> None:
    table = arrow.table({
        "number": arrow.array(range(ROWS), arrow.int64()),
        "tokens": arrow.array([list(range(row % 7)) for row in range(ROWS)], arrow.list_(arrow.int32())),
        "text": [f"row {row}" for row in range(ROWS)],
    })
    parquet.write_table(table, folder / "rows.parquet", row_group_size=16, compression="zstd")


def write_lines(folder: Path) -> None:
    for file in range(2):
        with gzip.open(folder / f"lines-{file}.jsonl.gz", "wt") as lines:
            for row in range(file * 45, file * 45 + 45):
                lines.write(json.dumps({"number": row, "text": f"row {row}"}) + "\n")


@pytest.fixture(scope="module")
def picture() -> bytes:
    return sorted(PICTURE.rglob("*.jpg"))[0].read_bytes()


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, picture: bytes) -> Path:
    """A lake that holds nothing but three indexes of datasets that lie elsewhere."""
    root = tmp_path_factory.mktemp("indexed")
    for name, write in [
        ("pictures", lambda folder: write_webdataset(folder, picture)),
        ("rows", write_parquet),
        ("lines", write_lines),
    ]:
        (root / name).mkdir()
        write(root / name)
        said = forebay.index(root / "lake", name, root / name, local=root / "tier", extent_bytes="64KB")
        assert (said["version"], said["reused"], said["rows"]) == (1, False, {"train": ROWS, "validation": 0})
        again = forebay.index(root / "lake", name, root / name, local=root / "tier", extent_bytes="64KB")
        assert (again["version"], again["reused"]) == (1, True)
    return root / "lake"


def options(local: Path, **more: Any) -> dict[str, Any]:
    return {"local": local, "rank": 0, "world_size": 1, "seed": 3, "last_batch": "short", **more}


@pytest.mark.parametrize("dataset", ["rows", "lines"])
def test_every_row_comes_once_an_epoch_over_ranks_that_divide_nothing(
    indexed: Path, local: Path, dataset: str
) -> None:
    feeds = [
        forebay.feed(
            indexed, dataset,
            **options(local, global_batch_size=16, epochs=2, rank=rank, world_size=3),
        )
        for rank in range(3)
    ]
    seen: list[Counter[int]] = [Counter(), Counter()]
    for feed in feeds:
        assert len(feed) == 12
        while True:
            epoch = feed.epoch
            batch = next(feed, None)
            if batch is None:
                break
            numbers = batch["number"].tolist()
            assert batch["text"] == [f"row {number}" for number in numbers]
            if dataset == "rows":
                values, offsets = batch["tokens"]
                for number, start, end in zip(numbers, offsets, offsets[1:]):
                    assert values[start:end].tolist() == list(range(number % 7))
            seen[epoch].update(numbers)
    assert seen == [Counter(range(ROWS))] * 2
    for feed in feeds:
        feed.close()


def test_a_state_resumes_in_another_world_with_another_batch_size(indexed: Path, local: Path) -> None:
    def numbers(feed: forebay.Feed, steps: int) -> list[list[int]]:
        return [next(feed)["number"].tolist() for _ in range(steps)]

    whole = sum(numbers(forebay.feed(indexed, "rows", **options(local, batch_size=10)), 9), [])
    first = forebay.feed(indexed, "rows", **options(local, batch_size=10))
    numbers(first, 3)
    state = json.loads(json.dumps(first.state_dict()))
    ranks = [
        forebay.feed(
            indexed, "rows", **options(local, global_batch_size=7, rank=rank, world_size=2)
        )
        for rank in range(2)
    ]
    for rank in ranks:
        rank.load_state_dict(state)
    parts = [numbers(rank, 5) for rank in ranks]
    joined = [parts[i % 2][step][i // 2] for step in range(5) for i in range(7)]
    assert joined == whole[30:65]


def test_images_are_decoded_and_augmented_alike_when_replayed(indexed: Path, local: Path) -> None:
    images = {"jpg": {"size": [32, 48], "dtype": "F32"}}

    def batches(threads: int) -> list[dict[str, Any]]:
        feed = forebay.feed(
            indexed, "pictures", **options(local, batch_size=6, images=images, threads=threads)
        )
        return [next(feed) for _ in range(16)]

    one, two = batches(1), batches(2)
    assert one[0]["jpg"].shape == (6, 3, 32, 48) and one[0]["jpg"].dtype == torch.float32
    assert one[0]["cls"].dtype == torch.int64
    assert one[0]["__key__"] == [f"{number:05}" for number in one[0]["cls"].tolist()]
    for left, right in zip(one, two):
        assert torch.equal(left["jpg"], right["jpg"])
    by_class = {int(c): image for batch in one[:15] for c, image in zip(batch["cls"], batch["jpg"])}
    assert len(by_class) == ROWS
    # The same picture, cropped anew for each sample and each epoch.
    assert not torch.equal(by_class[0], by_class[1])
    again = one[15]
    assert not torch.equal(again["jpg"][0], by_class[int(again["cls"][0])])


def test_vectors_are_padded_and_columns_chosen(indexed: Path, local: Path) -> None:
    feed = forebay.feed(
        indexed, "rows",
        **options(local, batch_size=10, columns=["tokens"], padding={"tokens": -1}, output="numpy"),
    )
    batch = next(feed)
    assert list(batch) == ["tokens"] and batch["tokens"].dtype == np.int32
    for row in batch["tokens"]:
        filled = (row != -1).sum()
        assert row[:filled].tolist() == list(range(filled)) and (row[filled:] == -1).all()


def test_datasets_are_mixed_by_weight_and_the_schedule_changes_it(indexed: Path, local: Path) -> None:
    feed = forebay.feed(
        indexed, {"rows": 3, "lines": 1},
        **options(local, batch_size=64, columns=["number"], schedule=[(32, {"lines": 1})]),
    )
    of = {
        sample["id"]: sample["dataset"]
        for step in (0, 1, 2, 3, 60, 61)
        for sample in forebay.trace(feed, step)
    }
    early = [of[id] for step in range(4) for id in _ids(feed, step)]
    assert 0.6 < early.count("rows") / len(early) < 0.9
    late = [sample["dataset"] for sample in forebay.trace(feed, 60)]
    assert set(late) == {"lines"}


def test_an_epoch_of_a_mixture_repeats_every_sample_exactly_as_often(
    indexed: Path, local: Path
) -> None:
    # Both have the numbers below 90, and their files differ: a sample is known by its identity.
    repeats = {"rows": 1, "lines": 3}
    mixed = {"mix_by": "epochs", "columns": ["number"], "global_batch_size": 16}
    once = set()
    for name in repeats:
        with forebay.feed(indexed, name, **options(local, batch_size=ROWS)) as feed:
            next(feed)
            once.update((id, repeats[name]) for id in feed.last_ids)
    seen: list[Counter[str]] = [Counter(), Counter()]
    for rank in range(3):
        feed = forebay.feed(
            indexed, repeats, **options(local, **mixed, epochs=2, rank=rank, world_size=3)
        )
        assert len(feed) == 2 * -(-ROWS * 4 // 16)
        while (epoch := feed.epoch) < 2:
            next(feed)
            seen[epoch].update(feed.last_ids)
        feed.close()
    assert [set(epoch.items()) for epoch in seen] == [once, once]

    state = json.loads(json.dumps(forebay.feed(indexed, repeats, **options(local, **mixed)).state_dict()))
    for other in [{"rows": 1, "lines": 2}, {"mix_by": "samples"}]:
        weights = other if "rows" in other else repeats
        changed = {**mixed, **({} if "rows" in other else other)}
        with pytest.raises(forebay.InvalidError, match="another order: mixture"):
            forebay.feed(indexed, weights, **options(local, **changed)).load_state_dict(state)


def test_weights_of_tokens_are_those_of_samples_times_their_length(
    indexed: Path, local: Path
) -> None:
    def ids(weights: dict[str, Any], **more: Any) -> list[str]:
        feed = forebay.feed(indexed, weights, **options(local, batch_size=60, **more))
        found = []
        for _ in range(3):
            next(feed)
            found += feed.last_ids
        return found

    wanted = {"columns": ["number"]}
    by_samples = ids({"rows": 1, "lines": 4}, **wanted)
    long = {"rows": {"weight": 2, "tokens_per_sample": 8}, "lines": {"weight": 1, "tokens_per_sample": 1}}
    assert ids(long, mix_by="tokens", mix_column="text", **wanted) == by_samples
    # Every number is one element.
    assert ids({"rows": 1, "lines": 4}, mix_by="tokens", mix_column="number", **wanted) == by_samples


@pytest.mark.parametrize(
    ("weights", "more", "says"),
    [
        ({"rows": 1}, {"mix_by": "bytes"}, "choose 'samples', 'tokens' or 'epochs'"),
        ({"rows": {"tokens_per_sample": 3}}, {"mix_by": "tokens"}, "'rows' is mixed by"),
        ({"rows": {"weight": 1, "tokens_per_sample": 3}}, {}, "'rows' has tokens_per_sample"),
        ("rows", {"mix_column": "number"}, "mix_column is 'number', which counts with"),
        ({"lines": 1}, {"mix_by": "tokens"}, "`lines` has no column `tokens` to count"),
        ({"rows": 1}, {"mix_by": "tokens"}, "`rows` has samples of any length in its column `tokens`"),
        ({"rows": 1}, {"mix_by": "epochs", "schedule": [(5, {"rows": 2})]}, "leave the schedule out"),
        ({"rows": 0.01}, {"mix_by": "epochs"}, "fill no turn of the 8 canonical streams"),
    ],
)
def test_mixtures_that_cannot_work_are_refused_by_name(
    indexed: Path, local: Path, weights: Any, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(forebay.InvalidError, match=says):
        forebay.feed(indexed, weights, **options(local, batch_size=8, **more))


def _ids(feed: forebay.Feed, step: int) -> list[str]:
    assert feed.step == step
    next(feed)
    return feed.last_ids


def test_a_trace_names_file_and_row(indexed: Path, local: Path) -> None:
    feed = forebay.feed(indexed, "pictures", **options(local, batch_size=5))
    batch = next(feed)
    traced = forebay.trace(feed, 0)
    assert [sample["id"] for sample in traced] == feed.last_ids
    assert [sample["label"] for sample in traced] == batch["__key__"]  # type: ignore[typeddict-item]
    for sample, number in zip(traced, batch["cls"].tolist()):
        assert sample["origins"][0]["source"] == f"part-{number // 30}.tar"


def test_a_file_that_changed_is_named(tmp_path: Path, local: Path) -> None:
    (tmp_path / "files").mkdir()
    write_parquet(tmp_path / "files")
    forebay.index(tmp_path / "lake", "rows", tmp_path / "files", local=tmp_path / "tier")
    file = tmp_path / "files" / "rows.parquet"
    body = bytearray(file.read_bytes())
    body[40] ^= 1
    file.write_bytes(body)
    feed = forebay.feed(tmp_path / "lake", "rows", **options(local, batch_size=8))
    with pytest.raises(forebay.CorruptError, match=r"rows\.parquet"):
        for _ in range(12):
            next(feed)
