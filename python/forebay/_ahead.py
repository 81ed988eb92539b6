"""One item ahead: the work on the next is started before this one is handed out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class OneAhead(Generic[Item]):
    """Takes items from ``start``, which begins the work on one and returns ``None`` after the last.

    What ``start`` raises for the item after this one belongs to that one, and is raised when that
    one is asked for.
    """

    def __init__(self, start: Callable[[], Item | None]) -> None:
        self._start = start
        self._ahead: Item | None = None
        self._error: BaseException | None = None

    def next(self) -> Item | None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        current = self._ahead if self._ahead is not None else self._start()
        self._ahead = None
        if current is None:
            return None
        try:
            self._ahead = self._start()
        except Exception as error:
            self._error = error
        return current

    def forget(self) -> None:
        """Lets go of what is ahead."""
        self._ahead = self._error = None
