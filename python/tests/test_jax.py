"""JAX takes batches; in a process of its own, since it does not bear the forks of other tests."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "scripts" / "jax_batches.py"


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_batches_are_those_of_the_feed(lake: Path, local: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, lake, local], capture_output=True, text=True, check=False
    )
    assert done.stdout == "equal\n", done.stderr
