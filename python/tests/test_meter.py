"""The live meter."""

from __future__ import annotations

import io
import re

import forebay
from forebay._meter import Reading, show

from conftest import OpenFeed, ids_of

LINE = re.compile(
    r"forebay: [\d,]+ samples/s, [\d.]+ \w+/s, waiting [\d.]+ %( for [a-z ]+)?, "
    r"\d+ lake requests, cache hits (\d+ %|-), memory [\d.]+ \w+\n"
)


def test_a_line_says_how_fast_and_why() -> None:
    before = Reading(10.0, 100, 0, 0.0, 0.0, 0.0, 3, 0, 0)
    now = Reading(12.0, 2100, 4_000_000, 0.5, 0.1, 0.0, 8, 3, 1)
    line = show(before, now)
    assert line.startswith(
        "forebay: 1,000 samples/s, 2.0 MB/s, waiting 30.0 % for lake, 5 lake requests, "
        "cache hits 75 %, memory "
    )


def test_it_prints_while_a_feed_runs_and_once_at_the_end(open_feed: OpenFeed) -> None:
    feed, out = open_feed(), io.StringIO()
    with forebay.Meter(feed, every_seconds=0.02, stream=out):
        ids_of(feed, 200)
        feed.load_state_dict({**feed.state_dict(), "step": 3})
        ids_of(feed, 20)
    lines = out.getvalue().splitlines(keepends=True)
    assert lines and all(LINE.fullmatch(line) for line in lines), lines


def test_a_feed_that_is_closed_ends_it(open_feed: OpenFeed) -> None:
    feed, out = open_feed(), io.StringIO()
    with forebay.Meter(feed, every_seconds=0.01, stream=out), feed.meter():
        feed.close()
