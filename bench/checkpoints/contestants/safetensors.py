"""safetensors: one file of flat names."""

from __future__ import annotations

from safetensors.torch import load_file, save_file

from contestants.torch_save import TorchSave


class Safetensors(TorchSave):
    LABEL = "safetensors"
    PACKAGES = ("safetensors", "torch")

    def save(self) -> None:
        save_file(self.flat(), self.folder / "state.safetensors")

    def restore(self) -> None:
        self.take(load_file(self.folder / "state.safetensors"))
