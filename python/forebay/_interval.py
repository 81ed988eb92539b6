"""When a checkpoint is due: every so many steps, every so many seconds, or as often as pays.

``"auto"`` follows Young and Daly: saving every ``sqrt(2 · cost · MTBF)`` seconds loses least, where
``cost`` is what a save costs the training and ``MTBF`` the mean time between failures (J. W. Young,
"A first order approximation to the optimum checkpoint interval", 1974; J. T. Daly, 2006).
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Union

from ._errors import InvalidError

#: Steps, ``"auto"``, a time like ``"10min"`` or a ``timedelta``; ``None`` for never.
Interval = Union[int, str, timedelta, None]

_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)\s*")
#: Before anything was measured, and whatever was: a save is due after so long, and not before.
_FIRST_SECONDS = 60.0
_LEAST_SECONDS = 5.0
_MOST_SECONDS = 3600.0
#: Of a run that has seen too few launches to tell; and what is believed of one that has.
_MTBF_SECONDS = 24 * 3600.0
_MTBF_LEAST_SECONDS = 600.0
_LAUNCHES_MIN = 3


def parse_seconds(setting: str, value: str | timedelta | float) -> float:
    """A time in seconds; raises :class:`InvalidError` naming the setting."""
    seconds = None
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := _TIME.fullmatch(value)) and match[2] in _UNITS:
        seconds = float(match[1]) * _UNITS[match[2]]
    if seconds is None or not seconds > 0:
        raise InvalidError(f"{setting} is {value!r}; write a time like '90s', '10min' or '2h'")
    return seconds


class Policy:
    """Says after each step whether a save is due."""

    def __init__(self, interval: Interval, mtbf: str | timedelta | float | None) -> None:
        self._every_steps: int | None = None
        self._every_seconds: float | None = None
        self.is_auto = interval == "auto"
        self._mtbf_seconds = _MTBF_SECONDS if mtbf is None else parse_seconds("mtbf", mtbf)
        self._is_mtbf_given = mtbf is not None
        if interval is None:
            return
        if isinstance(interval, int) and not isinstance(interval, bool):
            if interval < 1:
                raise InvalidError(f"interval is {interval}; a save is due every 1 step or more")
            self._every_steps = interval
        elif self.is_auto:
            self._every_seconds = _FIRST_SECONDS
        elif isinstance(interval, (str, timedelta)):
            self._every_seconds = parse_seconds("interval", interval)
        else:
            raise InvalidError(
                f"interval is {interval!r}; write steps (100), a time ('10min'), 'auto' or None"
            )

    def is_due(self, steps_taken: int, seconds_since_save: float) -> bool:
        """Whether a save is due after so many steps, and so long after the last one."""
        if self._every_steps is not None:
            return steps_taken % self._every_steps == 0
        return self._every_seconds is not None and seconds_since_save >= self._every_seconds

    @property
    def needs_agreement(self) -> bool:
        """Whether ranks may come to different answers: clocks differ, steps do not."""
        return self._every_seconds is not None

    def learn_launches(self, began: list[float], now: float) -> None:
        """Takes the mean time between failures from when earlier launches of the run began, and this one.

        A launch that ended as it should counts too: that saves a little more often than pays.
        """
        if not self._is_mtbf_given and len(began) + 1 >= _LAUNCHES_MIN:
            mean = (now - began[0]) / len(began)
            self._mtbf_seconds = max(mean, _MTBF_LEAST_SECONDS)

    def learn(self, cost_seconds: float, durable_seconds: float) -> None:
        """Takes into account what a save cost, and how long it was until it could not be lost."""
        if self.is_auto:
            best = math.sqrt(2 * max(cost_seconds, 1e-6) * self._mtbf_seconds)
            # A save that comes before the last is durable waits for it.
            least = max(_LEAST_SECONDS, durable_seconds)
            self._every_seconds = min(max(best, least), max(_MOST_SECONDS, least))
