"""JAX: batches as arrays on its devices, put there one ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from ._ahead import OneAhead
from ._batches import Delivery, sample_ids
from ._feed import Feed
from ._state import Cursor, State, make_state

if TYPE_CHECKING:
    from typing_extensions import Self

    from . import _forebay


class Batches:
    """The batches of ``feed``, opened with ``output="numpy"``, as JAX arrays.

    ``device`` is a device or a sharding, as ``jax.device_put`` takes it; by default JAX decides.
    JAX copies beside the computation: the batch after this one is on its way when this one is
    handed out. Take the state from here, not from the feed: it is of delivered batches.

    JAX has no 64-bit types unless they are enabled; tokens are ``uint16`` or ``uint32``.
    """

    def __init__(self, feed: Feed, device: Any = None) -> None:
        self._feed = feed
        self._device = device
        self._cursor = feed._cursor
        self._last: _forebay.Batch | None = None
        self._ahead = OneAhead(self._start)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        current = self._ahead.next()
        if current is None:
            raise StopIteration
        delivery, batch = current
        self._cursor, self._last = Cursor(*delivery.about.after), delivery.about
        return batch

    def _start(self) -> tuple[Delivery, dict[str, Any]] | None:
        delivery = self._feed._next()
        if delivery is None:
            return None
        # JAX keeps the arrays until it has copied them, or for good where it can use their memory.
        return delivery, jax.device_put(delivery.batch, self._device)

    @property
    def last_ids(self) -> list[str]:
        """The identities of the samples of the last batch."""
        return [] if self._last is None else sample_ids(self._last.ids())

    def state_dict(self) -> State:
        """See ``Feed.state_dict``; a feed or another ``Batches`` goes on from it."""
        return make_state(self._feed._about, self._cursor)

    def load_state_dict(self, state: Any) -> None:
        """See ``Feed.load_state_dict``."""
        self._ahead.forget()
        self._feed.load_state_dict(state)
        self._cursor = self._feed._cursor
