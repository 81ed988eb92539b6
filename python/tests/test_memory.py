"""Batches lie in the engine's memory, and are their consumer's until dropped."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import torch

from conftest import OpenFeed


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_batches_that_are_kept_are_never_overwritten(open_feed: OpenFeed) -> None:
    feed = open_feed(output="numpy", threads=4)
    kept = [next(feed)["tokens"] for _ in range(60)]
    copies = [array.copy() for array in kept]
    for _ in range(200):
        next(feed)
    for array, copy in zip(kept, copies):
        np.testing.assert_array_equal(array, copy)
    spans = sorted((address(array), array.nbytes) for array in kept)
    assert all(start + size <= after for (start, size), (after, _) in zip(spans, spans[1:]))


def test_memory_is_used_again_once_the_last_view_is_gone(open_feed: OpenFeed) -> None:
    feed = open_feed(output="numpy", buffer_bytes="64kB")
    seen: set[int] = set()
    for _ in range(200):
        seen.add(address(next(feed)["tokens"]))
    # Seven batches fit into the bound; malloc may move one when it grows.
    assert len(seen) <= 16
    view = next(feed)["tokens"][2:4, ::2].T
    before = view.copy()
    gc.collect()
    for _ in range(50):
        next(feed)
    np.testing.assert_array_equal(view, before)


def test_tensors_keep_their_memory_through_every_view(open_feed: OpenFeed) -> None:
    feed = open_feed()
    row = next(feed)["tokens"][3].view(torch.int16)
    shared = np.from_dlpack(row)
    before = shared.copy()
    del row
    feed.close()
    gc.collect()
    np.testing.assert_array_equal(shared, before)


def test_a_batch_is_its_consumer_s_own_to_write(open_feed: OpenFeed) -> None:
    feed, same = open_feed(output="numpy", columns=["tokens", "__id__"]), open_feed(output="numpy")
    for _ in range(30):
        batch = next(feed)
        np.testing.assert_array_equal(batch["tokens"], next(same)["tokens"])
        assert batch["tokens"].flags.writeable and batch["__id__"].flags.writeable
        batch["tokens"][:] = 7
        batch["__id__"][:] = 7


@pytest.mark.parametrize("threads", [4])
def test_threads_share_a_feed_without_losing_a_batch(open_feed: OpenFeed, threads: int) -> None:
    feed = open_feed(epochs=1, output="numpy")
    native, found, lock = feed._native, [], threading.Lock()

    def work() -> None:
        while (taken := native.next()) is not None:
            feed.stats()
            with lock:
                found.append(taken[0].step)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(found) == list(range(feed.steps_per_epoch))
