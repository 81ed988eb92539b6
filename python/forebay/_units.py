"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from ._errors import InvalidError

_SCALES = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGTP", 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGTP", 1)},
}
_PATTERN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_bytes(setting: str, value: int | str) -> int:
    """``value`` in bytes: a number, or a text like ``"200GB"`` (decimal) or ``"64 MiB"`` (binary).

    Raises :class:`InvalidError` naming ``setting`` for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _PATTERN.fullmatch(value)):
        number, unit = match.groups()
        scale = {name.lower(): scale for name, scale in _SCALES.items()}.get(unit.lower())
        if scale is not None:
            return int(float(number) * scale) if "." in number else int(number) * scale
    raise InvalidError(
        f"{setting} is {value!r}; write bytes as a number, or as a text like '200GB' or '64MiB'"
    )


def show_bytes(count: float) -> str:
    """``count`` bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
