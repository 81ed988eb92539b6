"""Preparation and trace: from raw records to samples and back."""

from __future__ import annotations

import json
from pathlib import Path

import forebay
import pytest

from conftest import RECIPE, OpenFeed, ids_of


def test_equal_work_is_found(lake: Path, source: Path, tmp_path: Path) -> None:
    again = forebay.prepare(lake, "text", source, local=tmp_path / "l", workers=1, **RECIPE)
    assert again["reused"] and again["version"] == 1
    assert again["read"] == again["kept"] + sum(again["dropped"].values())


def test_a_step_leads_to_its_raw_records(
    source: Path, open_feed: OpenFeed
) -> None:
    feed = open_feed(output="numpy")
    batches = [next(feed)["tokens"].copy() for _ in range(4)]
    ids = feed.last_ids
    samples = forebay.trace(feed, 3)
    assert [sample["id"] for sample in samples] == ids
    assert feed.step == 4
    records = (source / "addresses.jsonl").read_bytes()
    for sample, tokens in zip(samples, batches[3]):
        assert sum(origin["tokens"] for origin in sample["origins"]) <= 513
        for origin in sample["origins"]:
            assert origin["source"].endswith("addresses.jsonl")
            record = records[origin["offset"] : origin["offset"] + origin["bytes"]]
            assert json.loads(record)["text"]
        # Tokens are bytes; a piece that begins inside its record stands there in the text.
        assert tokens.max() < 512


def test_a_step_that_does_not_exist_is_refused(open_feed: OpenFeed) -> None:
    feed = open_feed(epochs=1)
    with pytest.raises(forebay.InvalidError, match="does not exist"):
        forebay.trace(feed, feed.steps_per_epoch)
    assert ids_of(feed, 1)


def test_a_run_is_traced_by_its_name_in_a_lake(lake: Path, local: Path, open_feed: OpenFeed) -> None:
    with pytest.raises(forebay.NotFoundError, match="day-1"):
        forebay.trace("day-1", 12, lake=lake, local=local)
    with pytest.raises(forebay.InvalidError, match="'day-1' lies in a lake; give it"):
        forebay.trace("day-1", 12)
    with pytest.raises(forebay.InvalidError, match="has its lake already"):
        forebay.trace(open_feed(), 0, lake=lake)
