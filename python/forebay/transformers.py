"""Hugging Face Transformers: a callback that keeps the feed's state with each checkpoint.

::

    class MyTrainer(Trainer):
        def get_train_dataloader(self):
            return loader                    # a forebay.torch.DataLoader

    trainer = MyTrainer(model, TrainingArguments(..., ignore_data_skip=True), train_dataset=loader.dataset,
                        callbacks=[FeedCallback(loader)])
    trainer.train(resume_from_checkpoint=True)

``ignore_data_skip`` keeps the trainer from reading batches only to throw them away: the callback
puts the loader where it stood.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ._errors import InvalidError

if TYPE_CHECKING:
    from .torch import DataLoader

#: The state's file in a checkpoint's directory.
FILE = "forebay_feed.json"


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
