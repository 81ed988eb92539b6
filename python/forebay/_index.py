"""Morning without moving a byte: datasets as they lie."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from ._errors import InvalidError
from ._feed import LOCAL_BUDGET, open_engine
from ._units import parse_bytes

Format = Literal["webdataset", "parquet", "arrow", "jsonl", "tfrecord", "mds", "litdata"]


class Indexed(TypedDict):
    """What was found: counts of files, of rows by split, and what every sample consists of."""

    dataset: str
    version: int
    identity: str
    reused: bool
    format: str
    files: int
    passed_over: dict[str, int]
    rows: dict[str, int]
    fields: list[dict[str, Any]]


def index(
    lake: str | os.PathLike[str],
    dataset: str,
    source: str | os.PathLike[str] | None = None,
    *,
    paths: Sequence[str] = (),
    format: Format | None = None,
    splits: Sequence[str] = (),
    local: str | os.PathLike[str] | None = None,
    local_budget: int | str = LOCAL_BUDGET,
    extent_bytes: int | str | None = None,
    workers: int = 0,
) -> Indexed:
    """Looks through a dataset where it lies, once, and keeps the index in the lake as a version.

    ``source`` is a directory or a URL that is only read; absent, the files lie in the lake itself,
    below ``paths``. WebDataset tars, Parquet, Arrow and Hugging Face directories, JSON lines,
    TFRecord, MosaicML MDS and LitData are told apart by name, or by ``format``. ``splits`` is empty
    (all is training data), ``["names"]`` (folders and names say it), or ``["train=a/",
    "validation=b/"]``.

    Every byte is read once, so that whatever is fed later can be verified; a run that was stopped
    goes on where it stood, and files that did not change are not read again.
    """
    if workers < 0:
        raise InvalidError(f"workers is {workers}; it must be at least 0")
    engine = open_engine(lake, local, local_budget)
    size = None if extent_bytes is None else parse_bytes("extent_bytes", extent_bytes)
    said: Indexed = json.loads(
        engine.index(
            store=None if source is None else os.fspath(source),
            paths=list(paths),
            dataset=dataset,
            format=format,
            splits=list(splits),
            extent_bytes=size,
            workers=workers,
        )
    )
    return said
