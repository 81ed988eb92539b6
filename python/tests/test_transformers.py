"""Hugging Face's Trainer and Accelerate take the loader as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forebay
import pytest
import torch
from accelerate import Accelerator
from forebay.torch import DataLoader
from forebay.transformers import FeedCallback
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

    def __init__(self, loader: DataLoader, folder: Path, **options: Any) -> None:
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
        super().__init__(
            GPT2LMHeadModel(GPT2Config(**sizes)),
            arguments,
            train_dataset=loader.dataset,
            callbacks=[FeedCallback(loader)],
        )

    def get_train_dataloader(self) -> Any:
        return self.loader

    def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        self.seen.append(forebay.sample_ids(inputs.pop("__id__")))
        return super().training_step(model, inputs, *rest, **named)


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
