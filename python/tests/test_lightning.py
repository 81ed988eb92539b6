"""PyTorch Lightning takes the loader as it is, and resumes its state with its own checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forebay
import lightning
import pytest
import torch
from forebay.torch import DataLoader
from lightning.pytorch.callbacks import ModelCheckpoint


class Model(lightning.LightningModule):
    """Counts: which samples it saw at which step."""

    def __init__(self, loader: DataLoader) -> None:
        super().__init__()
        self.loader = loader
        self.layer = torch.nn.Linear(513, 1)
        self.seen: list[list[str]] = []

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        self.seen.append(forebay.sample_ids(batch["__id__"]))
        return self.layer(batch["tokens"].float() / 256).square().mean()

    def validation_step(self, batch: dict[str, torch.Tensor], index: int) -> None:
        self.layer(batch["tokens"].float())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-6)


@pytest.fixture
def loader(lake: Path, local: Path) -> Any:
    def loader(**options: Any) -> DataLoader:
        columns = ["tokens", "__id__"]
        return DataLoader(lake, "text", batch_size=32, local=local, columns=columns, **options)

    return loader


def trainer(folder: Path, **options: Any) -> lightning.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return lightning.Trainer(**quiet, **options)


class Killed(lightning.Callback):
    """Ends a fit as a crash would: without an orderly end."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps + 1:
            raise KilledError

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.on_train_batch_end(trainer)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("epochs", [0, 1])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_fit_resumes_sample_exactly(
    loader: Any, tmp_path: Path, epochs: int, steps: int
) -> None:
    whole = Model(loader())
    trainer(tmp_path, max_epochs=3, enable_checkpointing=False).fit(whole, whole.loader)
    assert len(whole.seen) == 3 * len(whole.loader)
    steps += epochs * len(whole.loader)

    first = Model(loader())
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=steps, save_top_k=1, filename="saved")
    before = trainer(tmp_path, max_epochs=3, callbacks=[saving, Killed(steps)])
    with pytest.raises(KilledError):
        before.fit(first, first.loader)
    assert first.seen == whole.seen[: steps + 1]
    second = Model(loader())
    after = trainer(tmp_path, max_epochs=3, enable_checkpointing=False)
    after.fit(second, second.loader, ckpt_path=tmp_path / "saved.ckpt")
    assert second.seen == whole.seen[steps:]


def test_a_fit_resumes_at_the_end_of_an_epoch(loader: Any, tmp_path: Path) -> None:
    whole = Model(loader())
    trainer(tmp_path, max_epochs=2, enable_checkpointing=False).fit(whole, whole.loader)
    first = Model(loader())
    saving = ModelCheckpoint(tmp_path, filename="saved")
    trainer(tmp_path, max_epochs=1, callbacks=[saving]).fit(first, first.loader)
    second = Model(loader())
    after = trainer(tmp_path, max_epochs=2, enable_checkpointing=False)
    after.fit(second, second.loader, ckpt_path=tmp_path / "saved.ckpt")
    assert first.seen + second.seen == whole.seen


def test_validation_begins_anew_each_time(loader: Any, tmp_path: Path) -> None:
    model = Model(loader())
    validation = loader(split="validation", shuffle=False)
    fit = trainer(tmp_path, max_epochs=2, enable_checkpointing=False)
    fit.fit(model, model.loader, validation)
    assert len(model.seen) == 2 * len(model.loader)
