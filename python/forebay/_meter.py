"""The live meter: one line that says how fast the feed is, and why not faster."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from ._errors import Error
from ._units import show_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._feed import Feed


class Reading(NamedTuple):
    """Counts of a feed at a moment."""

    seconds: float
    samples: int
    bytes: int
    lake: float
    local: float
    assembly: float
    requests: int
    hits: int
    misses: int


class Meter:
    """Prints one line to ``stream`` (standard error) every ``every_seconds`` while it is open.

    ::

        with forebay.Meter(feed):
            for batch in feed: ...

    On a terminal the line redraws itself. It shows what happened since the line before: samples
    and bytes a second, the share of time the consumer waited for data and what most of that was
    for, requests to the lake, the share of shards that were on the node, and this process's memory.
    """

    def __init__(
        self, feed: Feed, *, every_seconds: float = 1.0, stream: TextIO | None = None
    ) -> None:
        self._feed = feed
        self._every_seconds = every_seconds
        self._stream = stream or sys.stderr
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._last = read(feed)

    def line(self) -> str:
        """What happened since the last line."""
        before, self._last = self._last, read(self._feed)
        return show(before, self._last)

    def __enter__(self) -> Self:
        self._last = read(self._feed)
        self._thread = threading.Thread(target=self._work, name="forebay-meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._print()
        if self._stream.isatty():
            self._stream.write("\n")

    def _work(self) -> None:
        while not self._stop.wait(self._every_seconds):
            self._print()

    def _print(self) -> None:
        try:
            line = self.line()
        except Error:
            # The feed was closed under the meter.
            self._stop.set()
            return
        redraw = self._stream.isatty()
        self._stream.write(f"\r\x1b[K{line}" if redraw else f"{line}\n")
        self._stream.flush()


def read(feed: Feed) -> Reading:
    """The feed's counts now."""
    stats, traffic = feed.stats(), feed.traffic()
    waited = stats["waited"]
    return Reading(
        time.monotonic(),
        stats["samples"],
        stats["bytes"],
        waited["lake"],
        waited["local"],
        waited["assembly"],
        sum(counts["reads"] for counts in traffic.values()),
        stats["cache_hits"] + stats["prefetched"],
        stats["cache_misses"],
    )


def show(before: Reading, now: Reading) -> str:
    """One line for people."""
    # A feed that was moved counts from 0 again.
    if now.samples < before.samples:
        before = Reading(before.seconds, 0, 0, 0, 0, 0, min(before.requests, now.requests), 0, 0)
    seconds = max(now.seconds - before.seconds, 1e-9)
    waits = {
        "lake": now.lake - before.lake,
        "local tier": now.local - before.local,
        "assembly": now.assembly - before.assembly,
    }
    waited = sum(waits.values())
    cause = max(waits, key=lambda name: waits[name])
    share = min(waited / seconds, 1.0)
    for_what = f" for {cause}" if share >= 0.001 else ""
    opened = now.hits + now.misses
    hits = f"{100 * now.hits / opened:.0f} %" if opened else "-"
    return (
        f"forebay: {(now.samples - before.samples) / seconds:,.0f} samples/s, "
        f"{show_bytes((now.bytes - before.bytes) / seconds)}/s, "
        f"waiting {100 * share:.1f} %{for_what}, "
        f"{now.requests - before.requests} lake requests, cache hits {hits}, "
        f"memory {show_bytes(memory_bytes())}"
    )


def memory_bytes() -> int:
    """This process's resident memory; 0 where it cannot be asked."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
        import resource

        return int(fields[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError, ImportError):
        return 0
