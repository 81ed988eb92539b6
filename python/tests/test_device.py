"""Batches to a GPU; where there is none, that is said."""

from __future__ import annotations

from typing import Any

import forebay
import pytest
import torch

from conftest import OpenFeed, ids_of

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_missing_gpu_is_said(open_feed: OpenFeed, device: str) -> None:
    with pytest.raises(RuntimeError, match="torch sees no GPU on this machine") as raised:
        open_feed(device=device)
    assert isinstance(raised.value, forebay.RefusedError)


@pytest.mark.parametrize("device", ["floppy", "mps"])
def test_an_unknown_device_is_refused(open_feed: OpenFeed, device: str) -> None:
    with pytest.raises(forebay.InvalidError, match=device):
        open_feed(device=device)


def test_the_cpu_is_a_device(open_feed: OpenFeed) -> None:
    assert next(open_feed(device="cpu"))["tokens"].device.type == "cpu"


@needs_gpu
def test_batches_on_the_gpu_are_those_of_the_cpu(open_feed: OpenFeed) -> None:
    gpu, cpu = open_feed(device="cuda", epochs=1), open_feed(epochs=1)
    kept: list[tuple[Any, Any]] = []
    for there, here in zip(gpu, cpu, strict=True):
        assert there["tokens"].is_cuda and gpu.last_ids == cpu.last_ids
        kept.append((there["tokens"], here["tokens"]))
    for there_tokens, here_tokens in kept:
        assert torch.equal(there_tokens.cpu(), here_tokens)


@needs_gpu
def test_the_state_is_of_delivered_batches_not_of_the_one_ahead(open_feed: OpenFeed) -> None:
    feed = open_feed(device="cuda")
    whole = ids_of(open_feed(), 10)
    assert ids_of(feed, 4) == whole[:4] and feed.state_dict()["step"] == 4
    feed.load_state_dict({**feed.state_dict(), "step": 2})
    assert ids_of(feed, 3) == whole[2:5]
