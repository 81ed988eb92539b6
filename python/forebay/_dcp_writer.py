"""Writing for ``torch.distributed.checkpoint``: one commit a save.

The planner's calls come in this order, and do this::

    reset(checkpoint_id)        all ranks     the step
    prepare_local_plan          all ranks     types that cannot be stored are refused
    prepare_global_plan         coordinator   all ranks of the run are there, and agree on each tensor
    write_data                  all ranks     values are encoded; all ranks agree that all can be
                                              stored; captured; its future waits for the commit
    finish                      coordinator   nothing is left to do

A rank's part is one file and one record; whoever sees all ranks' makes the commit. Killed before it,
the step does not exist, and the next writer on this node brings what was captured to the lake.
"""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageWriter as TorchStorageWriter
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ._dcp_id import is_step, parse_step
from ._dcp_items import Items, check_type
from ._errors import InvalidError
from ._feed import LOCAL_BUDGET
from ._group import Group, find_group
from ._saves import Saves
from ._settings import save_settings

if TYPE_CHECKING:
    from typing_extensions import Self


class StorageWriter(TorchStorageWriter):
    """Writes checkpoints of a run for ``dcp.save`` and ``dcp.async_save``.

    Every rank makes one, once, after ``init_process_group``, and all of them save together. The id of
    a checkpoint is the number of steps taken, an int or a text of digits; a step that is committed
    stays as it is, and saving another state under it raises :class:`forebay.ConflictError`.

    Making it brings what a killed run left on this node to the lake. A save that failed stays on
    this node; the next one, or ``close``, tries it again.

    Parameters
    ----------
    lake, local, local_budget
        As for :func:`forebay.feed`.
    run, keep_last, keep_every, compress, memory, threads
        As for :class:`forebay.Checkpointer`.

    Raises
    ------
    forebay.InvalidError
        A setting cannot work.
    forebay.UnavailableError, forebay.FullError, …
        A tier failed while what a killed run left on this node was finished.
    """

    def __init__(
        self,
        lake: str | os.PathLike[str],
        run: str,
        *,
        local: str | os.PathLike[str] | None = None,
        local_budget: int | str = LOCAL_BUDGET,
        keep_last: int = 3,
        keep_every: int = 0,
        compress: bool = False,
        memory: int | str | None = None,
        threads: int = 2,
    ) -> None:
        self.run = run
        self._group: Group = find_group()
        settings: dict[str, Any] = {"keep_last": keep_last, "keep_every": keep_every}
        settings |= save_settings(compress=compress, memory=memory, threads=threads)
        self._saves = Saves(lake, run, self._group, local, local_budget, settings)
        self._is_closed = False
        self._step: int | None = None
        # Every rank has finished what it found staged: whoever looks now finds the same newest step.
        self._group.gather(b"")
        if self._group.rank == 0:
            self._saves.claim()
        self._group.gather(b"")

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str] | int) -> bool:
        """Whether this is a number of steps."""
        return is_step(checkpoint_id)

    def reset(self, checkpoint_id: str | os.PathLike[str] | int | None = None) -> None:
        """A save begins, of the step that the id says."""
        self._step = None if checkpoint_id is None else parse_step(checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Refuses ranks that do not plan together: each would write what all hold alike."""
        if not kwargs.get("use_collectives", True) and self._group.world_size > 1:
            raise InvalidError(
                "use_collectives=False: ranks have to plan together who writes what they hold alike"
            )

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Refuses tensors of types that cannot be stored."""
        if self._step is None:
            raise InvalidError(
                f"run {self.run}: give checkpoint_id, the number of steps taken, with each save"
            )
        for item in plan.items:
            if item.tensor_data is not None:
                type_name = str(item.tensor_data.properties.dtype).removeprefix("torch.")
                check_type(type_name, (item.index.fqn,))
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Refuses what could be committed and not be read."""
        if len(plans) != self._group.world_size:
            raise InvalidError(
                f"run {self.run}: {len(plans)} of {self._group.world_size} ranks save; all ranks of "
                "the job belong to its checkpoints: give no `no_dist`, nor a process group of fewer"
            )
        check_agreement(plans)
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Captures this rank's part; the future completes when the step is committed.

        The state may change when this returns.
        """
        step, self._step = self._step, None
        assert step is not None, "prepare_local_plan came before"
        part, failure = None, None
        try:
            part = Items(plan, planner)
        except Exception as error:
            failure = error
        self._agree(step, failure)
        assert part is not None, "a failure was raised"
        self._saves.forget_failures()
        self._saves.capture(step, part.leaves, {"items": part.items})
        return _Committed(self._saves, step, part.results)

    def _agree(self, step: int, failure: Exception | None) -> None:
        """Raises on all ranks what one of them cannot do: nobody waits for a part that never comes."""
        said = [step, None if failure is None else str(failure)]
        found = [json.loads(one) for one in self._group.gather(json.dumps(said).encode())]
        if failure is not None:
            raise failure
        for rank, (theirs, why) in enumerate(found):
            if why is not None:
                raise InvalidError(f"step {step} of run {self.run} is not saved: rank {rank}: {why}")
            if theirs != step:
                ours = f"rank {self._group.rank} saves step {step}"
                raise InvalidError(f"run {self.run}: {ours}, and rank {rank} step {theirs}")

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Every rank saw the commit before its future completed: there is nothing left to do."""

    def close(self) -> None:
        """Waits until every save is durable, and raises what went wrong. Closing twice is no error."""
        if not self._is_closed:
            self._saves.close()
            self._group.close()
            self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            # What went wrong before is what the user wants to see.
            self._saves.abandon()

    def __repr__(self) -> str:
        return f"<forebay.dcp.StorageWriter of run {self.run}, rank {self._group.rank}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "a writer belongs to its process and cannot be pickled: use async_save with threads, "
            "AsyncCheckpointerType.THREAD"
        )


class _Committed(Future[list[WriteResult]]):
    """Completes when a step is committed."""

    def __init__(self, saves: Saves, step: int, results: list[WriteResult]) -> None:
        super().__init__()
        # Not a daemon: a script that ends early still has what it saved.
        self._thread = threading.Thread(
            target=self._watch, args=(saves, step, results), name="forebay-commit"
        )
        self._thread.start()

    def _watch(self, saves: Saves, step: int, results: list[WriteResult]) -> None:
        try:
            saves.await_commit(step)
        except Exception as error:
            self.set_exception(error)  # type: ignore[arg-type]
        else:
            self.set_result(results)

    def wait(self) -> list[WriteResult]:
        """Waits as torch's does, and notices Ctrl-C."""
        self._thread.join()
        return super().wait()


def check_agreement(plans: list[SavePlan]) -> None:
    """Raises when ranks hold different things under one name."""
    forms: dict[str, Any] = {}
    for rank, plan in enumerate(plans):
        for item in plan.items:
            data = item.tensor_data
            form = None if data is None else (data.properties.dtype, tuple(data.size))
            first, known = forms.setdefault(item.index.fqn, (rank, form))
            if known != form:
                raise InvalidError(
                    f"{item.index.fqn!r} is {_show(form)} on rank {rank} and {_show(known)} on rank "
                    f"{first}: what ranks hold under one name must be the same; give each its own name"
                )


def _show(form: Any) -> str:
    return "no tensor" if form is None else f"{form[0]} of {list(form[1])}"
