"""Forks: runs that go on from a committed step of another run."""

from __future__ import annotations

import json
import os
from typing import Any, TypedDict

from . import _forebay
from ._errors import Error, of_kind
from ._feed import LOCAL_BUDGET, open_engine
from ._group import Group


class Forked(TypedDict):
    """What a fork came to."""

    run: str
    #: The checkpoint it goes on from: its ``run``, its ``step`` and the ``digest`` of its commit.
    origin: dict[str, Any]
    #: The bytes of tensor files that the new run holds.
    bytes: int
    #: How many of them went through this process, because the store could not copy them.
    moved_bytes: int
    #: Whether the fork was there already.
    existed: bool


def fork_run(
    lake: str | os.PathLike[str],
    run: str,
    step: int | None,
    new_run: str,
    *,
    local: str | os.PathLike[str] | None = None,
    local_budget: int | str = LOCAL_BUDGET,
) -> Forked:
    """Makes ``new_run``, which goes on from a committed step of ``run``, the newest for ``None``.

    The new run owns its files: nothing that happens to ``run`` later touches it. A lake that is a
    directory gives the files a second name, a bucket copies them itself. Asking again for a fork that
    is there changes nothing, however far it has gone.

    Raises
    ------
    forebay.NotFoundError
        The step is not committed.
    forebay.ConflictError
        ``new_run`` has checkpoints that do not come from there.
    """
    return fork(open_engine(lake, local, local_budget), run, step, new_run)


def fork(engine: _forebay.Engine, run: str, step: int | None, new_run: str) -> Forked:
    """The same, with tiers that are open."""
    said = json.loads(engine.fork_run(run=run, step=step, new_run=new_run))
    said["origin"] = said.pop("from")
    forked: Forked = said
    return forked


def fork_together(group: Group, engine: _forebay.Engine, of: tuple[str, int | None], run: str) -> None:
    """Forks once for all ranks, which learn together whether that went well."""
    said = b""
    if group.rank == 0:
        try:
            fork(engine, *of, run)
        except Error as error:
            said = f"{error.kind}\n{error}".encode()
    failed = group.gather(said)[0].decode()
    if failed:
        raise of_kind(*failed.split("\n", 1))
