"""Forks, and Ctrl-C in a real child process while a tier hangs."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import forebay
import pytest

from conftest import OpenFeed, ids_of

#: Only so that a hang fails instead of hanging the tests.
PATIENCE_SECONDS = 60


def in_child(work: object) -> int:
    """Runs `work` in a fork of this process; its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()  # type: ignore[operator]
        finally:
            os._exit(code)
    for _ in range(PATIENCE_SECONDS * 20):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


@pytest.mark.parametrize("transform", [None, lambda batch: batch])
def test_a_fork_is_told_what_to_do_and_harms_nothing(
    open_feed: OpenFeed, transform: forebay.Transform | None
) -> None:
    feed = open_feed(output="numpy", transform=transform)
    batch = next(feed)
    held = [feed._native, batch["tokens"].base]

    def work() -> int:
        for use in (lambda: next(feed), feed.stats, lambda: forebay.trace(feed, 0)):
            try:
                use()
                return 2
            except forebay.RefusedError as error:
                if "its fork" not in str(error):
                    return 3
        feed.close()
        # Letting go there must touch no lock and join no thread.
        held.clear()
        batch.clear()
        del feed.__dict__["_native"], feed.__dict__["_source"]
        return 0

    assert in_child(work) == 0
    assert ids_of(feed, 20) == ids_of(open_feed(), 21)[1:]


def test_a_child_opens_a_feed_of_its_own(open_feed: OpenFeed, tmp_path: Path) -> None:
    next(open_feed())

    def work() -> int:
        return 0 if len(ids_of(open_feed(local=tmp_path / "other"), 3)) == 3 else 4

    assert in_child(work) == 0


SCRIPT = """
import os, signal, sys, forebay
# Whoever runs the tests in the background of a shell hands down that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
lake, local, act = sys.argv[1:]
def slow(batch):
    import threading
    threading.Event().wait()
def ready():
    print("ready", flush=True)
try:
    if act == "open":
        ready()
    feed = forebay.feed(lake, "text", batch_size=8, local=local,
                        transform=slow if act == "transform" else None)
    ready()
    if act == "trace":
        forebay.trace(feed, 0)
    if act == "close":
        # Closing waits for nobody.
        feed.close()
        signal.pause()
    next(feed)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def hold(local: Path, names: list[str]) -> list[int]:
    """Holds locks of a local tier, as a process of this node that hangs would: whoever waits for
    one waits in the kernel, deaf to everything."""
    held = []
    (local / "locks").mkdir(parents=True)
    for name in names:
        held.append(os.open(local / "locks" / name, os.O_RDWR | os.O_CREAT, 0o600))
        fcntl.flock(held[-1], fcntl.LOCK_EX)
    return held


@pytest.mark.parametrize("act", ["open", "next", "trace", "close", "transform"])
def test_ctrl_c_works_while_a_tier_hangs(lake: Path, tmp_path: Path, act: str) -> None:
    landing = [f"{number:02x}" for number in range(256)]
    names = {"open": ["space"], "transform": []}.get(act, landing)
    held = hold(tmp_path / "local", names)
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), lake, tmp_path / "local", act],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.5)
        assert child.poll() is None, "it did not hang"
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=PATIENCE_SECONDS)
    finally:
        child.kill()
        for lock in held:
            os.close(lock)
    # It ends by itself, although its threads hang still.
    assert (out, child.returncode) == ("interrupted\n", 0)


def test_ctrl_c_leaves_the_feed_usable(open_feed: OpenFeed) -> None:
    def transform(batch: forebay.Batch) -> forebay.Batch:
        time.sleep(0.3)
        return batch

    feed = open_feed(transform=transform)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(feed)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ids_of(feed, 3) == ids_of(open_feed(), 3)
