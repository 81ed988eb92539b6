"""Batches for JAX: numpy arrays put on its devices, one ahead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ._feed import Feed


def batches(feed: Feed, device: Any = None) -> Iterator[dict[str, Any]]:
    """The batches of ``feed`` (opened with ``output="numpy"``) as JAX arrays.

    ``device`` is a device or a sharding, as ``jax.device_put`` takes it. JAX copies beside the
    computation, so the batch after this one is put before this one is handed out; the feed's
    ``state_dict`` is therefore one step ahead of what was consumed: keep the ``state`` that comes
    with the batch (``batch["__state__"]``) instead.
    """
    ahead = None
    for batch in feed:
        put = {name: _put(value, device) for name, value in batch.items()}
        put["__state__"] = feed.state_dict()
        if ahead is not None:
            yield ahead
        ahead = put
    if ahead is not None:
        yield ahead


def _put(value: Any, device: Any) -> Any:
    # A copy: JAX may otherwise keep the host's memory, which a writer of the batch could change.
    return jax.device_put(np.array(value), device)
