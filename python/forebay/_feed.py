"""The feed: an iterator over batches, with a state."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from . import _forebay
from ._batches import (
    ID,
    Arrays,
    AsNumpy,
    AsTorch,
    Batch,
    Delivery,
    Source,
    Transform,
    sample_ids,
)
from ._device import to_device
from ._errors import InvalidError
from ._mixture import MixBy, Weight, parse_mixture
from ._rank import find_rank
from ._state import Cursor, State, cursor_of, dataset_of, make_state
from ._transform import Transformed
from ._units import parse_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._meter import Meter

Output = Literal["torch", "numpy"]

LOCAL_BUDGET = "64GB"


class Waited(TypedDict):
    """Seconds the consumer waited, by cause."""

    lake: float
    local: float
    assembly: float


class Stats(TypedDict):
    """What a feed did since it was opened or moved to another step."""

    batches: int
    samples: int
    bytes: int
    waited: Waited
    elapsed: float
    cache_hits: int
    cache_misses: int
    refetches: int
    lake_bytes: int
    lake_requests: int
    buffer_bytes: int
    prefetched: int
    prefetches_bypassed: int
    prefetches_failed: int


class Feed:
    """A stream of batches; made by :func:`forebay.feed`.

    Iterating it gives dicts: column name to an array whose first axis counts samples. The arrays
    lie over the engine's own memory, can be written, and are the consumer's until the last of them
    is dropped; then the memory is used again. Batches that are kept count on top of
    ``buffer_bytes``.

    An error of a tier (:class:`forebay.UnavailableError`, …) does not move the position: ``next``
    tries the same step again. One thread at a time may iterate; any may ask for ``stats``.
    """

    def __init__(
        self,
        engine: _forebay.Engine,
        native: _forebay.Feed,
        *,
        output: Output | None,
        columns: Sequence[str] | None,
        transform: Transform | None,
        transform_threads: int,
        device: str | None,
    ) -> None:
        self._engine = engine
        self._native = native
        self._process = _forebay.process_id()
        self._about = _described(native)
        self._output: Output | None = output
        self._columns = None if columns is None else list(columns)
        self._transform = transform
        self._transform_threads = transform_threads
        self._device = device
        # Where the run stands: step, epoch, and samples of that epoch.
        self._after = native.cursor()
        self._last: _forebay.Batch | None = None
        self._steps_per_epoch = native.steps_per_epoch()
        self._steps = native.steps()
        self._source: Source | None = self._pipeline()

    def _pipeline(self) -> Source:
        form = _form(self._output, self._device)
        kinds = {name: column["kind"] for name, column in self._about["columns"].items()}
        source: Source = Arrays(self._native, self._columns, kinds, form)
        if self._transform is not None:
            source = Transformed(source, self._transform, self._transform_threads)
        if self._device is not None:
            source = to_device(source, self._device)
        return source

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        delivery = self._next()
        if delivery is None:
            raise StopIteration
        return delivery.batch

    def _next(self) -> Delivery | None:
        delivery = self._open_source().next()
        if delivery is not None:
            self._last, self._after = delivery.about, delivery.about.after
        return delivery

    @property
    def _cursor(self) -> Cursor:
        """Where the run stands after the batch that was delivered last."""
        return Cursor(*self._after)

    def __len__(self) -> int:
        """The steps that are left; ``TypeError`` when the epochs never end."""
        if self._steps is None:
            raise TypeError("the feed goes on for ever; give it `epochs`, or use steps_per_epoch")
        return max(self._steps - self.step, 0)

    @property
    def steps_per_epoch(self) -> int:
        """The steps of one epoch, the same for every rank."""
        return self._steps_per_epoch

    @property
    def step(self) -> int:
        """The step whose batch comes next; also the number of steps delivered since the start."""
        return self._cursor.step

    @property
    def epoch(self) -> int:
        """The epoch of the batch that comes next, from 0."""
        return self._after[1]

    @property
    def rank(self) -> int:
        """This process's number in its job."""
        return int(self._about["rank"])

    @property
    def world_size(self) -> int:
        """The number of processes in the job."""
        return int(self._about["world_size"])

    @property
    def global_batch_size(self) -> int:
        """Samples of one step over all ranks."""
        return int(self._about["settings"]["batch_size"])

    @property
    def batch_size(self) -> int:
        """Samples of one step on each rank; where ranks get unequal parts, of the first."""
        return -(-self.global_batch_size // self.world_size)

    @property
    def dataset(self) -> str:
        """The dataset and its version, as ``name@3``; several are joined by ``+``."""
        return dataset_of(self._about)

    @property
    def rows(self) -> int:
        """Samples of the split, over all ranks."""
        return sum(int(one["rows"]) for one in self._about["datasets"])

    @property
    def schema(self) -> dict[str, dict[str, Any]]:
        """Each column's ``dtype`` and the ``shape`` of one sample, as the engine delivers them."""
        return dict(self._about["columns"])

    @property
    def last_ids(self) -> list[str]:
        """The identities of the samples of the last batch, in order: 32 hexadecimal digits each."""
        return [] if self._last is None else sample_ids(self._last.ids())

    def state_dict(self) -> State:
        """Where the feed stands: after the batch that was delivered last.

        A dict of plain values (it fits into JSON, ``torch.save`` and any checkpoint), the same on
        every rank.
        """
        return make_state(self._about, self._cursor)

    def load_state_dict(self, state: Any) -> None:
        """Goes on after the batch that was delivered last when ``state`` was made.

        World size and batch size may be others, and all settings that only decide speed or memory. Raises
        :class:`forebay.InvalidError` naming what differs when the state is of another dataset,
        split, seed or order.
        """
        self._seek(cursor_of(state, self._about))

    def _open_source(self) -> Source:
        """The last stage, unless it is closed or another process's: see ``_forked``."""
        if self._forked():
            self._native.step()
        if self._source is None:
            raise InvalidError("the feed is closed; open another")
        return self._source

    def _forked(self) -> bool:
        """Whether this is a forked child, where locks of the stages may be held for ever."""
        return self._process != _forebay.process_id()

    def _seek(self, cursor: Cursor) -> None:
        """Goes on at ``cursor``; costs the same wherever it is."""
        source = self._open_source()
        if cursor == self._cursor:
            return
        # Stages that work ahead end with the feed they take from.
        native = self._native.at(*cursor)
        source.close()
        self._native, self._after = native, native.cursor()
        self._steps = native.steps()
        self._source = self._pipeline()

    def stats(self) -> Stats:
        """Counts since the feed was opened or moved; bytes, and seconds waited by cause."""
        stats: Stats = json.loads(self._native.stats())
        return stats

    def traffic(self) -> dict[str, dict[str, int]]:
        """Requests and bytes between this feed and the lake, by purpose (manifest, shard, …)."""
        traffic: dict[str, dict[str, int]] = json.loads(self._engine.traffic())
        return traffic

    def meter(self, *, every_seconds: float = 1.0) -> Meter:
        """A context that prints one line now and then: how fast, and why not faster."""
        from ._meter import Meter

        return Meter(self, every_seconds=every_seconds)

    def close(self) -> None:
        """Ends the feed and its threads. Batches that were delivered stay valid."""
        if self._source is not None and not self._forked():
            self._source.close()
            self._source = None

    def __del__(self) -> None:
        # Threads of the stages keep those alive, but not the feed. It may not have been opened.
        if "_source" in self.__dict__:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<forebay.Feed of {self.dataset}, {self._about['split']}, step {self.step}, "
            f"rank {self.rank} of {self.world_size}>"
        )

    def __reduce__(self) -> Any:
        raise TypeError(
            "a feed belongs to its process and cannot be pickled: send its state_dict() and open "
            "another there"
        )


def _described(native: _forebay.Feed) -> dict[str, Any]:
    """What a feed delivers, its columns by name and their types as numpy calls them."""
    about: dict[str, Any] = json.loads(native.describe())
    columns = {}
    for name, column in about["columns"]:
        columns[name] = {**column, "dtype": np.dtype(column["dtype"]).name}
    about["columns"] = columns
    return about


def feed(
    lake: str | os.PathLike[str],
    dataset: str | Mapping[str, Weight],
    *,
    split: str = "train",
    batch_size: int | None = None,
    global_batch_size: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    epochs: int | None = None,
    local: str | os.PathLike[str] | None = None,
    local_budget: int | str = LOCAL_BUDGET,
    rank: int | None = None,
    world_size: int | None = None,
    device: str | None = None,
    output: Output | None = None,
    last_batch: Literal["short", "drop", "pad"] | None = None,
    columns: Sequence[str] | None = None,
    transform: Transform | None = None,
    transform_threads: int = 2,
    canonical_streams: int | None = None,
    window_shards: int | None = None,
    skip: Sequence[tuple[int, int]] | None = None,
    mix_by: MixBy = "samples",
    mix_column: str | None = None,
    schedule: Sequence[tuple[int, Mapping[str, float]]] | None = None,
    images: Mapping[str, Mapping[str, Any]] | None = None,
    padding: Mapping[str, float | Mapping[str, float]] | None = None,
    buffer_bytes: int | str | None = None,
    threads: int | None = None,
    lookahead_bytes: int | str | None = None,
    prefetch_threads: int | None = None,
) -> Feed:
    """Opens a feed: batches of a dataset in the lake, in an order that is a pure function.

    Which samples a step has depends on the dataset, the seed, the order's settings and the global
    batch size alone: not on world size, threads, or where it was resumed.

    Parameters
    ----------
    lake
        A directory or a URL.
    dataset
        ``"name"`` (the newest version) or ``"name@3"``, prepared or indexed. Several are mixed by
        weight: ``{"web": 3, "code@2": 1}``; each goes through its own epochs in its own order.
    mix_by
        What the weights count. ``"samples"``: three of four are of ``web``. ``"tokens"``: three of
        four tokens are; where samples differ in length, say how many tokens they have on average:
        ``{"web": {"weight": 3, "tokens_per_sample": 731.5}, "code@2": 1}``. ``"epochs"``: in each
        epoch of the mixture every sample of ``web`` comes exactly three times and every one of
        ``code`` once, but for what ``last_batch`` drops or repeats. ``0.5`` takes half of a
        dataset, and the next epoch goes on with the rest.
    mix_column
        The column whose elements are the tokens: ``"tokens"``, or the only one, if ``None``.
    schedule
        Other weights from some step on: ``[(10_000, {"web": 1, "code@2": 1})]``; not of epochs.
    images
        Columns that are encoded images, and what to make of them:
        ``{"jpg": {"size": [224, 224], "crop": "resize", "dtype": "U8", "layout": "chw"}}``. What is
        random is a function of seed, epoch and sample.
    padding
        Columns of varying length to be filled up to one length: ``{"labels": -1}``, or
        ``{"labels": {"value": -1, "items": 128}}`` for a fixed one.
    split
        ``"train"`` or ``"validation"``.
    batch_size, global_batch_size
        Samples of a step on each rank, or over all ranks. Give exactly one. A job that changes its
        world size gives ``global_batch_size``: its steps stay the same.
    seed, shuffle
        Other seeds give other orders; without shuffling, samples come as they are stored.
    epochs
        Ends after so many; goes on for ever if ``None``.
    local, local_budget
        The local tier, a directory on this node that all its processes share (default:
        ``$FOREBAY_LOCAL`` or ``~/.cache/forebay/local``), and the most it may hold, in bytes or as
        ``"200GB"``.
    rank, world_size
        Default: ``torch.distributed`` where it is initialized, else ``RANK`` and ``WORLD_SIZE``,
        else alone.
    output, device
        ``"torch"`` (default where torch is installed) or ``"numpy"``. ``device="cuda"`` puts
        tensors on a GPU, copied one batch ahead.
    last_batch
        What becomes of an epoch's rest that fills no batch; the engine's default if ``None``.
    columns
        Those that are wanted; ``"__id__"`` is the samples' identities, ``uint8[batch, 16]``.
    transform, transform_threads
        A function from batch to batch, called on so many threads; the order is kept. What it
        raises is raised here at its batch.
    canonical_streams, window_shards, skip
        The order's settings; the engine's defaults if ``None``. ``skip`` leaves out ranges of
        steps, ``[(from, to), …]``.
    buffer_bytes, threads, lookahead_bytes, prefetch_threads
        Bounds: memory of batches assembled ahead, threads that assemble, bytes of shards fetched
        ahead, fetches at once.

    Raises
    ------
    forebay.InvalidError
        An argument cannot work; the message says which and why.
    forebay.NotFoundError
        There is no such dataset, version or lake.
    forebay.UnavailableError, forebay.CorruptError, …
        A tier failed.
    """
    rank, world_size = find_rank(rank, world_size)
    settings: dict[str, Any] = {
        "seed": seed,
        "shuffle": shuffle,
        "batch_size": _global_batch_size(batch_size, global_batch_size, world_size),
        "epochs": epochs,
    }
    chosen = {
        "last_batch": last_batch,
        "canonical_streams": canonical_streams,
        "window_shards": window_shards,
        "skip_steps": None if skip is None else [list(steps) for steps in skip],
        "images": None if images is None else {name: dict(one) for name, one in images.items()},
        "padding": None if padding is None else {n: _padding(one) for n, one in padding.items()},
        "buffer_bytes": _bytes("buffer_bytes", buffer_bytes),
        "threads": threads,
        "lookahead_bytes": _bytes("lookahead_bytes", lookahead_bytes),
        "prefetch_threads": prefetch_threads,
    }
    settings.update({name: value for name, value in chosen.items() if value is not None})
    _form(output, device)
    engine = open_engine(lake, local, local_budget)
    if columns is not None:
        # What nobody asked for is neither decoded nor copied.
        settings["columns"] = [name for name in columns if name != ID] or None
    weights: dict[str, Weight] = {dataset: 1.0} if isinstance(dataset, str) else dict(dataset)
    if not isinstance(dataset, str) or schedule is not None or (mix_by, mix_column) != ("samples", None):
        settings["mixture"] = parse_mixture(
            weights,
            schedule or (),
            global_batch_size=int(settings["batch_size"]),
            mix_by=mix_by,
            mix_column=mix_column,
        )
    native = engine.feed(
        datasets=[parse_dataset(name) for name in weights],
        split=split,
        settings=json.dumps(settings),
        rank=rank,
        world_size=world_size,
        cursor=(0, 0, 0),
    )
    return Feed(
        engine,
        native,
        output=output,
        columns=columns,
        transform=transform,
        transform_threads=transform_threads,
        device=device,
    )


def open_engine(
    lake: str | os.PathLike[str],
    local: str | os.PathLike[str] | None,
    local_budget: int | str,
) -> _forebay.Engine:
    """Both tiers; the local one's directory is made where it is the default."""
    if local is None:
        home = os.environ.get("FOREBAY_LOCAL")
        folder = Path(home) if home else Path.home() / ".cache" / "forebay" / "local"
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    else:
        folder = Path(local)
    return _forebay.Engine(os.fspath(lake), folder, parse_bytes("local_budget", local_budget))


def parse_dataset(text: str) -> tuple[str, int | None]:
    """``"name@3"`` as a name and a version; ``"name"`` has none."""
    name, at, version = text.partition("@")
    if not at:
        return name, None
    if version.isascii() and version.isdigit() and int(version) > 0:
        return name, int(version)
    raise InvalidError(f"dataset is {text!r}; write 'name' or 'name@3'")


def _global_batch_size(per_rank: int | None, over_all: int | None, world_size: int) -> int:
    if over_all is None and per_rank is not None:
        return per_rank * world_size
    if per_rank is None and over_all is not None:
        return over_all
    raise InvalidError(
        "give exactly one of batch_size (samples of a step on each rank) and global_batch_size "
        "(over all ranks)"
    )


def _padding(one: float | Mapping[str, float]) -> dict[str, float]:
    return dict(one) if isinstance(one, Mapping) else {"value": one}


def _bytes(setting: str, value: int | str | None) -> int | None:
    return None if value is None else parse_bytes(setting, value)


def _form(output: Output | None, device: str | None) -> AsNumpy | AsTorch:
    """What the consumer's arrays are."""
    if output == "numpy":
        if device is not None and device != "cpu":
            raise InvalidError(f"output is 'numpy', which has no device {device!r}")
        return AsNumpy()
    if output not in (None, "torch"):
        raise InvalidError(f"output is {output!r}; choose 'torch' or 'numpy'")
    try:
        return AsTorch()
    except ImportError as error:
        if output is None and device is None:
            return AsNumpy()
        raise InvalidError(f"output is 'torch', which is not installed: {error}") from error


def epoch_of(feed: Feed) -> Iterator[Batch]:
    """The batches that are left of the feed's current epoch."""
    epoch = feed.epoch
    while feed.epoch == epoch and (delivery := feed._next()) is not None:
        yield delivery.batch
