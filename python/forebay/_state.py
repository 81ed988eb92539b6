"""The state of a feed: plain data that fits into any checkpoint.

It says which samples were delivered: of which dataset, in which order, how many. It is small, it
is the same on every rank, and it does not depend on the world size. A state of other data or of
another order is refused, naming what differs.
"""

from __future__ import annotations

from typing import Any, TypedDict

from ._errors import InvalidError, NewerFormatError

VERSION = 1

#: Settings that decide how fast and within which bounds, not what comes when.
_SPEED = frozenset({"lookahead_bytes", "prefetch_threads", "buffer_bytes", "threads"})
#: Settings that a position carries over: how long to go on, and how many samples make a step.
_LENGTH = frozenset({"epochs", "batch_size"})


class State(TypedDict):
    """What :meth:`forebay.Feed.state_dict` returns; every value fits into JSON."""

    version: int
    dataset: str
    identity: str
    split: str
    order: dict[str, Any]
    global_batch_size: int
    epoch: int
    samples_in_epoch: int
    samples: int
    step: int


def make_state(about: dict[str, Any], step: int, steps_per_epoch: int) -> State:
    """The state of the feed that ``about`` describes, after ``step`` delivered steps."""
    size = int(about["settings"]["batch_size"])
    epoch, within = divmod(step, steps_per_epoch)
    return {
        "version": VERSION,
        "dataset": f"{about['dataset']}@{about['version']}",
        "identity": about["identity"],
        "split": about["split"],
        "order": _order(about),
        "global_batch_size": size,
        "epoch": epoch,
        "samples_in_epoch": within * size,
        "samples": step * size,
        "step": step,
    }


def step_of(state: Any, about: dict[str, Any], steps_per_epoch: int) -> int:
    """The step at which the feed that ``about`` describes goes on from ``state``.

    Raises :class:`InvalidError` when they do not belong together.
    """
    found = _read(state)
    here = make_state(about, 0, steps_per_epoch)
    differs = [
        f"{what} ({found[key]!r} there, {here[key]!r} here)"  # type: ignore[literal-required]
        for key, what in (("identity", "dataset"), ("split", "split"))
        if found[key] != here[key]  # type: ignore[literal-required]
    ]
    if found["identity"] != here["identity"]:
        differs[0] = f"dataset ({found['dataset']} there, {here['dataset']} here)"
    names = sorted(found["order"].keys() | here["order"].keys())
    differs += [
        f"{name} ({found['order'].get(name)!r} there, {here['order'].get(name)!r} here)"
        for name in names
        if found["order"].get(name) != here["order"].get(name)
    ]
    if differs:
        raise InvalidError(
            f"the state belongs to other data or another order: {', '.join(differs)}; "
            "open the feed as it was when the state was made, or start anew without it"
        )
    size = here["global_batch_size"]
    if found["global_batch_size"] == size:
        return found["step"]
    epoch, within = found["epoch"], found["samples_in_epoch"]
    if within % size:
        raise InvalidError(
            f"the state was made after {within} samples of epoch {epoch}, which is inside a global "
            f"batch of {size}; resume with a global_batch_size that divides {within} "
            f"(it was {found['global_batch_size']})"
        )
    return epoch * steps_per_epoch + within // size


def _order(about: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = about["settings"]
    return {name: settings[name] for name in sorted(settings.keys() - _SPEED - _LENGTH)}


def _read(state: Any) -> State:
    if not isinstance(state, dict) or "version" not in state:
        raise InvalidError("this is not the state of a feed: take it from state_dict()")
    if state["version"] != VERSION:
        raise NewerFormatError(
            f"the state has version {state['version']!r}, this Forebay knows {VERSION}: upgrade it"
        )
    missing = sorted(State.__annotations__.keys() - state.keys())
    if missing:
        raise InvalidError(f"the state of the feed is incomplete: it lacks {', '.join(missing)}")
    counts = ("global_batch_size", "epoch", "samples_in_epoch", "samples", "step")
    wrong = [name for name in counts if type(state[name]) is not int or state[name] < 0]
    if wrong or not isinstance(state["order"], dict):
        name = wrong[0] if wrong else "order"
        raise InvalidError(f"the state of the feed is damaged: {name} is {state[name]!r}")
    found: State = {name: state[name] for name in State.__annotations__}  # type: ignore[assignment]
    return found
