"""The data loader: one epoch for each iteration, and a state in the middle of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forebay
import pytest
import torch
from forebay.torch import DataLoader, IterableDataset


@pytest.fixture
def make(lake: Path, local: Path) -> Any:
    def make(kind: Any = DataLoader, **options: Any) -> Any:
        options = {"batch_size": 32, "local": local, "rank": 0, "world_size": 1, **options}
        return kind(lake, "text", **options)

    return make


def epoch(loader: DataLoader, steps: int | None = None) -> list[list[str]]:
    """The identities of one iteration, or of its first steps."""
    found = []
    for _, _batch in zip(range(len(loader) if steps is None else steps), loader):
        found.append(loader.feed.last_ids)
    return found


def test_each_iteration_is_one_epoch(make: Any) -> None:
    loader = make()
    first, second = [len(list(loader)) for _ in range(2)]
    assert first == second == len(loader) == loader.feed.rows // 32
    loader = make()
    epochs = [epoch(loader) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    loader = make()
    loader.set_epoch(2)
    assert epoch(loader) == epochs[2]
    loader.set_epoch(0)
    assert epoch(loader) == epochs[0]


def test_an_iteration_that_was_left_is_not_gone_on_with(make: Any) -> None:
    whole = make()
    epochs = [epoch(whole) for _ in range(2)]
    loader = make()
    assert epoch(loader, 3) == epochs[0][:3]
    assert epoch(loader) == epochs[1]


def test_an_iterator_that_is_never_used_changes_nothing(make: Any) -> None:
    before = make()
    epoch(before, 4)
    after = make()
    after.load_state_dict(before.state_dict())
    iter(after), iter(after)
    whole = make()
    assert epoch(after) == epoch(whole)[4:]


@pytest.mark.parametrize("told", [True, False])
def test_a_state_in_the_middle_of_an_epoch_is_gone_on_with(make: Any, told: bool) -> None:
    whole = make()
    epochs = [epoch(whole) for _ in range(3)]
    before = make()
    epoch(before)
    epoch(before, 4)
    after = make()
    after.load_state_dict(before.state_dict())
    if told:
        after.set_epoch(1)
    assert epoch(after) == epochs[1][4:]
    assert epoch(after) == epochs[2]


def test_torch_s_own_loader_takes_the_dataset(make: Any) -> None:
    dataset = make(IterableDataset)
    plain = make()
    loader: Any = torch.utils.data.DataLoader(dataset, batch_size=None)
    assert len(loader) == len(plain)
    for there, here in zip(loader, plain, strict=True):
        assert torch.equal(there["tokens"].int(), here["tokens"].int())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_are_refused(make: Any, method: str) -> None:
    loader: Any = torch.utils.data.DataLoader(
        make(IterableDataset), batch_size=None, num_workers=2, multiprocessing_context=method
    )
    with pytest.raises(forebay.RefusedError, match="set num_workers=0"):
        next(iter(loader))


def test_the_loop_decides_how_many_epochs(make: Any) -> None:
    with pytest.raises(TypeError, match="leave `epochs`"):
        make(epochs=2)
