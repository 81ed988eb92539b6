"""Hugging Face Transformers: callbacks that keep a Trainer's training in Forebay.

:class:`CheckpointCallback` saves all of it (model, optimizer, schedule, progress, random state, the
feed's position) in one commit, in the place of the Trainer's own files::

    class MyTrainer(Trainer):
        def get_train_dataloader(self):
            return loader                    # a forebay.torch.DataLoader

    checkpoints = CheckpointCallback("s3://lake", run="gpt-small", loader=loader, local="/nvme")
    arguments = TrainingArguments("out", save_steps=500, ignore_data_skip=True, ...)
    trainer = MyTrainer(model, arguments, train_dataset=loader.dataset, callbacks=[checkpoints])
    trainer.train(resume_from_checkpoint=checkpoints.fetch(arguments.output_dir))

:class:`FeedCallback` keeps the Trainer's own files and puts the feed's state beside them::

    trainer = MyTrainer(..., callbacks=[FeedCallback(loader)])
    trainer.train(resume_from_checkpoint=True)

``ignore_data_skip`` keeps the Trainer from reading batches only to throw them away: the callbacks
put the loader where it stood.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ._checkpointer import Checkpointer, load_checkpoint
from ._errors import InvalidError, RefusedError
from ._feed import LOCAL_BUDGET

if TYPE_CHECKING:
    from .torch import DataLoader

#: The state's file in a checkpoint's directory.
FILE = "forebay_feed.json"


class CheckpointCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Saves a Trainer's training as checkpoints of a run, and restores it.

    The Trainer's arguments say when (``save_strategy``, ``save_steps``); it writes no checkpoint of
    its own. A save waits for a log and an evaluation of the same step, copies the state and
    returns; the rest goes on in the background, and what goes wrong there is raised by the next
    save or at the end of training. ``save_strategy="best"``, which is decided after every callback
    was asked, is refused, and ``on_save`` of other callbacks is not called.

    One process, and ranks under ``DistributedDataParallel``, each with this callback.

    Parameters
    ----------
    lake, local, local_budget
        As for :func:`forebay.feed`.
    run, keep_last, keep_every, fork, incremental, compress, random_state, memory,
    threads
        As for :class:`forebay.Checkpointer`.
    loader
        Whose position is saved with the model; none where the Trainer's own loader is used, which
        then skips batches as it always does.
    """

    def __init__(
        self,
        lake: str | os.PathLike[str],
        run: str,
        *,
        loader: DataLoader | None = None,
        local: str | os.PathLike[str] | None = None,
        local_budget: int | str = LOCAL_BUDGET,
        keep_last: int = 3,
        keep_every: int = 0,
        fork: tuple[str, int | None] | None = None,
        incremental: bool = True,
        compress: bool = False,
        random_state: bool = True,
        memory: int | str | None = None,
        threads: int = 2,
    ) -> None:
        self.run = run
        self._lake = lake
        self._loader = loader
        self._tiers: dict[str, Any] = {"local": local, "local_budget": local_budget}
        self._settings: dict[str, Any] = {
            "keep_last": keep_last, "keep_every": keep_every, "fork": fork,
            "incremental": incremental, "compress": compress, "random_state": random_state,
            "memory": memory, "threads": threads,
        }  # fmt: skip
        self._checkpointer: Checkpointer | None = None
        self._progress: dict[str, Any] = {}
        self._is_wanted = False
        self._saved_step: int | None = None

    def fetch(self, output_dir: str | os.PathLike[str]) -> str | None:
        """Puts the newest committed step where a Trainer takes it up; none if there is none.

        The directory, below ``output_dir``, holds weights and progress, in safetensors and JSON, for
        the Trainer to begin with; the callback restores all else, and the weights once more. Every
        rank calls it.
        """
        with self._open({}) as checkpointer:
            step = checkpointer._choose(None)
            path = Path(output_dir, "forebay", f"checkpoint-{step}")
            # One process of each node.
            if step is not None and os.environ.get("LOCAL_RANK", "0") == "0":
                self._write(path, step)
            checkpointer._group.gather(b"")
        return None if step is None else str(path)

    def _write(self, path: Path, step: int) -> None:
        from safetensors.torch import save_file

        found = load_checkpoint(
            self._lake, self.run, step=step, names=["model", "trainer"], **self._tiers
        )
        shutil.rmtree(path.parent, ignore_errors=True)
        path.mkdir(parents=True)
        # Tied weights are one tensor, which the format takes once: under its first name, as the
        # Trainer's own files have it. The model ties them again.
        weights: dict[int, tuple[str, Any]] = {}
        for name, tensor in found["model"].items():
            weights.setdefault(id(tensor), (name, tensor))
        save_file(dict(weights.values()), path / "model.safetensors", metadata={"format": "pt"})
        (path / "trainer_state.json").write_text(json.dumps(found["trainer"]["state"]))

    def _open(self, state: dict[str, Any]) -> Checkpointer:
        return Checkpointer(
            self._lake, self.run, state, interval=None, signals=False, **self._tiers, **self._settings
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Training begins, or goes on after ``state.global_step`` steps, and all is restored."""
        if args.save_strategy == "best":
            raise InvalidError(
                'save_strategy="best" cannot be kept by a callback: use "steps" or "epoch"'
            )
        held = {
            "model": parts["model"],
            "optimizer": parts["optimizer"],
            "scheduler": parts["lr_scheduler"],
            "scaler": getattr(parts["optimizer"], "scaler", None),
            "feed": self._loader,
            "trainer": self._progress,
        }
        self._checkpointer = self._open({key: one for key, one in held.items() if one is not None})
        if state.global_step:
            self._checkpointer.resume(state.global_step)
        elif (newest := self._checkpointer._choose(None)) is not None:
            raise RefusedError(
                f"run {self.run} has step {newest}, and training is about to begin anew: give "
                "resume_from_checkpoint=callback.fetch(output_dir), or another run"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step was taken; the Trainer has decided whether to save."""
        self._take_over(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An epoch was ended; the Trainer has decided whether to save."""
        self._take_over(state, control)

    def _take_over(self, state: Any, control: Any) -> None:
        self._is_wanted |= control.should_save
        control.should_save = False
        logged = bool(state.log_history) and state.log_history[-1].get("step") == state.global_step
        if not control.should_evaluate and (logged or not control.should_log):
            self._save(state)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What was logged belongs to the progress; an evaluation may follow."""
        if not control.should_evaluate:
            self._save(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An evaluation draws random numbers: what comes after it is what is gone on from."""
        self._save(state)

    def _save(self, state: Any) -> None:
        if not self._is_wanted or self._checkpointer is None:
            return
        self._is_wanted = False
        if state.global_step != self._saved_step:
            self._progress["state"] = dataclasses.asdict(state)
            self._checkpointer.save(state.global_step)
            self._saved_step = state.global_step

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Waits until all is durable, and raises what went wrong."""
        if self._checkpointer is not None:
            self._checkpointer.close()
            self._checkpointer = None


class FeedCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Saves a loader's state in each checkpoint, and loads it when training is resumed."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The checkpoint's directory is written; the state goes beside the model, once per job."""
        if not state.is_world_process_zero:
            return
        path = _file(args, state)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self._loader.state_dict()))
        os.replace(partial, path)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Training begins, or goes on after ``state.global_step`` steps."""
        if state.global_step == 0:
            return
        path = _file(args, state)
        if not path.is_file():
            raise InvalidError(
                f"{path} does not exist: the checkpoint was saved without this callback"
            )
        self._loader.load_state_dict(json.loads(path.read_text()))


def _file(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE
