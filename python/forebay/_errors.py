"""Exceptions: one for each kind of failure, all of them a :class:`Error`.

The kind says what to do, the message says what happened to which object, with every cause on the
same line. Each has a built-in exception as its second base, so that code which knows nothing of
Forebay can catch it.
"""

from __future__ import annotations

from typing import ClassVar


class Error(Exception):
    """Anything the engine refuses or fails at.

    ``kind`` is one word, the same that ``forebay --json`` prints.
    """

    kind: ClassVar[str] = "error"


class InvalidError(Error, ValueError):
    """The request itself is wrong: fix the argument or setting that the message names."""

    kind = "invalid"


class NotFoundError(Error, LookupError):
    """The named object does not exist: check the name, or make it first."""

    kind = "not_found"


class CorruptError(Error, RuntimeError):
    """Stored bytes are not what was written: restore the object from another copy."""

    kind = "corrupt"


class NewerFormatError(Error, RuntimeError):
    """The bytes were written by a newer Forebay: upgrade this one."""

    kind = "newer_format"


class ConflictError(Error, RuntimeError):
    """Somebody else published first: read what they wrote, then decide."""

    kind = "conflict"


class UnavailableError(Error, OSError):
    """A tier cannot be reached or written now: try again, or check its access rights."""

    kind = "unavailable"


class FullError(Error, OSError):
    """A tier has no room left: free space or raise the budget."""

    kind = "full"


class RefusedError(Error, RuntimeError):
    """A rule said no: read the reason."""

    kind = "refused"


class StoppedError(Error, RuntimeError):
    """The work was stopped from outside: start it again to go on."""

    kind = "interrupted"


class InternalError(Error, RuntimeError):
    """A defect in Forebay: please report it."""

    kind = "internal"


KINDS: dict[str, type[Error]] = {
    error.kind: error
    for error in (
        InvalidError,
        NotFoundError,
        CorruptError,
        NewerFormatError,
        ConflictError,
        UnavailableError,
        FullError,
        RefusedError,
        StoppedError,
        InternalError,
    )
}


def of_kind(kind: str, message: str) -> Error:
    """The exception of ``kind``; the extension raises all of its errors through this."""
    return KINDS.get(kind, InternalError)(message)
