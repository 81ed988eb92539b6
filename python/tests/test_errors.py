"""One tree of exceptions: kinds, second bases, messages with every cause."""

from __future__ import annotations

import shutil
from pathlib import Path

import forebay
import pytest
from forebay import _errors

from conftest import OpenFeed, ids_of


def test_each_kind_has_its_exception() -> None:
    for kind, error in _errors.KINDS.items():
        made = _errors.of_kind(kind, "what happened")
        assert type(made) is error and isinstance(made, forebay.Error)
        assert (made.kind, str(made)) == (kind, "what happened")
        assert error.__name__ in forebay.__all__
    assert issubclass(forebay.InvalidError, ValueError)
    assert issubclass(forebay.NotFoundError, LookupError)
    assert issubclass(forebay.UnavailableError, OSError)


def test_what_is_not_there_is_named(open_feed: OpenFeed, tmp_path: Path) -> None:
    with pytest.raises(forebay.NotFoundError, match="absent"):
        open_feed(dataset="absent")
    with pytest.raises(forebay.NotFoundError, match="text"):
        open_feed(dataset="text@9")
    with pytest.raises(forebay.Error, match="nowhere"):
        open_feed(lake=tmp_path / "nowhere" / "lake")
    with pytest.raises(forebay.InvalidError, match="row_tokenz"):
        forebay.prepare(tmp_path / "l", "text", tmp_path, local=tmp_path / "t", row_tokenz=3)


def test_damage_in_the_lake_names_the_object(
    lake: Path, open_feed: OpenFeed, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(lake, copy)
    for shard in (copy / "shards").rglob("*.arrow"):
        shard.chmod(0o600)
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    feed = open_feed(lake=copy)
    with pytest.raises(forebay.CorruptError, match=r"step 0.*because: .*shards/") as raised:
        next(feed)
    assert "\n" not in str(raised.value)
    assert feed.step == 0


def test_the_same_step_is_tried_again_after_an_outage(
    lake: Path, open_feed: OpenFeed, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(lake, copy)
    shards = list((copy / "shards").rglob("*.arrow"))
    for shard in shards:
        shard.rename(shard.with_suffix(".gone"))
    feed = open_feed(lake=copy)
    with pytest.raises(forebay.Error, match="step 0"):
        next(feed)
    for shard in shards:
        shard.with_suffix(".gone").rename(shard)
    # What failed ahead of the consumer meanwhile is told first; each time the step is the same.
    for _ in range(50):
        try:
            found = ids_of(feed, 1)
            break
        except forebay.Error:
            assert feed.step == 0
    assert found == ids_of(open_feed(), 1)
