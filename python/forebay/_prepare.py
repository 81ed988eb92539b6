"""Morning: raw records to a published dataset version."""

from __future__ import annotations

import json
import os
from typing import Any, TypedDict

from ._errors import InvalidError
from ._feed import LOCAL_BUDGET, open_engine


class Prepared(TypedDict):
    """What became of the raw records; counts of records by reason, of rows by split."""

    dataset: str
    version: int
    identity: str
    reused: bool
    read: int
    kept: int
    dropped: dict[str, int]
    quarantined: dict[str, int]
    rows: dict[str, int]


def prepare(
    lake: str | os.PathLike[str],
    dataset: str,
    source: str | os.PathLike[str],
    *,
    local: str | os.PathLike[str] | None = None,
    local_budget: int | str = LOCAL_BUDGET,
    workers: int = 0,
    **recipe: Any,
) -> Prepared:
    """Cleans, deduplicates, tokenizes, shuffles and publishes ``source`` as a dataset version.

    ``source`` is a file or a directory of text and JSON lines, compressed or not. The same source
    and recipe give the same bytes whatever the number of ``workers`` (0: one for each core), and
    are found rather than made again. ``recipe`` takes the fields that ``forebay config`` shows
    under ``[prepare.recipe]``: ``row_tokens=129``, ``tokenizer="byte"``, ``shard_bytes=…``, ….

    Raises :class:`forebay.InvalidError` for a field that does not exist or cannot work, and the
    tiers' errors. Malformed records are quarantined and are no error.
    """
    if workers < 0:
        raise InvalidError(f"workers is {workers}; it must be at least 0")
    engine = open_engine(lake, local, local_budget)
    said: Prepared = json.loads(engine.prepare(source, dataset, workers, json.dumps(recipe)))
    return said
