"""PyTorch Lightning: its checkpoints in a run of Forebay instead of pickled files.

::

    from forebay.lightning import CheckpointIO

    checkpoints = CheckpointIO("s3://lake", run="gpt-small", local="/nvme")
    trainer = Trainer(plugins=[checkpoints], callbacks=[ModelCheckpoint(every_n_train_steps=500)])
    trainer.fit(model, loader, ckpt_path=checkpoints.newest())

Lightning decides when to save and what is in it: weights, optimizers, schedules, loops, callbacks
and the state of a :class:`forebay.torch.DataLoader`, all that ``Trainer.save_checkpoint`` collects,
which has no state of random generators. A save copies that and returns; the rest goes on in the
background, and what goes wrong there is raised by the next save or at the end of ``fit``. Nothing is
pickled, and what cannot be stored (a hyperparameter of a class of its own, say) is refused by its
name at the first save.

The file that Lightning names, ``….ckpt``, becomes a few bytes of JSON that say run and step, written
when that step is committed; so "last" and "best", links and the removal of older ones work as they
do otherwise. Two paths for one step mean one checkpoint. ``load_from_checkpoint`` reads no such file:
``forebay.load_checkpoint(lake, run, step=…, names=["state_dict"])`` gives the weights.

The process of rank 0 saves, as for Lightning's own files: one device, and strategies that hold the
model whole on each rank (DDP). Killed at any point, the next start goes on from the newest committed
step.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO as LightningCheckpointIO
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.fabric.utilities.rank_zero import _get_rank

from ._checkpointer import load_checkpoint
from ._errors import CorruptError, InvalidError, NotFoundError
from ._feed import LOCAL_BUDGET, open_engine
from ._group import Alone, find_group
from ._saves import Saves
from ._settings import save_settings
from ._tensors import Leaves
from ._tree import encode

#: Where a path is asked for: the newest committed step.
NEWEST = "newest"


class CheckpointIO(LightningCheckpointIO):
    """Keeps what Lightning saves in a run: ``Trainer(plugins=[CheckpointIO(…)])``.

    ``ckpt_path`` may be a path that Lightning named, a number of steps as a text, or
    :meth:`newest`. One job at a time writes a run.

    Parameters
    ----------
    lake, local, local_budget
        As for :func:`forebay.feed`.
    run, keep_every, compress, memory, threads
        As for :class:`forebay.Checkpointer`.
    keep_last
        The newest so many checkpoints stay in the lake; 0 keeps all. What Lightning removes
        (``save_top_k``) is its path alone.
    """

    def __init__(
        self,
        lake: str | os.PathLike[str],
        run: str,
        *,
        local: str | os.PathLike[str] | None = None,
        local_budget: int | str = LOCAL_BUDGET,
        keep_last: int = 0,
        keep_every: int = 0,
        compress: bool = False,
        memory: int | str | None = None,
        threads: int = 2,
    ) -> None:
        self.run = run
        self._lake = lake
        self._local = local
        self._local_budget = local_budget
        self._settings: dict[str, Any] = {"keep_last": keep_last, "keep_every": keep_every}
        self._settings |= save_settings(compress=compress, memory=memory, threads=threads)
        self._saves: Saves | None = None
        self._saved: set[int] = set()
        self._committed: set[int] = set()
        self._is_over = False
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: list[Future[None]] = []

    def newest(self) -> str | None:
        """A ``ckpt_path`` for the newest committed step; none, for a fresh start, if there is none."""
        if (_get_rank() or 0) == 0:
            # What a killed run left on this node may be the newest.
            self._open()
        engine = open_engine(self._lake, self._local, self._local_budget)
        return None if engine.checkpoint(self.run) is None else NEWEST

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Captures a checkpoint as the run's step ``global_step``; ``path`` will say which that is.

        Raises what went wrong in the background since the last call.
        """
        if storage_options is not None:
            raise InvalidError("storage_options are for files; give settings to forebay's CheckpointIO")
        self._raise_failures()
        step = checkpoint.get("global_step")
        if not isinstance(step, int):
            raise InvalidError("there is no global_step: only what the Trainer saves can be kept")
        if step < max(self._saved, default=0):
            # Another fit, or one that goes on from an older step: what was saved is not this.
            self._saved.clear()
            self._committed.clear()
        is_new = step not in self._saved
        if is_new:
            saves, leaves = self._open(), Leaves()
            state = {name: encode(one, (name,), leaves) for name, one in checkpoint.items()}
            saves.capture(step, leaves.leaves, {"state": state})
            self._saved.add(step)
        self._later(self._publish, step, os.fspath(path), is_new)
        if self._is_over:
            # Nobody calls again to be told: this waits.
            self._under_way.pop().result()

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """The checkpoint that a path says; ``map_location`` may be a device.

        Raises :class:`forebay.NotFoundError` when it is not committed. It is safe to read, whatever
        ``weights_only`` says.
        """
        step = self._choose(os.fspath(path))
        found = load_checkpoint(
            self._lake, self.run, step=step, local=self._local, local_budget=self._local_budget
        )
        if map_location is None or callable(map_location) or isinstance(map_location, dict):
            return found
        return dict(move_data_to_device(found, map_location))

    def _choose(self, path: str) -> int:
        """The step that a path says; of the newest, all ranks learn what rank 0 finds."""
        if path.isascii() and path.isdigit():
            return int(path)
        if path != NEWEST:
            return self._read_path(path)
        group = find_group()
        said = b""
        if group.rank == 0:
            self._open()
            newest = open_engine(self._lake, self._local, self._local_budget).checkpoint(self.run)
            said = b"" if newest is None else str(newest.step()).encode()
        said = group.gather(said)[0]
        group.close()
        if not said:
            raise NotFoundError(f"run {self.run} has no committed checkpoint")
        return int(said)

    def _read_path(self, path: str) -> int:
        files = get_filesystem(path)
        if not files.exists(path):
            raise NotFoundError(f"there is no checkpoint {path}")
        try:
            with files.open(path, "r") as file:
                said = json.load(file)
            run, step = said["run"], int(said["step"])
        except (ValueError, KeyError, TypeError):
            raise CorruptError(
                f"{path} does not say a step of a run: it was written without forebay's CheckpointIO"
            ) from None
        if run != self.run:
            raise InvalidError(f"{path} is of run {run!r}, and this is run {self.run!r}")
        return step

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Removes a path, once what was saved before is committed. The step stays in the lake."""
        self._later(_remove, os.fspath(path))

    def teardown(self) -> None:
        """Waits until all is durable, and raises what went wrong; saves after this wait themselves."""
        self._is_over = True
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None
        saves, self._saves = self._saves, None
        if saves is None:
            return self._raise_failures()
        try:
            self._raise_failures()
            saves.close()
        except BaseException:
            saves.abandon()
            raise

    def _open(self) -> Saves:
        if self._saves is None:
            self._saves = Saves(
                self._lake, self.run, Alone(), self._local, self._local_budget, self._settings
            )
            self._saves.claim()
        return self._saves

    def _later(self, work: Any, *arguments: Any) -> None:
        """One after the other, in the order of the calls."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="forebay-paths")
        self._under_way.append(self._thread.submit(work, *arguments))

    def _publish(self, step: int, path: str, is_new: bool) -> None:
        if is_new:
            assert self._saves is not None, "it is closed after this"
            try:
                self._saves.await_commit(step)
            except Exception:
                self._saved.discard(step)
                raise
            self._committed.add(step)
        elif step not in self._committed:
            # Why is told by the first path.
            return
        files = get_filesystem(path)
        files.makedirs(os.path.dirname(path), exist_ok=True)
        partial = f"{path}.partial"
        with files.open(partial, "w") as file:
            json.dump({"run": self.run, "step": step}, file)
        files.mv(partial, path)

    def _raise_failures(self) -> None:
        done = [one for one in self._under_way if one.done()]
        self._under_way = [one for one in self._under_way if not one.done()]
        for one in done:
            one.result()


def _remove(path: str) -> None:
    files = get_filesystem(path)
    if files.exists(path):
        files.rm(path, recursive=True)
