"""Saves once, and is killed while the next save is being filled: LAKE LOCAL."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import forebay
import sidestream
import torch

control = sidestream.install()
lake, local = sys.argv[1:]
model = torch.nn.Linear(256, 256)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
checkpointer = forebay.Checkpointer(
    lake, "run", {"model": model}, local=local, interval=1, random_state=False
)
assert checkpointer.step(0)
checkpointer.wait()
model(torch.ones(1, 256)).sum().backward()
optimizer.step()
control.go.clear()
assert checkpointer.step(1)
os.kill(os.getpid(), signal.SIGKILL)
