"""torch.save and torch.load of one file, and what other contestants share with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import files
import torch


class TorchSave:
    LABEL = "torch.save"
    PACKAGES = ("torch",)

    def __init__(self, folder: Path, model: Any, optimizer: Any) -> None:
        self.folder, self.model, self.optimizer = folder, model, optimizer

    @property
    def saved(self) -> Path:
        return self.folder

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def flat(self) -> dict[str, torch.Tensor]:
        """Every tensor by a name of its own; the optimizer's numbers stay with the caller."""
        moments = self.optimizer.state_dict()["state"]
        flat = {f"model.{name}": one for name, one in self.model.state_dict().items()}
        return flat | {f"{at}.{key}": one for at, held in moments.items() for key, one in held.items()}

    def take(self, restored: dict[str, torch.Tensor]) -> None:
        """Copies what `flat` names into the live tensors."""
        with torch.no_grad():
            for name, one in self.flat().items():
                one.copy_(restored[name])

    def save(self) -> None:
        torch.save(self.state(), self.folder / "state.pt")

    def settle(self) -> tuple[float, float] | None:
        files.sync(self.folder)
        return None

    def restore(self) -> None:
        state = torch.load(self.folder / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def close(self) -> None:
        """Nothing is open."""
