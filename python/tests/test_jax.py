"""Batches as JAX arrays."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import OpenFeed, ids_of

jax = pytest.importorskip("jax")


def test_batches_are_those_of_the_feed_and_the_state_is_of_delivered_ones(
    open_feed: OpenFeed,
) -> None:
    from forebay.jax import Batches

    plain = open_feed(output="numpy", epochs=1)
    batches = Batches(open_feed(output="numpy", epochs=1))
    kept = []
    for step, (there, here) in enumerate(zip(batches, plain, strict=True), 1):
        assert isinstance(there["tokens"], jax.Array)
        assert batches.last_ids == plain.last_ids and batches.state_dict()["step"] == step
        kept.append((there["tokens"], here["tokens"].copy()))
    for array, tokens in kept:
        np.testing.assert_array_equal(np.asarray(array), tokens)
    batches.load_state_dict({**batches.state_dict(), "step": 3})
    next(batches)
    assert batches.last_ids == ids_of(open_feed(), 4)[3]
