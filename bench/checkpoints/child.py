"""One contestant and one act, in a process of its own; the result is one JSON object in a file.

A process of its own makes every first save a first one, gives each contestant memory that no other has warmed, and lets
a restart be one. What a contestant prints goes to a log. A crash leaves no result, which run.py reports.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import contestants
import files
import torch
from limits import Limits
from memory import Peak
from multipart import Bucket
from state import State, Training, timed

CHANGED_LAYERS_MIN = 100
CHANGED_SHARE = 0.01
# A training step computes for so many copies of the state.
COMPUTE_COPIES = 4


class Session:
    """The arguments, and the contestant's class, imported."""

    def __init__(self, arguments: Any) -> None:
        self.arguments = arguments
        self.kind = contestants.load(arguments.contestant)
        self.folder = arguments.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)

    def describe(self) -> dict[str, Any]:
        """Its name in the tables, and versions."""
        versions = {name: importlib.metadata.version(name) for name in self.kind.PACKAGES}
        return {"label": self.kind.LABEL, "versions": versions}

    def open(self, state: State, **options: Any) -> Any:
        folder = self.folder / "saves"
        folder.mkdir(exist_ok=True)
        return self.kind(folder, state.model, state.optimizer, **options)


def times(session: Session) -> dict[str, Any]:
    """The limits; a first save beside training; one with nothing beside it; one more beside training; a restore."""
    state = State(session.arguments.mebibytes)
    limits = Limits(state.tensors(), session.folder).measure()
    training = Training(state.optimizer, COMPUTE_COPIES * limits["copy_alone"])
    one = session.open(state)
    # What makes itself ready beside training may do so.
    training.step()
    first = timed(one.save) + training.step()
    one.settle()
    state.optimizer.step()
    start = time.perf_counter()
    call = timed(one.save)
    node, durable = moments(call, one.settle(), start)
    alone = timed(training.step)
    saved = state.digest()
    start = time.perf_counter()
    pause = timed(one.save)
    pause += training.step()
    lost = (time.perf_counter() - start) * 1e3 - alone
    one.settle()
    restore = timed(one.restore)
    expect(state, saved)
    one.close()
    return {
        "bytes": state.bytes,
        "limits": limits,
        "step": alone,
        "first": first,
        "pause": pause,
        "lost": lost,
        "node": node,
        "durable": durable,
        "restore": restore,
        "saved": saved,
    }


def moments(call: float, settled: tuple[float, float] | None, start: float) -> tuple[float, float]:
    """How long after the start of a save it was durable on this node, and where it cannot be lost."""
    since = (time.perf_counter() - start) * 1e3 - call
    node, durable = settled or (since, since)
    return call + node, call + durable


def restart(session: Session) -> dict[str, Any]:
    """What a process that starts again does, with nothing of the save in the page cache."""
    state = State(session.arguments.mebibytes)
    one = session.open(state)
    stayed = files.drop(session.folder)
    cold = timed(one.restore)
    expect(state, session.arguments.saved)
    one.close()
    return {"cold": cold, "stayed": stayed}


def saving(session: Session) -> dict[str, Any]:
    """Memory from before the contestant is opened until its third save is durable; two are beside training."""
    state = State(session.arguments.mebibytes)
    training = Training(state.optimizer, 1.0)
    training.step()
    with Peak() as peak:
        one = session.open(state)
        for _ in range(2):
            one.save()
            training.step()
            one.settle()
        one.save()
        one.settle()
    saved = state.digest()
    one.close()
    return {"bytes": state.bytes, "saving": peak.bytes, "saved": saved}


def restoring(session: Session) -> dict[str, Any]:
    """Memory of a process that starts again, from before the contestant is opened."""
    state = State(session.arguments.mebibytes)
    Training(state.optimizer, 1.0).step()
    with Peak() as peak:
        one = session.open(state)
        one.restore()
    expect(state, session.arguments.saved)
    one.close()
    return {"restoring": peak.bytes}


def changed(session: Session) -> dict[str, Any]:
    """A second save after a step that changes one layer in a hundred."""
    state = State(session.arguments.mebibytes, CHANGED_LAYERS_MIN)
    one = session.open(state)
    one.save()
    one.settle()
    count = state.freeze(CHANGED_SHARE)
    before, sent = files.versions(one.saved), files.sent_to_disk()
    state.optimizer.step()
    saved = state.digest()
    one.save()
    one.settle()
    found = {
        "bytes": state.bytes,
        "changed": count,
        "written": files.written(before, files.versions(one.saved)),
        "sent": files.sent_to_disk() - sent,
    }
    state.optimizer.step()
    one.restore()
    expect(state, saved)
    one.close()
    return found


def lake(session: Session) -> dict[str, Any]:
    """Saves to a bucket, and beside them the bare upload of the same bytes."""
    state = State(session.arguments.mebibytes)
    bucket = Bucket(session.arguments.lake)
    under = f"checkpoints-{time.time_ns()}"
    limits = Limits(state.tensors(), session.folder)
    bucket.upload(f"{under}/limit", memoryview(limits.memory))
    upload = timed(lambda: bucket.upload(f"{under}/limit", memoryview(limits.memory)))
    del limits
    try:
        one = session.open(state, lake=f"{session.arguments.lake.rstrip('/')}/{under}")
        one.save()
        one.settle()
        state.optimizer.step()
        saved = state.digest()
        start = time.perf_counter()
        call = timed(one.save)
        node, durable = moments(call, one.settle(), start)
        state.optimizer.step()
        restore = timed(one.restore)
        expect(state, saved)
        one.close()
    finally:
        bucket.clear(under)
    return {
        "bytes": state.bytes,
        "limits": {"upload": upload},
        "node": node,
        "durable": durable,
        "restore": restore,
    }


def expect(state: State, saved: str) -> None:
    if state.digest() != saved:
        raise ValueError("another state was restored than was saved")


ACTS = {act.__name__: act for act in (times, restart, saving, restoring, changed, lake)}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("act", choices=ACTS)
    parser.add_argument("contestant", choices=contestants.CLASSES)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--mebibytes", type=int, required=True)
    parser.add_argument("--saved", help="the digest of the state that a restart must find")
    parser.add_argument("--lake")
    arguments = parser.parse_args()
    try:
        session = Session(arguments)
        result = ACTS[arguments.act](session) | session.describe()
    except ImportError as error:
        result = {"missing": str(error)}
    except Exception as error:
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    arguments.output.write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
