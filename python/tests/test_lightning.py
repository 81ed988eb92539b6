"""PyTorch Lightning takes the loader as it is, and resumes its state with its own checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forebay
import lightning
import pytest
import torch
from forebay.lightning import CheckpointIO
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


class Learning(Model):
    """Notes its loss at each step; its rate falls on the way."""

    def __init__(self, loader: DataLoader, **parameters: Any) -> None:
        super().__init__(loader)
        self.save_hyperparameters(ignore="loader")
        self.losses: list[str] = []

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        loss = super().training_step(batch, index)
        self.losses.append(loss.item().hex())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 1e-3)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.fixture
def checkpoints(tmp_path: Path, local: Path) -> Any:
    (tmp_path / "checkpoints").mkdir()

    def checkpoints(**options: Any) -> CheckpointIO:
        return CheckpointIO(tmp_path / "checkpoints", "run", local=local, **options)

    return checkpoints


def learning(loader: Any, **parameters: Any) -> Learning:
    lightning.seed_everything(1, verbose=False)
    return Learning(loader(), **parameters)


@pytest.mark.parametrize("how", ["newest", "last", "path", "step"])
def test_a_fit_that_is_kept_in_a_run_goes_on_bit_for_bit(
    loader: Any, checkpoints: Any, tmp_path: Path, how: str
) -> None:
    whole = learning(loader)
    trainer(tmp_path, max_epochs=2, enable_checkpointing=False).fit(whole, whole.loader)
    io, first = checkpoints(), learning(loader, rate=0.5)
    assert io.newest() is None
    saving = ModelCheckpoint(
        tmp_path / "paths", every_n_train_steps=3, save_top_k=1, save_last=True, filename="{step}"
    )
    before = trainer(tmp_path, max_epochs=2, callbacks=[saving, Killed(6)], plugins=[io])
    with pytest.raises(KilledError):
        before.fit(first, first.loader)
    assert first.losses == whole.losses[:7]

    files = {path.name for path in (tmp_path / "paths").iterdir()}
    assert files == {"step=6.ckpt", "last.ckpt"}
    io, second = checkpoints(), learning(loader)
    ways = {"newest": io.newest(), "path": tmp_path / "paths" / "step=6.ckpt", "step": "6"}
    saving = ModelCheckpoint(tmp_path / "paths", save_last=True)
    after = trainer(tmp_path, max_epochs=2, callbacks=[saving], plugins=[io])
    after.fit(second, second.loader, ckpt_path=ways.get(how, how))
    assert second.losses == whole.losses[6:] and second.seen == whole.seen[6:]
    stored = forebay.load_checkpoint(
        tmp_path / "checkpoints", "run", local=tmp_path / "local", names=["state_dict"]
    )
    for name, one in second.state_dict().items():
        assert torch.equal(stored["state_dict"][name], one)
    # After the fit, a save has said what became of it when it returns.
    after.save_checkpoint(tmp_path / "final.ckpt")
    assert io.load_checkpoint(tmp_path / "final.ckpt")["global_step"] == after.global_step
    io.teardown()


class Choice:
    pass


def test_a_hyperparameter_that_cannot_be_stored_is_named(
    loader: Any, checkpoints: Any, tmp_path: Path
) -> None:
    model = learning(loader, choice=Choice())
    saving = ModelCheckpoint(tmp_path / "paths", every_n_train_steps=2)
    fit = trainer(tmp_path, max_epochs=1, callbacks=[saving], plugins=[checkpoints()])
    with pytest.raises(forebay.InvalidError, match=r"state\['hyper_parameters'\]\['choice'\]"):
        fit.fit(model, model.loader)
    assert not list((tmp_path / "paths").glob("*"))


def test_a_lake_that_fails_is_told_and_names_no_path(
    loader: Any, checkpoints: Any, tmp_path: Path
) -> None:
    # A file where the checkpoints' folder must be: nothing can be committed.
    (tmp_path / "checkpoints" / "runs" / "other").mkdir(parents=True)
    (tmp_path / "checkpoints" / "runs" / "other" / "checkpoints").write_text("in the way")
    io = CheckpointIO(tmp_path / "checkpoints", "other", local=tmp_path / "local")
    model = learning(loader)
    saving = ModelCheckpoint(tmp_path / "paths", every_n_train_steps=2)
    with pytest.raises(forebay.Error, match="step 2 of run other is not committed"):
        trainer(tmp_path, max_epochs=1, callbacks=[saving], plugins=[io]).fit(model, model.loader)
    assert not list((tmp_path / "paths").glob("*"))


def test_a_file_of_somebody_else_is_no_checkpoint(checkpoints: Any, tmp_path: Path) -> None:
    io = checkpoints()
    torch.save({"a": 1}, tmp_path / "theirs.ckpt")
    with pytest.raises(forebay.CorruptError, match="without forebay's CheckpointIO"):
        io.load_checkpoint(tmp_path / "theirs.ckpt")
    (tmp_path / "other.ckpt").write_text('{"run": "other", "step": 3}')
    with pytest.raises(forebay.InvalidError, match="is of run 'other'"):
        io.load_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(forebay.NotFoundError, match="no committed checkpoint"):
        io.load_checkpoint("newest")
    io.teardown()
