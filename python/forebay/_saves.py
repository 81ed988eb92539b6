"""The saves of one rank of a run, for the doors that are told each step to save.

A save is captured and goes to this node, to the lake and into a commit in the background. Whoever
must know when it is committed looks every few milliseconds: the engine's own wait keeps everybody
else from the checkpointer until all is done, and then lets go of the copy on this node, which a
restart reads.

A process that ends without ``close`` waits for what it saved, and says what went wrong.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any

from . import _forebay
from ._checkpointer import settle
from ._errors import Error
from ._feed import open_engine
from ._fill import Fills, is_filled
from ._group import Group
from ._stored import VERSION
from ._tensors import Leaf, lend

_POLL_FIRST_SECONDS = 0.002
_POLL_LONGEST_SECONDS = 0.1
#: Each save has one, and few can be under way.
_FAILURES_MAX = 100


class Saves:
    """Opens the run's checkpoints for this rank, and finishes what a killed run left on this node."""

    def __init__(
        self,
        lake: str | os.PathLike[str],
        run: str,
        group: Group,
        local: str | os.PathLike[str] | None,
        local_budget: int | str,
        settings: dict[str, int],
    ) -> None:
        self._native = open_engine(lake, local, local_budget).checkpointer(
            run=run,
            rank=group.rank,
            world_size=group.world_size,
            launch=group.launch,
            settings=json.dumps(settings),
            dataset=None,
        )
        self._ending = weakref.finalize(self, settle, self._native)
        self._fills = Fills()
        self._lock = threading.Lock()
        #: Steps that were captured and nothing is known of; those known to be committed, and to
        #: have failed, until whoever waits learns of it.
        self._awaited: set[int] = set()
        self._committed: set[int] = set()
        self._lost: dict[int, Error] = {}

    def claim(self) -> None:
        """Becomes the writer of the run: whoever wrote it before is told, and commits no more.

        What a killed run left must have been finished on all nodes.
        """
        self._native.claim()

    def capture(self, step: int, leaves: Iterable[Leaf], metadata: dict[str, Any]) -> None:
        """Takes the state after so many steps; it may change when this returns."""
        # What a device brings over by itself comes behind all else.
        ordered = sorted(leaves, key=lambda leaf: is_filled(leaf.value))
        filled = [leaf.value for leaf in ordered if is_filled(leaf.value)]
        with self._lock:
            try:
                plan = _forebay.StatePlan([leaf.given() for leaf in ordered])
                self._fills.prepare(self._native, filled)
                if filled and not self._native.holds(plan):
                    filled = []
                held, addresses = lend(ordered[: len(ordered) - len(filled)])
                said = json.dumps({"version": VERSION, **metadata})
                _, copying = self._native.save(step, plan, addresses, said, filled=len(filled))
                if filled:
                    self._fills.fill(copying, filled)
            except Error as error:
                # It may be that of a save before, which is told once.
                self._lose(error)
                raise
            self._fills.warn_of_refusal()
            self._awaited.add(step)
            self._committed.discard(step)
            self._lost.pop(step, None)
        del held

    def await_commit(self, step: int) -> None:
        """Returns when ``step``, which was captured before, is committed; raises what went wrong.

        Once for each save, in any thread.
        """
        pause = _POLL_FIRST_SECONDS
        while not self._is_committed(step):
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL_LONGEST_SECONDS)

    def _is_committed(self, step: int) -> bool:
        with self._lock:
            if step in self._awaited:
                self._look()
            if step in self._lost:
                raise self._lost.pop(step)
            is_committed = step in self._committed
            self._committed.discard(step)
            return is_committed

    def _look(self) -> bool:
        """Notes what the engine says; returns whether it said that something went wrong."""
        try:
            self._note(self._native.finished())
        except Error as error:
            self._lose(error)
            return True
        return False

    def _note(self, reports: str) -> None:
        steps = {report["step"] for report in json.loads(reports)}
        self._committed |= steps & self._awaited
        self._awaited -= steps

    def _lose(self, error: Error) -> None:
        # Which save it was about, only its words say: nobody waits for one that never comes.
        self._lost |= dict.fromkeys(self._awaited, error)
        self._awaited.clear()

    def forget_failures(self) -> None:
        """Lets go of what is left of failed saves, whose callers were told: the next begins anew."""
        with self._lock:
            for _ in range(_FAILURES_MAX):
                if not self._look():
                    return

    def close(self) -> None:
        """Waits until every save is durable, and raises what went wrong. Closing twice is no error."""
        if not self._ending.alive:
            return
        with self._lock:
            try:
                self._note(self._native.wait())
            except Error as error:
                self._lose(error)
                raise
        self._ending.detach()
        self._native.close()

    def abandon(self) -> None:
        """Closes it where something else went wrong, which the caller raises."""
        self._ending()
