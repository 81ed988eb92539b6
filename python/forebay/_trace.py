"""From a step to its samples, and from them to the raw records they were made of."""

from __future__ import annotations

import json
from typing import TypedDict

from ._feed import Feed


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


def trace(feed: Feed, step: int) -> list[Sample]:
    """The samples of the global batch of ``step``, over all ranks, in order, with their origins.

    Nothing was logged for this: the order is a pure function. The feed stays where it is. Raises
    :class:`forebay.InvalidError` when there is no such step.
    """
    samples: list[Sample] = json.loads(feed._native.trace(step))
    return samples
