"""PyTorch: what a training loop, Lightning and Hugging Face take as a data loader.

:class:`DataLoader` stands where ``torch.utils.data.DataLoader`` stands. It gives one epoch each
time it is iterated, and its state resumes in the middle of one. :class:`IterableDataset` goes into
a ``torch.utils.data.DataLoader`` (``batch_size=None``, ``num_workers=0``) where one is asked for by
type. Threads in Rust do what worker processes do elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch.utils.data

from ._batches import Batch
from ._errors import RefusedError
from ._feed import Feed, epoch_of, feed
from ._state import Cursor, State


class DataLoader:
    """Batches of a dataset, one epoch for each iteration.

    Takes what :func:`forebay.feed` takes, apart from ``epochs``. The first iteration after
    ``load_state_dict`` goes on where that state was made; every other begins an epoch: that of
    ``set_epoch``, or else the one after the last that was begun, whether it was iterated to its end
    or not.

    ``len()`` is the number of batches of a whole epoch, the same on every rank. Tensors have the
    stored types (tokens are ``uint16`` or ``uint32``: use ``.long()`` or a ``transform``).
    """

    #: There are no worker processes or collate functions; frameworks ask.
    num_workers = 0
    batch_sampler = None
    collate_fn = None
    pin_memory = False
    drop_last = True

    def __init__(
        self,
        lake: str | os.PathLike[str],
        dataset: str | Mapping[str, Any],
        **options: Any,
    ) -> None:
        if "epochs" in options:
            raise TypeError("each iteration is one epoch: leave `epochs` to the training loop")
        self.feed: Feed = feed(lake, dataset, **options)
        #: For frameworks that look at it; it gives the same batches.
        self.dataset: IterableDataset = IterableDataset(loader=self)
        #: Where frameworks look for ``set_epoch``; it gives no indices.
        self.sampler = Epochs(self)
        # Whether the feed stands where the next iteration is to begin.
        self._is_placed = True

    def __iter__(self) -> Iterator[Batch]:
        # Nothing happens before the first batch is asked for: frameworks make iterators that they
        # never use.
        if not self._is_placed and self.feed._cursor.offset:
            self.feed._seek(self._start(self.feed.epoch + 1))
        self._is_placed = False
        yield from epoch_of(self.feed)

    def __len__(self) -> int:
        return self.feed.steps_per_epoch

    def _start(self, epoch: int) -> Cursor:
        return Cursor(epoch * len(self), epoch, 0)

    @property
    def batch_size(self) -> int:
        """Samples of a batch on this rank."""
        return self.feed.batch_size

    def set_epoch(self, epoch: int) -> None:
        """The next iteration gives ``epoch``, from 0; a state inside of it that was loaded stays."""
        if not (self._is_placed and self.feed.epoch == epoch):
            self.feed._seek(self._start(epoch))
            self._is_placed = True

    def state_dict(self) -> State:
        """Where it stands, after the batch that was delivered last: see ``Feed.state_dict``."""
        return self.feed.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """The next iteration goes on after ``state``: see ``Feed.load_state_dict``."""
        self.feed.load_state_dict(state)
        self._is_placed = True

    def close(self) -> None:
        """Ends the feed. Batches that were delivered stay valid."""
        self.feed.close()


class Epochs:
    """A loader's epochs, in the place of a sampler: Lightning says there which one begins."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def set_epoch(self, epoch: int) -> None:
        """See :meth:`DataLoader.set_epoch`."""
        self._loader.set_epoch(epoch)


class IterableDataset(torch.utils.data.IterableDataset[Batch]):
    """A dataset of whole batches, for ``torch.utils.data.DataLoader(dataset, batch_size=None)``.

    Worker processes are refused: the engine's threads do their work in this one.
    """

    def __init__(
        self,
        lake: str | os.PathLike[str] = "",
        dataset: str | Mapping[str, Any] = "",
        *,
        loader: DataLoader | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._loader = loader if loader is not None else DataLoader(lake, dataset, **options)

    def __iter__(self) -> Iterator[Batch]:
        if torch.utils.data.get_worker_info() is not None:
            raise RefusedError(_NO_WORKERS)
        return iter(self._loader)

    def set_epoch(self, epoch: int) -> None:
        """See :meth:`DataLoader.set_epoch`."""
        self._loader.set_epoch(epoch)

    def state_dict(self) -> State:
        """See :meth:`DataLoader.state_dict`."""
        return self._loader.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """See :meth:`DataLoader.load_state_dict`."""
        self._loader.load_state_dict(state)

    def __len__(self) -> int:
        """The batches of an epoch."""
        return len(self._loader)

    def __reduce__(self) -> Any:
        raise RefusedError(_NO_WORKERS)


_NO_WORKERS = (
    "a Forebay dataset does not go into worker processes: set num_workers=0; the engine's threads "
    "read, decode and assemble batches in this process without holding its interpreter"
)
