"""A training script as users write them, that may kill itself.

Prints the loss of each step it takes. ``death`` is ``never``, ``sigterm`` (at step 5), or a number: SIGKILL
when so many steps were taken since it started.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import forebay
import torch


def main() -> None:
    lake, folder, steps, death = sys.argv[1:]
    Path(folder, "lake").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(256, 8), torch.nn.Flatten(), torch.nn.Dropout(0.1), torch.nn.Linear(8 * 512, 256)
    )
    optimizer = torch.optim.AdamW(model.parameters())
    feed = forebay.feed(lake, "text", batch_size=8, seed=5, local=Path(folder, "local"), rank=0, world_size=1)
    checkpointer = forebay.Checkpointer(
        Path(folder, "lake"),
        run="run",
        state={"model": model, "optimizer": optimizer, "feed": feed},
        interval=2,
        local=Path(folder, "local"),
    )
    start = checkpointer.resume()
    deadly = start + int(death) if death.isdigit() else None
    for step in range(start, int(steps)):
        tokens = next(feed)["tokens"].long() % 256
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]), tokens[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"{step}={loss.item().hex()}", flush=True)
        if death == "sigterm" and step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        checkpointer.step(step, metrics={"loss": loss})
        if step == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
    checkpointer.close()


main()
