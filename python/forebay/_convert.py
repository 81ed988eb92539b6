"""Checkpoints of other tools: brought into a lake, and written out of it.

Nothing in a foreign file is ever run. ``torch.save`` files are read by ``torch.load`` with
``weights_only``; Hugging Face's safetensors by the engine. The ``.metadata`` of a directory of
``torch.distributed.checkpoint`` is a pickle, which torch's own reader would obey: here it is read
into inert records, whatever it names, and its values by ``weights_only`` again.

What is brought in goes through a safetensors file in a scratch directory, one tensor at a time, and
from there through a few megabytes into the lake: a state need not fit into memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from . import _forebay
from ._checkpointer import check_name, load_checkpoint
from ._dcp_directory import METADATA, Directory
from ._errors import CorruptError, InvalidError, NotFoundError
from ._feed import LOCAL_BUDGET, open_engine
from ._stored import VERSION
from ._tensors import Box, Leaf, Leaves, stored
from ._tree import Path as Path_
from ._tree import encode
from ._units import parse_bytes


class Imported(TypedDict):
    """What was brought in."""

    run: str
    step: int
    tensors: int
    #: The files the engine read: those of the source, or one it was brought into.
    files: int
    bytes: int
    #: Whether the same was there already.
    existed: bool


def import_checkpoint(
    source: str | os.PathLike[str],
    lake: str | os.PathLike[str],
    run: str,
    *,
    step: int = 0,
    state: str | None = "model",
    scratch: str | os.PathLike[str] | None = None,
    local: str | os.PathLike[str] | None = None,
    local_budget: int | str = LOCAL_BUDGET,
) -> Imported:
    """Commits a checkpoint that another tool wrote as step ``step`` of ``run``, bit for bit.

    ::

        forebay.import_checkpoint("~/models/small", "s3://lake", "small")     # Hugging Face
        forebay.import_checkpoint("model.pt", "s3://lake", "small")           # torch.save
        forebay.import_checkpoint("step-500", "s3://lake", "old", step=500, state=None)    # DCP
        weights = forebay.load_checkpoint("s3://lake", "small")["model"]

    A script whose ``Checkpointer`` has ``state={"model": model, …}`` starts from it with
    ``resume(strict=False)``. Importing the same again changes nothing.

    Parameters
    ----------
    source
        A safetensors file; a directory with ``model.safetensors`` or with
        ``model.safetensors.index.json`` and the files it names; a file of ``torch.save``; or a
        directory of ``torch.distributed.checkpoint``.
    state
        The name under which a training script saves this: the whole source becomes that state.
        ``None`` when the source is a dict of states, as in ``torch.save({"model": …, "optimizer":
        …})``; then each of its keys becomes one.
    scratch
        Where a copy of the tensors lies meanwhile, as large as they are; the system's temporary
        directory if ``None``. Not needed for safetensors.

    Raises
    ------
    forebay.InvalidError
        The source is nothing of these, holds more than tensors and plain values, or names what it
        must not.
    forebay.CorruptError
        The source is damaged.
    forebay.ConflictError
        The step is committed with another state.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise NotFoundError(f"{path} does not exist")
    if state is not None:
        check_name(state)
    engine = open_engine(lake, local, local_budget)
    is_dcp = path.is_dir() and (path / METADATA).exists()
    if not is_dcp and (path.is_dir() or path.suffix == ".safetensors"):
        if state is None:
            raise InvalidError(f"{path} holds the tensors of one state: say how it is called")
        return _imported(engine.import_checkpoint(
            source=path, run=run, step=step, state=state, metadata=None
        ))  # fmt: skip
    if is_dcp:
        directory = Directory(path)
        return _bring(engine, run, step, _states(directory.value, state, path), scratch, directory)
    return _bring(engine, run, step, _states(_load(path), state, path), scratch, None)


def export_checkpoint(
    lake: str | os.PathLike[str],
    run: str,
    target: str | os.PathLike[str],
    layout: str = "hugging-face",
    *,
    step: int | None = None,
    state: str | None = "model",
    shard_bytes: int | str = "5GB",
    local: str | os.PathLike[str] | None = None,
    local_budget: int | str = LOCAL_BUDGET,
) -> int:
    """Writes a committed checkpoint, the newest without a ``step``, as other tools read it.

    Returns the step. ``target`` must not exist, or be an empty directory.

    Parameters
    ----------
    layout
        ``"hugging-face"``: a directory of safetensors files of at most ``shard_bytes`` of tensors
        and, if there are several, their index. ``"torch"``: a file of ``torch.save``. ``"dcp"``: a
        directory of ``torch.distributed.checkpoint``. The last two need memory for what they write.
    state
        Which of the states that were saved; ``None``: all of them, with the optimizer's.

    Raises
    ------
    forebay.NotFoundError
        There is no such step or state.
    """
    path = Path(target).expanduser()
    if layout == "hugging-face":
        engine = open_engine(lake, local, local_budget)
        said = engine.export_checkpoint(
            run=run,
            step=step,
            state=state,
            shard_bytes=parse_bytes("shard_bytes", shard_bytes),
            output=path,
        )
        return int(json.loads(said)["step"])
    if layout not in ("torch", "dcp"):
        raise InvalidError(f"layout is {layout!r}; write 'hugging-face', 'torch' or 'dcp'")
    if step is None:
        newest = open_engine(lake, local, local_budget).checkpoint(run)
        if newest is None:
            raise NotFoundError(f"run {run} has no committed checkpoint")
        step = newest.step()
    names = None if state is None else [state]
    value: Any = load_checkpoint(
        lake, run, step=step, names=names, local=local, local_budget=local_budget
    )
    if state is not None:
        value = value[state]
    (_save_torch if layout == "torch" else _save_dcp)(value, path)
    return step


def _imported(said: str) -> Imported:
    imported: Imported = json.loads(said)
    return imported


def _load(path: Path) -> Any:
    """What ``torch.save`` wrote, tensors mapped where they lie."""
    import torch

    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise InvalidError(
            f"{path} is no file of torch.save, or holds more than tensors and plain values, which "
            f"could only be had by running what it says: {_first_line(error)}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CorruptError(f"{path} is damaged: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _states(value: Any, state: str | None, path: Path) -> dict[str, Any]:
    if state is not None:
        return {state: value}
    if not isinstance(value, Mapping):
        raise InvalidError(f"{path} holds a {type(value).__name__}: say how that state is called")
    for name in value:
        check_name(name)
    return dict(value)


class _LeavesOf(Leaves):
    """Leaves of which some have their values in a directory of DCP."""

    def __init__(self, directory: Directory | None) -> None:
        super().__init__()
        self._directory = directory

    def put(self, value: Any, path: Path_) -> Any:
        if self._directory is None or not self._directory.holds(value):
            return super().put(value, path)
        shape = tuple(value.shape)
        return self.put_tensor(value, path, Box(shape, None, shape))

    def values_of(self, leaf: Leaf) -> Leaf:
        """The leaf with its values, in memory as long as it is kept."""
        if self._directory is None or not self._directory.holds(leaf.value):
            return leaf
        return replace(leaf, value=self._directory.read(leaf.value))


def _bring(
    engine: _forebay.Engine,
    run: str,
    step: int,
    states: dict[str, Any],
    scratch: str | os.PathLike[str] | None,
    directory: Directory | None,
) -> Imported:
    """Commits plain values and tensors; those without values come from ``directory``."""
    leaves = _LeavesOf(directory)
    tree = {name: encode(value, (name,), leaves) for name, value in states.items()}
    metadata = json.dumps({"version": VERSION, "state": tree, "metrics": {}})
    with tempfile.TemporaryDirectory(prefix="forebay-import-", dir=scratch) as folder:
        path = Path(folder) / "state.safetensors"
        _write(path, leaves)
        said = engine.import_checkpoint(
            source=path, run=run, step=step, state="", metadata=metadata
        )
    return _imported(said)


def _write(path: Path, leaves: _LeavesOf) -> None:
    """A safetensors file of these, one in memory at a time."""
    rows, end = {}, 0
    for leaf in leaves.leaves:
        name, dtype, shape, _ = leaf.described()
        rows[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + leaf.bytes]}
        end += leaf.bytes
    header = json.dumps(rows, separators=(",", ":")).encode()
    with _new_file(path) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for leaf in leaves.leaves:
            memory, address = stored(leaves.values_of(leaf).value)
            if leaf.bytes:
                file.write((ctypes.c_char * leaf.bytes).from_address(address))
            del memory


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[io.BufferedWriter]:
    """A file for its owner alone, durable at the end and removed when that is not reached."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InvalidError(f"{path} exists; name a file that does not") from None
    try:
        with open(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise


def _save_torch(value: Any, path: Path) -> None:
    import torch

    with _new_file(path) as file:
        torch.save(value, file)


def _save_dcp(value: Any, path: Path) -> None:
    from torch.distributed.checkpoint.state_dict_saver import save

    if not isinstance(value, dict):
        raise InvalidError(f"a directory of DCP holds a dict, and this state is a {type(value).__name__}")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise InvalidError(f"{path} is not empty; name a directory that is, or that does not exist")
    save(value, checkpoint_id=path, no_dist=True)
