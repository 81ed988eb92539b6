"""The state of a feed: plain data that fits into any checkpoint.

It says which samples were delivered: of which datasets, in which order, how many. It is small, it
is the same on every rank, and it depends neither on the world size nor on the batch size. A state of
other data or of another order is refused, naming what differs.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

from ._errors import InvalidError, NewerFormatError

VERSION = 1

#: Settings that decide how fast, within which bounds and in which form, not what comes when.
_SPEED = frozenset(
    {"lookahead_bytes", "prefetch_threads", "buffer_bytes", "threads", "columns", "padding"}
)
#: Settings that a position carries over: how long to go on, how many samples make a step, what
#: becomes of an epoch's end, and what to leave out from here on.
_LENGTH = frozenset({"epochs", "batch_size", "last_batch", "skip_steps"})


class Cursor(NamedTuple):
    """Where a run stands: the step that comes next, its epoch, and the samples of it before."""

    step: int
    epoch: int
    offset: int


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
    step: int


def make_state(about: dict[str, Any], cursor: Cursor) -> State:
    """The state of the feed that ``about`` describes, at ``cursor``."""
    return {
        "version": VERSION,
        "dataset": dataset_of(about),
        "identity": "+".join(one["identity"] for one in about["datasets"]),
        "split": about["split"],
        "order": _order(about),
        "global_batch_size": int(about["settings"]["batch_size"]),
        "epoch": cursor.epoch,
        "samples_in_epoch": cursor.offset,
        "step": cursor.step,
    }


def dataset_of(about: dict[str, Any]) -> str:
    """The datasets and their versions, as ``name@3``, joined by ``+``."""
    return "+".join(f"{one['dataset']}@{one['version']}" for one in about["datasets"])


def cursor_of(state: Any, about: dict[str, Any]) -> Cursor:
    """Where the feed that ``about`` describes goes on from ``state``.

    Raises :class:`InvalidError` when they do not belong together.
    """
    found = _read(state)
    here = make_state(about, Cursor(0, 0, 0))
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
    return Cursor(found["step"], found["epoch"], found["samples_in_epoch"])


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
    counts = ("global_batch_size", "epoch", "samples_in_epoch", "step")
    wrong = [name for name in counts if type(state[name]) is not int or state[name] < 0]
    if wrong or not isinstance(state["order"], dict):
        name = wrong[0] if wrong else "order"
        raise InvalidError(f"the state of the feed is damaged: {name} is {state[name]!r}")
    found: State = {name: state[name] for name in State.__annotations__}  # type: ignore[assignment]
    return found
