"""Transforms on a few threads: in order, within bounds, errors where they belong.

Each thread takes the next batch from the stage before it, transforms it, and puts it at its number.
At most ``threads + 1`` batches are taken and not yet delivered. What a transform raises reaches the
consumer at its batch, with a note that names the step and the samples.

Threads are daemons: a transform that hangs does not keep the process from ending.
"""

from __future__ import annotations

import threading

from ._batches import Delivery, Source, Transform, sample_ids
from ._errors import InvalidError

_IDS_SHOWN = 4
#: A wait that no one ends would keep Ctrl-C from working on some platforms; this one is renewed.
_PATIENCE_SECONDS = 0.1


class Transformed:
    """A stage that applies ``transform``."""

    def __init__(self, source: Source, transform: Transform, threads: int) -> None:
        if threads < 1:
            raise InvalidError(f"transform_threads is {threads}; it must be at least 1")
        self._source = source
        self._transform = transform
        self._ahead_max = threads + 1
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._taken = 0
        self._delivered = 0
        self._ready: dict[int, Delivery | BaseException | None] = {}
        self._ended = False
        # A failed read is not tried again before the consumer knows of it.
        self._failed = False
        self._closed = False
        for number in range(threads):
            name = f"forebay-transform-{number}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def next(self) -> Delivery | None:
        with self._changed:
            while self._delivered not in self._ready:
                if self._closed:
                    raise InvalidError("the feed is closed; open another")
                if self._ended and self._delivered == self._taken:
                    return None
                self._changed.wait(_PATIENCE_SECONDS)
            outcome = self._ready.pop(self._delivered)
            self._delivered += 1
            self._failed = False
            self._changed.notify_all()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._source.close()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            number, outcome = taken
            if isinstance(outcome, Delivery):
                outcome = self._apply(outcome)
            self._put(number, outcome)

    def _take(self) -> tuple[int, Delivery | BaseException | None] | None:
        """The next number and its batch; one thread at a time, so that numbers keep the order."""
        with self._taking:
            with self._changed:
                while self._taken - self._delivered >= self._ahead_max or self._failed:
                    if self._closed:
                        return None
                    self._changed.wait()
                if self._closed or self._ended:
                    return None
            outcome: Delivery | BaseException | None
            try:
                outcome = self._source.next()
            except BaseException as error:
                outcome = error
            with self._changed:
                self._ended = outcome is None
                self._failed = isinstance(outcome, BaseException)
                self._changed.notify_all()
                if outcome is None:
                    return None
                self._taken += 1
                return self._taken - 1, outcome

    def _apply(self, delivery: Delivery) -> Delivery | BaseException:
        try:
            batch = self._transform(delivery.batch)
            if not isinstance(batch, dict):
                raise TypeError(f"a transform returns a dict, this one a {type(batch).__name__}")
        except StopIteration as error:
            # Raised in `__next__` it would end the loop as if there were no more data.
            ended = RuntimeError("the transform raised StopIteration")
            ended.__cause__ = error
            return _noted(ended, delivery)
        except BaseException as error:
            return _noted(error, delivery)
        return delivery._replace(batch=batch)

    def _put(self, number: int, outcome: Delivery | BaseException | None) -> None:
        with self._changed:
            if not self._closed:
                self._ready[number] = outcome
            self._changed.notify_all()


def _noted(error: BaseException, delivery: Delivery) -> BaseException:
    ids = sample_ids(delivery.about.ids())
    shown = ", ".join(ids[:_IDS_SHOWN]) + (", …" if len(ids) > _IDS_SHOWN else "")
    note = f"in the transform of step {delivery.about.step}, samples {shown}"
    # Python 3.11 prints notes; 3.10 keeps them where a debugger finds them.
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        error.__notes__ = [*getattr(error, "__notes__", []), note]  # type: ignore[attr-defined, unused-ignore]
    return error
