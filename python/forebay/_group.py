"""What the ranks of a job tell each other: little, and rarely.

Ranks agree on the run's step to go on from, on who writes what they all hold, and on when to save.
Tensors never travel. Over ``torch.distributed`` this takes a group of its own, on gloo, so that it
neither waits for nor disturbs the collectives of training.
"""

from __future__ import annotations

import sys
import uuid
from typing import Any, Protocol

from ._errors import InvalidError
from ._rank import find_rank


class Group(Protocol):
    """The ranks of a job."""

    rank: int
    world_size: int
    #: A text that all ranks of this launch share and no other launch has.
    launch: str

    def gather(self, said: bytes) -> list[bytes]:
        """What each rank says, in the order of ranks. All ranks call it, and wait for each other."""

    def highest(self, value: int) -> Any:
        """Begins to find the highest value over all ranks; call what comes back to learn it."""

    def close(self) -> None:
        """Ends the group."""


class Alone:
    """A job of one process."""

    rank = 0
    world_size = 1

    def __init__(self) -> None:
        self.launch = uuid.uuid4().hex

    def gather(self, said: bytes) -> list[bytes]:
        return [said]

    def highest(self, value: int) -> Any:
        return lambda: value

    def close(self) -> None:
        pass


class Distributed:
    """The ranks of ``torch.distributed``. Every rank makes it, at the same point of its script."""

    def __init__(self) -> None:
        import torch
        from torch import distributed

        self._torch: Any = torch
        self._distributed: Any = distributed
        self.rank = int(distributed.get_rank())
        self.world_size = int(distributed.get_world_size())
        self._group = distributed.new_group(backend="gloo")
        self.launch = self.gather(uuid.uuid4().bytes)[0].hex()

    def gather(self, said: bytes) -> list[bytes]:
        torch = self._torch
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        length = torch.tensor([len(said)])
        self._distributed.all_gather(lengths, length, group=self._group)
        longest = max(1, *(int(length) for length in lengths))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(said)] = torch.frombuffer(bytearray(said or b"\0"), dtype=torch.uint8)[: len(said)]
        found = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        self._distributed.all_gather(found, padded, group=self._group)
        return [
            one[: int(length)].numpy().tobytes() for one, length in zip(found, lengths)
        ]

    def highest(self, value: int) -> Any:
        said = self._torch.tensor([value])
        work = self._distributed.all_reduce(
            said, self._distributed.ReduceOp.MAX, group=self._group, async_op=True
        )

        def found() -> int:
            work.wait()
            return int(said)

        return found

    def close(self) -> None:
        if self._distributed.is_initialized():
            self._distributed.destroy_process_group(self._group)


def find_group() -> Group:
    """The ranks of this job: ``torch.distributed``'s where it is initialized, else one alone."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return Distributed() if distributed.get_world_size() > 1 else Alone()
    rank, world_size = find_rank(None, None)
    if world_size > 1:
        raise InvalidError(
            f"this is rank {rank} of {world_size}, and ranks save together: call "
            "torch.distributed.init_process_group(…) before the checkpointer is made"
        )
    return Alone()
