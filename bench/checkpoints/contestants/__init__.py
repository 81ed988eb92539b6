"""One module a library. Each class in it saves and restores one model and its optimizer in a folder:

`LABEL`        its name in the tables
`PACKAGES`     distributions whose versions are printed
`save()`       as training would call it; what is still being copied then, the optimizer's step waits for
`settle()`     waits until the save is durable and nothing is left to do for it; says how many milliseconds after the
               call it was durable on this node, and where it cannot be lost, if those are earlier moments, else None
`restore()`    the newest save, into the live model and optimizer
`saved`        the folder of what cannot be lost, whose new files are what a save wrote
`close()`      ends what runs beside

The library is imported at the top of its module, so that no time and no memory holds an import, and a library that is
not installed is found out there.
"""

from __future__ import annotations

import importlib
from typing import Any

CLASSES = {
    "forebay": ("forebay", "Overlapped"),
    "forebay_at_once": ("forebay", "AtOnce"),
    "forebay_streamed": ("forebay", "Streamed"),
    "torch_save": ("torch_save", "TorchSave"),
    "safetensors": ("safetensors", "Safetensors"),
    "dcp": ("distributed", "Distributed"),
    "dcp_async": ("distributed", "Asynchronous"),
    "orbax": ("orbax", "Orbax"),
    "dlrover": ("dlrover", "DLRover"),
}


def load(name: str) -> Any:
    """The class of a contestant; ImportError where its library is not installed."""
    module, kind = CLASSES[name]
    return getattr(importlib.import_module(f"contestants.{module}"), kind)
