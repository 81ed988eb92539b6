"""A state goes through JSON and resumes exactly, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forebay
import pytest

from conftest import OpenFeed, ids_of


def through_json(state: Any) -> Any:
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("steps", [0, 1, 7, 100])
def test_a_state_resumes_exactly(open_feed: OpenFeed, steps: int) -> None:
    whole = ids_of(open_feed(), steps + 20)
    first = open_feed()
    ids_of(first, steps)
    state = through_json(first.state_dict())
    assert state["step"] == steps
    second = open_feed(threads=1, buffer_bytes="1MB")
    ids_of(second, 3)
    second.load_state_dict(state)
    assert second.state_dict() == state
    assert ids_of(second, 20) == whole[steps:]


def test_another_world_size_goes_on_with_the_same_samples(open_feed: OpenFeed) -> None:
    whole = ids_of(open_feed(global_batch_size=12), 20)
    before = open_feed(global_batch_size=12, rank=1, world_size=2)
    ids_of(before, 5)
    ranks = [open_feed(global_batch_size=12, rank=rank, world_size=3) for rank in range(3)]
    for rank in ranks:
        rank.load_state_dict(before.state_dict())
    after = [ids_of(rank, 15) for rank in ranks]
    for step in range(15):
        assert [after[i % 3][step][i // 3] for i in range(12)] == whole[5 + step]


def test_another_batch_size_goes_on_at_the_same_sample(open_feed: OpenFeed) -> None:
    flat = [id for ids in ids_of(open_feed(batch_size=4), 12) for id in ids]
    before = open_feed(batch_size=4)
    ids_of(before, 6)
    after = open_feed(batch_size=8)
    after.load_state_dict(before.state_dict())
    assert [id for ids in ids_of(after, 3) for id in ids] == flat[24:]
    # Also inside of what would be a batch from the start.
    inside = open_feed(batch_size=16)
    inside.load_state_dict(before.state_dict())
    assert [id for ids in ids_of(inside, 1) for id in ids] == flat[24:40]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seed": 2}, r"seed \(1 there, 2 here\)"),
        ({"shuffle": False}, "shuffle"),
        ({"canonical_streams": 3}, "canonical_streams"),
        ({"window_shards": 1}, "window_shards"),
        ({"split": "validation", "batch_size": 1}, r"split \('train' there, 'validation' here\)"),
    ],
)
def test_a_state_of_another_order_is_refused(
    open_feed: OpenFeed, options: dict[str, Any], says: str
) -> None:
    state = open_feed(seed=1).state_dict()
    other = open_feed(**{"seed": 1, **options})
    with pytest.raises(forebay.InvalidError, match=says):
        other.load_state_dict(state)
    assert other.step == 0


def test_a_state_of_another_dataset_is_refused(
    open_feed: OpenFeed, source: Path, tmp_path: Path
) -> None:
    forebay.prepare(
        tmp_path / "lake",
        "other",
        source,
        local=tmp_path / "l",
        row_tokens=65,
        shard_bytes=1 << 16,
        batch_bytes=1 << 13,
    )
    other = open_feed(lake=tmp_path / "lake", dataset="other@1")
    with pytest.raises(forebay.InvalidError, match=r"dataset \(text@1 there, other@1 here\)"):
        other.load_state_dict(open_feed().state_dict())


def test_what_is_no_state_is_refused(open_feed: OpenFeed) -> None:
    feed = open_feed()
    state = feed.state_dict()
    for wrong, says in [
        ({}, "not the state of a feed"),
        ([], "not the state of a feed"),
        ({key: value for key, value in state.items() if key != "order"}, "it lacks order"),
        ({**state, "step": -1}, "step is -1"),
        ({**state, "epoch": "many"}, "epoch is 'many'"),
    ]:
        with pytest.raises(forebay.InvalidError, match=says):
            feed.load_state_dict(wrong)
    with pytest.raises(forebay.NewerFormatError, match="upgrade"):
        feed.load_state_dict({**state, "version": 2})
