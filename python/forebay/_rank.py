"""Which process of a job this is."""

from __future__ import annotations

import os
import sys

from ._errors import InvalidError


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process's rank and the world size.

    What is given wins; then ``torch.distributed`` where it is initialized (it is never imported
    for this); then the environment of a launcher (``RANK``, ``WORLD_SIZE``); else rank 0 of 1.
    """
    if (rank is None) != (world_size is None):
        raise InvalidError("give both rank and world_size, or neither of them")
    if rank is not None and world_size is not None:
        return _checked(rank, world_size)
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return _checked(int(distributed.get_rank()), int(distributed.get_world_size()))
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _checked(_number("RANK"), _number("WORLD_SIZE"))
    return 0, 1


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise InvalidError(f"{name} is {os.environ[name]!r}; it must be a number") from None


def _checked(rank: int, world_size: int) -> tuple[int, int]:
    if 0 <= rank < world_size:
        return rank, world_size
    raise InvalidError(
        f"rank {rank} of world size {world_size} does not exist: "
        "ranks count from 0 to world size - 1"
    )
