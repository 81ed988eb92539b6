"""How a checkpoint is taken, as whoever saves may set it."""

from __future__ import annotations

from typing import Any

from ._units import parse_bytes


def save_settings(*, compress: bool, memory: int | str | None, threads: int) -> dict[str, Any]:
    """How the state is copied and written, as the engine's settings."""
    settings: dict[str, Any] = {"compress": compress, "threads": threads}
    if memory is not None:
        settings["arena_bytes_max"] = parse_bytes("memory", memory)
    return settings
