"""The ids of checkpoints in ``torch.distributed.checkpoint``: steps taken."""

from __future__ import annotations

import os

from ._errors import InvalidError

#: Folders of steps have twelve digits.
STEP_MAX = 10**12 - 1


def parse_step(checkpoint_id: str | os.PathLike[str] | int) -> int:
    """The steps taken that an id says: an int, or a text of digits."""
    text = checkpoint_id
    if isinstance(text, os.PathLike):
        text = os.fspath(text)
    if isinstance(text, int) and not isinstance(text, bool):
        text = str(text)
    if isinstance(text, str) and text.isascii() and text.isdigit() and int(text) <= STEP_MAX:
        return int(text)
    raise InvalidError(
        f"checkpoint_id is {checkpoint_id!r}; give the number of steps taken, such as 1000 (lake and "
        "run are named where the writer or reader is made)"
    )


def is_step(checkpoint_id: str | os.PathLike[str] | int) -> bool:
    """Whether an id says a step."""
    try:
        parse_step(checkpoint_id)
    except InvalidError:
        return False
    return True
