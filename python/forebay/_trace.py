"""From a step to its samples, and from them to the raw records they were made of."""

from __future__ import annotations

import json
import os
from typing import TypedDict

from ._errors import InvalidError
from ._feed import LOCAL_BUDGET, Feed, open_engine


class Origin(TypedDict):
    """A piece of a sample: which tokens of which raw record it is."""

    source: str
    record: int
    offset: int
    bytes: int
    token_start: int
    tokens: int


class Sample(TypedDict):
    """A sample of a step: its identity, where it is stored, and what it was made of."""

    dataset: str
    id: str
    shard: int
    shard_digest: str
    row: int
    origins: list[Origin]


def trace(
    source: Feed | str,
    step: int,
    *,
    lake: str | os.PathLike[str] | None = None,
    local: str | os.PathLike[str] | None = None,
    local_budget: int | str = LOCAL_BUDGET,
) -> list[Sample]:
    """The samples of the global batch of ``step``, over all ranks, in order, with their origins.

    ``source`` is a feed, which stays where it is, or the name of a run of ``forebay train`` in
    ``lake``, archived or not; ``local`` and ``local_budget`` are those of :func:`forebay.feed`.
    Nothing was logged for this: the order is a pure function. Raises
    :class:`forebay.InvalidError` when there is no such step, and
    :class:`forebay.NotFoundError` when there is no such run.
    """
    if isinstance(source, str):
        if lake is None:
            raise InvalidError(f"the run {source!r} lies in a lake; give it: trace(…, lake=…)")
        said = open_engine(lake, local, local_budget).trace_run(source, step)
    elif lake is not None:
        raise InvalidError("a feed has its lake already; give `lake` with a run's name alone")
    else:
        said = source._native.trace(step)
    samples: list[Sample] = json.loads(said)
    return samples
