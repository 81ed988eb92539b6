"""The extension: private, its names may change. JSON crosses as text, samples as memory."""

from collections.abc import Callable
from os import PathLike
from typing import Any, final

VERSION: str

def process_id() -> int: ...

@final
class Engine:
    """A lake and a node's local tier, opened."""

    def __new__(
        cls, lake: str, local: str | PathLike[str], local_budget_bytes: int
    ) -> Engine: ...
    def feed(
        self,
        *,
        datasets: list[tuple[str, int | None]],
        split: str,
        settings: str,
        rank: int,
        world_size: int,
        cursor: tuple[int, int, int],
    ) -> Feed: ...
    def index(
        self,
        *,
        store: str | None,
        paths: list[str],
        dataset: str,
        format: str | None,
        splits: list[str],
        extent_bytes: int | None,
        workers: int,
    ) -> str: ...
    def checkpointer(
        self,
        *,
        run: str,
        rank: int,
        world_size: int,
        launch: str,
        settings: str,
        dataset: tuple[str, int] | None,
    ) -> Checkpointer: ...
    def sweep_checkpoints(self, run: str, older_than_seconds: float) -> list[str]: ...
    def import_checkpoint(
        self,
        *,
        source: str | PathLike[str],
        run: str,
        step: int,
        state: str,
        metadata: str | None,
    ) -> str: ...
    def export_checkpoint(
        self,
        *,
        run: str,
        step: int | None,
        state: str | None,
        shard_bytes: int,
        output: str | PathLike[str],
    ) -> str: ...
    def checkpoint(self, run: str, step: int | None = None) -> Checkpoint | None: ...
    def prepare(
        self, source: str | PathLike[str], dataset: str, workers: int, recipe: str
    ) -> str: ...
    def trace_run(self, run: str, step: int) -> str: ...
    def traffic(self) -> str: ...

@final
class Checkpointer:
    """The checkpoints of one rank of one run."""

    def recovered(self) -> str: ...
    def save(
        self,
        step: int,
        tensors: list[tuple[str, str, list[int], tuple[list[int], list[int]] | None, int, int]],
        metadata: str,
    ) -> str: ...
    def finished(self) -> str: ...
    def wait(self) -> str: ...
    def close(self) -> None: ...

@final
class Checkpoint:
    """A committed checkpoint."""

    def step(self) -> int: ...
    def world_size(self) -> int: ...
    def metadata(self, rank: int) -> str: ...
    def tensors(self) -> list[tuple[str, str, list[int]]]: ...
    def read(self, wanted: list[tuple[str, list[int], list[int], int, int]]) -> str: ...

@final
class Feed:
    """One rank's stream of batches."""

    def next(
        self, take_up: Callable[[Any], Any] | None = None
    ) -> tuple[Batch, dict[str, Any]] | None: ...
    def at(self, step: int, epoch: int, offset: int) -> Feed: ...
    def cursor(self) -> tuple[int, int, int]: ...
    def step(self) -> int: ...
    def steps_per_epoch(self) -> int: ...
    def steps(self) -> int | None: ...
    def stats(self) -> str: ...
    def describe(self) -> str: ...
    def trace(self, step: int) -> str: ...
    def close(self) -> None: ...

@final
class Batch:
    """What one rank's part of a global batch is; it outlives the batch's memory."""

    @property
    def step(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def after(self) -> tuple[int, int, int]: ...
    def ids(self) -> bytes: ...

@final
class Column:
    """One column of a batch: memory of its own until the last array over it is gone."""

    @property
    def kind(self) -> str: ...
    @property
    def offsets(self) -> list[int] | None: ...
    @property
    def shape(self) -> list[int]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def __array_interface__(self) -> dict[str, Any]: ...
    def dlpack(self) -> object: ...
