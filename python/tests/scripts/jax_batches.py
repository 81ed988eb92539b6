"""Batches as JAX arrays are those of the feed, and the state is of delivered ones."""

from __future__ import annotations

import sys

import forebay
import jax
import numpy as np
from forebay.jax import Batches


def main() -> None:
    lake, local = sys.argv[1:]

    def feed() -> forebay.Feed:
        return forebay.feed(lake, "text", batch_size=8, local=local, output="numpy", epochs=1)

    plain, batches = feed(), Batches(feed())
    kept, ids = [], []
    for step, (there, here) in enumerate(zip(batches, plain, strict=True), 1):
        assert isinstance(there["tokens"], jax.Array)
        assert batches.last_ids == plain.last_ids and batches.state_dict()["step"] == step
        kept.append((there["tokens"], here["tokens"].copy()))
        ids.append(plain.last_ids)
    for array, tokens in kept:
        np.testing.assert_array_equal(np.asarray(array), tokens)
    third = {"step": 3, "epoch": 0, "samples_in_epoch": 24}
    batches.load_state_dict({**batches.state_dict(), **third})
    next(batches)
    assert batches.last_ids == ids[3]
    print("equal")


main()
