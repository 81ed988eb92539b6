"""Hugging Face's Trainer and Accelerate take the loader as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forebay
import pytest
import torch
from accelerate import Accelerator
from forebay.torch import DataLoader
from forebay.transformers import CheckpointCallback, FeedCallback
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


def language(batch: forebay.Batch) -> forebay.Batch:
    """What a causal language model takes."""
    tokens = batch["tokens"][:, :32].long()
    return {"input_ids": tokens, "labels": tokens, "__id__": batch["__id__"]}


@pytest.fixture
def loader(lake: Path, local: Path) -> Any:
    def loader() -> DataLoader:
        return DataLoader(
            lake,
            "text",
            batch_size=32,
            local=local,
            columns=["tokens", "__id__"],
            transform=language,
        )

    return loader


class Recording(Trainer):
    """A trainer with a loader of its own, which notes the samples of each step."""

    def __init__(
        self, loader: DataLoader, folder: Path, callback: Any = None, **options: Any
    ) -> None:
        examples = [{"input_ids": torch.arange(32), "labels": torch.arange(32)}] * 4
        sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 300}
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            ignore_data_skip=True,
            per_device_train_batch_size=32,
            **options,
        )
        self.loader = loader
        self.seen: list[list[str]] = []
        self.losses: list[str] = []
        torch.manual_seed(1)
        super().__init__(
            GPT2LMHeadModel(GPT2Config(**sizes)),
            arguments,
            train_dataset=loader.dataset,
            eval_dataset=examples,
            callbacks=[callback or FeedCallback(loader)],
        )

    def get_train_dataloader(self) -> Any:
        return self.loader

    def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        self.seen.append(forebay.sample_ids(inputs.pop("__id__")))
        loss = super().training_step(model, inputs, *rest, **named)
        self.losses.append(loss.item().hex())
        return loss


def test_a_trainer_resumes_sample_exactly(loader: Any, tmp_path: Path) -> None:
    whole = Recording(loader(), tmp_path / "whole", save_strategy="no")
    whole.train()
    epoch = len(whole.loader)
    assert len(whole.seen) == 2 * epoch
    for steps in (5, epoch, epoch + 4):
        folder = tmp_path / f"from-{steps}"
        first = Recording(loader(), folder, save_steps=steps)
        # Stopped from outside just after its first checkpoint.
        first.add_callback(stop_after(steps))
        first.train()
        second = Recording(loader(), folder, save_strategy="no")
        second.train(resume_from_checkpoint=True)
        assert first.seen + second.seen == whole.seen, steps


def stop_after(steps: int) -> Any:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step >= steps

    return Stop


def test_a_checkpoint_without_a_state_is_said(loader: Any, tmp_path: Path) -> None:
    first = Recording(loader(), tmp_path, save_steps=3, max_steps=3)
    first.train()
    next(tmp_path.rglob("forebay_feed.json")).unlink()
    with pytest.raises(forebay.InvalidError, match="was saved without this callback"):
        Recording(loader(), tmp_path).train(resume_from_checkpoint=True)


def test_accelerate_prepares_it_as_it_is(loader: Any) -> None:
    accelerator = Accelerator(cpu=True)
    model: Any = torch.nn.Linear(32, 1)
    model, optimizer, data = accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), 1e-6), loader()
    )
    seen = []
    for batch in data:
        loss = model(batch["input_ids"].float()).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        seen += forebay.sample_ids(batch["__id__"])
    assert len(seen) == len(set(seen)) == len(data) * 32


@pytest.fixture
def callback(tmp_path: Path, local: Path) -> Any:
    (tmp_path / "checkpoints").mkdir()

    def callback(loader: DataLoader) -> CheckpointCallback:
        return CheckpointCallback(tmp_path / "checkpoints", "run", loader=loader, local=local)

    return callback


class KilledError(Exception):
    pass


def killed_after(steps: int) -> Any:
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == steps:
                raise KilledError

    return Kill


def test_a_training_that_is_kept_in_a_run_goes_on_bit_for_bit(
    loader: Any, callback: Any, tmp_path: Path
) -> None:
    # Evaluation draws random numbers, which dropout goes on from.
    options: dict[str, Any] = {
        "eval_strategy": "steps", "eval_steps": 4, "logging_steps": 3, "lr_scheduler_type": "cosine",
    }  # fmt: skip

    def trainer(folder: str, **more: Any) -> Recording:
        return Recording(loader(), tmp_path / folder, **options, **more)

    whole = trainer("whole", save_strategy="no")
    whole.train()
    epoch = len(whole.loader)
    kept, done = tmp_path / "kept", 0
    # Saved every 4 steps; killed in the first epoch, in the second, and never.
    for steps in (5, epoch + 3, None):
        part = trainer("kept", save_steps=4)
        part.remove_callback(FeedCallback)
        checkpoints = callback(part.loader)
        part.add_callback(checkpoints)
        found = checkpoints.fetch(kept)
        assert found == (str(kept / "forebay" / f"checkpoint-{done}") if done else None)
        if steps is None:
            part.train(resume_from_checkpoint=found)
        else:
            part.add_callback(killed_after(steps))
            with pytest.raises(KilledError):
                part.train(resume_from_checkpoint=found)
        assert part.losses == whole.losses[done : steps or len(whole.losses)]
        assert part.seen == whole.seen[done : steps or len(whole.seen)]
        done = (steps or 0) // 4 * 4
        # A killed process would leave this to the next; this one lives on.
        checkpoints.on_train_end(None, None, None)
    assert not [path for path in kept.rglob("*") if path.suffix in (".bin", ".pt", ".pth")]
    stored = forebay.load_checkpoint(tmp_path / "checkpoints", "run", local=tmp_path / "local")
    assert stored["trainer"]["state"]["global_step"] == len(whole.losses)


def test_a_run_with_steps_is_not_begun_anew_by_mistake(loader: Any, callback: Any, tmp_path: Path) -> None:
    for again in (False, True):
        data = loader()
        part = Recording(data, tmp_path / "kept", callback(data), save_steps=2, max_steps=2)
        if again:
            with pytest.raises(forebay.RefusedError, match="run run has step 2"):
                part.train()
        else:
            part.train()


def test_saving_the_best_is_refused(loader: Any, callback: Any, tmp_path: Path) -> None:
    data = loader()
    part = Recording(
        data, tmp_path / "kept", callback(data), save_strategy="best", metric_for_best_model="loss",
        eval_strategy="steps", eval_steps=2,
    )  # fmt: skip
    with pytest.raises(forebay.InvalidError, match="cannot be kept by a callback"):
        part.train()
