"""The Markdown tables. A limit that this machine has not leaves a dash; what went wrong is said in words below."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

MIB = 1 << 20
Round = dict[str, Any]
Column = Callable[[list[Round]], str]


def milliseconds(key: str) -> Column:
    return lambda rounds: f"{statistics.median(one[key] for one in rounds):.0f} ms"


def times_limit(key: str, limit: str) -> Column:
    """How many times its limit a time is: the smaller the better."""
    return lambda rounds: f"{statistics.median(one[key] / one['limits'][limit] for one in rounds):.2f}"


def of_limit(key: str, limit: str) -> Column:
    """Which share of its limit's rate is reached: the larger the better."""

    def column(rounds: list[Round]) -> str:
        if any(limit not in one["limits"] for one in rounds):
            return "-"
        return f"{statistics.median(one['limits'][limit] / one[key] for one in rounds):.2f}"

    return column


def percent(key: str) -> Column:
    return lambda rounds: f"{100 * max(one[key] for one in rounds):.0f} %"


def mebibytes(key: str, less: str | None = None) -> Column:
    def column(rounds: list[Round]) -> str:
        return f"{statistics.median(one[key] - (one[less] if less else 0) for one in rounds) / MIB:.1f} MiB"

    return column


def quotient(key: str, of: str) -> Column:
    return lambda rounds: f"{statistics.median(one[key] / one[of] for one in rounds):.2f}"


SAVES: dict[str, Column] = {
    "first pause": milliseconds("first"),
    "× copy": times_limit("first", "copy"),
    "pause": milliseconds("pause"),
    "× copy ": times_limit("pause", "copy"),
    "lost": milliseconds("lost"),
    "node": milliseconds("node"),
    "of the disk": of_limit("node", "disk_write"),
    "durable": milliseconds("durable"),
    "of the disk ": of_limit("durable", "disk_write"),
}
RESTORES: dict[str, Column] = {
    "restore": milliseconds("restore"),
    "of the cached read": of_limit("restore", "cached_read"),
    "cold": milliseconds("cold"),
    "of the disk": of_limit("cold", "disk_read"),
    "still cached": percent("stayed"),
}
MEMORY: dict[str, Column] = {
    "saving": mebibytes("saving"),
    "less the state": mebibytes("saving", less="bytes"),
    "restoring": mebibytes("restoring"),
}
CHANGED: dict[str, Column] = {
    "changed": mebibytes("changed"),
    "written": mebibytes("written"),
    "× changed": quotient("written", "changed"),
    "sent to disk": mebibytes("sent"),
}
LAKE: dict[str, Column] = {
    "node": milliseconds("node"),
    "durable": milliseconds("durable"),
    "bare upload": lambda rounds: milliseconds("upload")([one["limits"] for one in rounds]),
    "of the bare upload": of_limit("durable", "upload"),
    "restore": milliseconds("restore"),
}


def render(title: str, columns: dict[str, Column], found: dict[str, list[Round]]) -> str:
    """The table, and the reasons of those that are not in it."""
    lines = [f"### {title}", "", row(["contestant", *columns]), row(["---"] * (1 + len(columns)))]
    reasons = []
    for name, rounds in found.items():
        failed = next((one["error"] for one in rounds if "error" in one), None)
        if failed:
            reasons.append(f"- {name}: failed, {failed}")
        elif rounds:
            lines.append(row([rounds[0]["label"], *(column(rounds) for column in columns.values())]))
    return "\n".join([*lines, "", *reasons, *([""] if reasons else [])])


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.strip() for cell in cells)} |"
