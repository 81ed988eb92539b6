"""One contestant, one workload, one act, in a process of its own; the result is one JSON object in a file.

A process of its own gives a clean import time and memory, and lets a rival have its own interpreter. Standard output
belongs to the libraries. Nothing is left behind by a crash but the output file's absence, which run.py reports.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import itertools
import json
import os
import sys
import time
import traceback
from pathlib import Path

import workloads as w

WARM_SECONDS = 0.5


class Session:
    """A contestant that is imported, and the workload it is given."""

    def __init__(self, arguments):
        self.workload = w.Workload(arguments.workload, arguments.samples)
        self.target = arguments.target
        self.source = arguments.source
        self.seconds = arguments.seconds
        self.state_file = arguments.state
        self.feed = None
        started = time.perf_counter()
        self.module = importlib.import_module(f"contestants.{arguments.contestant}")
        if self.workload.name == w.IMAGES and arguments.contestant != "forebay":
            importlib.import_module("pictures")
        self.import_seconds = time.perf_counter() - started
        import torch

        torch.set_num_threads(1)

    def open(self, state=None):
        self.feed = self.module.open_feed(self.workload, self.target, state)
        return self.feed

    def close(self) -> None:
        """Ends a feed that asks for it; the others end with the process."""
        close = getattr(self.feed, "close", None)
        if close:
            close()

    def consume(self, batch) -> int:
        """Takes a batch as a training step would, and says how many samples it had. Blobs are read to the last byte."""
        if self.workload.name == w.TOKENS:
            return len(batch)
        if self.workload.name == w.IMAGES:
            return len(batch[0])
        import torch

        batch.view(torch.int64).sum()
        return 1

    def identify(self, batch) -> list[int]:
        """Which samples of the source a batch holds, found in its bytes; -1 for bytes that the source has not."""
        if self.workload.name == w.IMAGES:
            pictures, numbers = batch
            shape = (len(numbers), 3, w.IMAGE_PIXELS, w.IMAGE_PIXELS)
            if tuple(pictures.shape) != shape:
                raise ValueError(f"a batch of images has shape {tuple(pictures.shape)} where {shape} is due")
            return [int(n) if p.float().std() > 1 else -1 for p, n in zip(pictures, numbers)]
        if self.workload.name == w.BLOBS:
            return [self.known.get(digest(batch.contiguous().numpy().data), -1)]
        return self.identify_rows(batch.numpy())

    def identify_rows(self, rows) -> list[int]:
        """A row begins with its number; it is that row only if the source has the same tokens there."""
        import numpy

        if rows.shape[1:] != (w.ROW_TOKENS,):
            raise ValueError(f"a batch of tokens has shape {rows.shape} where [n, {w.ROW_TOKENS}] is due")
        numbers = rows[:, 0].astype(numpy.int64) | rows[:, 1].astype(numpy.int64) << 16
        return [
            int(number) if number < len(self.rows) and numpy.array_equal(row, self.rows[number]) else -1
            for number, row in zip(numbers, rows)
        ]

    def learn(self) -> None:
        """What is needed to know the source's samples again, through maps: it must not count as the loader's memory."""
        import numpy

        if self.workload.name == w.TOKENS:
            self.rows = w.token_rows(self.source)
        elif self.workload.name == w.BLOBS:
            files = (w.blob_file(self.source, number) for number in range(self.workload.samples))
            self.known = {digest(numpy.memmap(file, numpy.uint8, "r").data): n for n, file in enumerate(files)}


def digest(data) -> bytes:
    import hashlib

    return hashlib.blake2b(data, digest_size=12).digest()


def describe(session: Session) -> dict:
    """Versions and settings, for the notes; fails where the library is not installed."""
    versions = {}
    for package in session.module.PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "unknown"
    return {"versions": versions, "settings": session.module.SETTINGS, "resume": session.module.RESUME}


def prepare(session: Session) -> dict:
    started = time.perf_counter()
    session.module.prepare(session.workload, session.source, session.target)
    return {"prepare_seconds": time.perf_counter() - started}


def check(session: Session) -> dict:
    """One whole epoch: is every sample delivered exactly once, and how well is it shuffled? Takes a state half way."""
    import torch

    session.learn()
    half = session.workload.batches // 2
    feed = session.open()
    delivered, following, state_error = [], None, None
    for place, batch in enumerate(feed, 1):
        numbers = session.identify(batch)
        delivered += numbers
        if place == half:
            try:
                torch.save(feed.state(half), session.state_file)
            except Exception as error:  # a rival's failure is a finding, not ours
                state_error = repr(error)
        if place == half + 1:
            following = numbers
    times = {}
    for number in delivered:
        times[number] = times.get(number, 0) + 1
    foreign = times.pop(-1, 0)
    steps = [abs(a - b) for a, b in itertools.pairwise(delivered)]
    uniform = session.workload.samples / 3
    return {
        "delivered": len(delivered),
        "missing": session.workload.samples - len(times),
        "repeated": sum(count - 1 for count in times.values()),
        "foreign": foreign,
        "shuffle": sum(steps) / max(len(steps), 1) / uniform,
        "following": following,
        "state_error": state_error,
    }


def resume(session: Session) -> dict:
    """From a state to the batch that follows it: seconds from open, and which samples that batch holds."""
    import torch

    # Plain values only: nothing stored is executed.
    state = torch.load(session.state_file, weights_only=True)
    started = time.perf_counter()
    batch = next(iter(session.open(state)))
    session.consume(batch)
    seconds = time.perf_counter() - started
    session.learn()
    return {"resume_seconds": seconds, "first": session.identify(batch)}


def measure(session: Session) -> dict:
    """Time to the first batch, then samples a second and CPU over whole or part epochs, for `seconds`."""
    started = time.perf_counter()
    feed = session.open()
    batches = iter(feed)
    session.consume(next(batches))
    first_seconds = time.perf_counter() - started

    def endless():
        yield from batches
        while True:
            yielded = False
            for batch in feed:
                yielded = True
                yield batch
            if not yielded:
                raise RuntimeError("an epoch delivered nothing")

    stream = endless()
    warm_until = time.perf_counter() + WARM_SECONDS
    while time.perf_counter() < warm_until:
        session.consume(next(stream))
    cpu_before, begun = tree_cpu_seconds(), time.perf_counter()
    samples, deadline = 0, begun + session.seconds
    while True:
        samples += session.consume(next(stream))
        now = time.perf_counter()
        if now >= deadline:
            break
    elapsed = now - begun
    cpu = tree_cpu_seconds() - cpu_before
    return {
        "first_seconds": first_seconds,
        "samples": samples,
        "seconds": elapsed,
        "samples_per_second": samples / elapsed,
        "cpu_milliseconds_per_1000": cpu * 1e6 / samples,
    }


def tree_cpu_seconds() -> float:
    """CPU of this process, of its children that live, and of those that were reaped."""
    import psutil

    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
        except psutil.NoSuchProcess:
            continue
    return total


def linger(session: Session) -> dict:
    """Goes half way into an epoch, says so by making the state file, and trains on until it is killed."""
    half = session.workload.batches // 2
    feed = session.open()
    while True:
        for place, batch in enumerate(feed, 1):
            session.consume(batch)
            if place == half:
                session.state_file.touch()
            if place >= half:
                time.sleep(0.02)  # a step: what the loader prepares ahead, it has prepared


ACTS = {act.__name__: act for act in (describe, prepare, check, resume, measure, linger)}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("act", choices=ACTS)
    parser.add_argument("contestant")
    parser.add_argument("workload", choices=w.NAMES)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--cores", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    if arguments.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, arguments.cores)
    try:
        session = Session(arguments)
        result = ACTS[arguments.act](session) | {"import_seconds": session.import_seconds}
        session.close()
    except Exception as error:
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    arguments.output.write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
