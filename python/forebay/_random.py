"""The state of every random generator that training code draws from without naming one.

Python's ``random``, numpy's global generator, torch's on the CPU and on each CUDA device. Only what
was imported is looked at. Each rank has its own.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np


class RandomState:
    """The process's generators as something with a state.

    A generator that you made yourself (``torch.Generator``, ``numpy.random.Generator``) is not among
    them; put its own state into the checkpointer's ``state``.
    """

    def state_dict(self) -> dict[str, Any]:
        version, words, gauss = random.getstate()
        name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        state: dict[str, Any] = {
            "numpy": [name, keys, int(position), int(has_gauss), float(cached)],
            "python": [version, np.array(words[:-1], np.uint32), int(words[-1]), gauss],
        }
        torch = sys.modules.get("torch")
        if torch is not None:
            state["torch"] = torch.get_rng_state()
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                state["torch_cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        version, words, position, gauss = state["python"]
        random.setstate((version, (*(int(word) for word in words), position), gauss))
        np.random.set_state(tuple(state["numpy"]))
        if "torch" in state:
            import torch

            torch.set_rng_state(state["torch"])
            if "torch_cuda" in state and torch.cuda.is_available():
                # A node may have fewer devices than the one before.
                for device, one in zip(range(torch.cuda.device_count()), state["torch_cuda"]):
                    torch.cuda.set_rng_state(one, device)
