"""Transforms: whole batches, on threads, in order, errors where they belong."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import forebay
import pytest

from conftest import OpenFeed, ids_of


def test_order_is_kept_whatever_a_transform_takes(open_feed: OpenFeed) -> None:
    threads = set()

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        threads.add(threading.get_ident())
        time.sleep(random.random() / 200)
        return {"sums": batch["tokens"].long().sum(1)}

    plain, feed = open_feed(epochs=1), open_feed(epochs=1, transform=transform, transform_threads=4)
    for batch in plain:
        assert (next(feed)["sums"] == batch["tokens"].long().sum(1)).all()
        assert feed.last_ids == plain.last_ids
    with pytest.raises(StopIteration):
        next(feed)
    assert threading.get_ident() not in threads and len(threads) > 1


def test_the_state_is_of_delivered_batches(open_feed: OpenFeed) -> None:
    feed = open_feed(transform=lambda batch: batch, transform_threads=3)
    whole = ids_of(open_feed(), 20)
    assert ids_of(feed, 5) == whole[:5]
    time.sleep(0.05)
    state = feed.state_dict()
    assert state["step"] == 5
    after = open_feed(transform=lambda batch: batch)
    after.load_state_dict(state)
    assert ids_of(after, 15) == whole[5:]
    feed.load_state_dict({**state, "step": 2, "samples_in_epoch": 16})
    assert ids_of(feed, 3) == whole[2:5]


def test_batches_ahead_are_bounded(open_feed: OpenFeed) -> None:
    begun: list[int] = []

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        begun.append(1)
        return batch

    feed = open_feed(transform=transform, transform_threads=2)
    next(feed)
    time.sleep(0.2)
    assert len(begun) <= 1 + 3


def test_threads_end_with_their_feed(lake: Path, local: Path) -> None:
    def transforming() -> int:
        return sum("forebay-transform" in thread.name for thread in threading.enumerate())

    feed = forebay.feed(lake, "text", batch_size=8, local=local, transform=lambda batch: batch)
    next(feed)
    assert transforming() >= 2
    del feed
    for _ in range(600):
        if not transforming():
            break
        time.sleep(0.05)
    assert transforming() == 0


class Odd(Exception):
    pass


def test_an_exception_comes_at_its_batch_with_step_and_samples(open_feed: OpenFeed) -> None:
    bad = ids_of(open_feed(), 4)[3]

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        if forebay.sample_ids(batch["__id__"]) == bad:
            raise Odd("three")
        return batch

    feed = open_feed(transform=transform, columns=["tokens", "__id__"], transform_threads=3)
    ids_of(feed, 3)
    with pytest.raises(Odd, match="three") as raised:
        next(feed)
    assert f"step 3, samples {bad[0]}" in raised.value.__notes__[0]
    assert feed.step == 3
    next(feed)
    assert feed.step == 5


@pytest.mark.parametrize(
    ("transform", "error", "says"),
    [
        (lambda batch: None, TypeError, "returns a dict"),
        (lambda batch: next(iter(())), RuntimeError, "raised StopIteration"),
    ],
)
def test_wrong_transforms_do_not_end_the_loop(
    open_feed: OpenFeed, transform: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        next(open_feed(transform=transform))
