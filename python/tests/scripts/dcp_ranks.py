"""A job of several ranks that saves its state through ``torch.distributed.checkpoint``, or loads it.

``save`` trains each kind of model for two steps, saves it, and writes the digest of every tensor,
whole, into a file. ``load`` makes the same models with other values, as FSDP2 or DDP over however many
ranks it is, loads what was saved, and compares.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import forebay
import torch
import torch.distributed as distributed
import torch.distributed.checkpoint as dcp
from forebay.dcp import StorageReader, StorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

KINDS = ("fsdp", "ddp", "tensor-parallel", "async")


def build(kind: str, seed: int, mesh: Any = None) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    # Sides that ranks cannot share evenly; tensor parallel inside FSDP2 wants even ones.
    width = 32 if kind == "tensor-parallel" else 31
    model: Any = torch.nn.Sequential(
        torch.nn.Linear(24, width), torch.nn.GELU(), torch.nn.Linear(width, 24), torch.nn.LayerNorm(24)
    )
    world_size = distributed.get_world_size()
    if kind == "ddp":
        model = DistributedDataParallel(model)
    elif kind == "tensor-parallel" and world_size == 4:
        square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        parallelize_module(model, square["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(model, mesh=square["data"])
    else:
        for part in (model[0], model[2], model):
            fully_shard(part, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def train(model: Any, optimizer: Any, steps: int) -> None:
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(6, 24, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def state_of(model: Any, optimizer: Any) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    return {
        "model": weights,
        "optimizer": moments,
        "extra": {"epoch": 3, "name": "é", "pair": (torch.arange(5), 0.5), "list": [1, 2.5, None]},
    }


def digest(state: dict[str, Any]) -> dict[str, str]:
    """Of every tensor, whole, and of every other value, by its name."""
    found: dict[str, str] = {}

    def add(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                add(one, f"{path}.{key}")
        elif isinstance(value, (list, tuple)):
            for index, one in enumerate(value):
                add(one, f"{path}.{index}")
        elif isinstance(value, torch.Tensor):
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            data = whole.detach().contiguous().numpy().tobytes()
            found[path] = hashlib.sha256(data).hexdigest()
        else:
            found[path] = repr(value)

    add(state, "")
    return found


class Unstorable:
    pass


def check_refusal(writer: StorageWriter, reader: StorageReader, state: dict[str, Any]) -> None:
    """What only one rank holds and cannot be stored is refused on all, and nothing is committed."""
    mine = {"mine": {f"of-{distributed.get_rank()}": {1} if distributed.get_rank() == 2 else 1}}
    try:
        dcp.save({**state, **mine}, checkpoint_id=9, storage_writer=writer)
    except CheckpointException as refused:
        for rank, (error, _) in refused.failures.items():
            assert isinstance(error, forebay.InvalidError), (rank, error)
            assert "state['mine']['of-2']" in str(error) and "set" in str(error), (rank, error)
        assert len(refused.failures) == distributed.get_world_size()
    else:
        raise AssertionError("a set was stored")
    assert reader.newest() == 2


def check_company(writer: StorageWriter, reader: StorageReader) -> None:
    """Ranks that do not plan together, or do not save the same step, are told so and not waited for."""
    rank = distributed.get_rank()
    for options, why in (
        ({"checkpoint_id": 9, "no_dist": True}, "1 of 4 ranks save"),
        ({"checkpoint_id": 9, "use_collectives": False}, "use_collectives=False"),
        ({"checkpoint_id": 9 + rank}, "saves step"),
    ):
        try:
            dcp.save({"a": torch.ones(4)}, storage_writer=writer, **options)
        except (CheckpointException, forebay.InvalidError) as refused:
            assert why in str(refused), refused
        else:
            raise AssertionError(why)
    assert reader.newest() == 2


def save(folder: Path) -> None:
    for kind in KINDS:
        model, optimizer = build(kind, seed=0)
        train(model, optimizer, 2)
        state = state_of(model, optimizer)
        writer = StorageWriter(folder / "lake", kind, local=folder / "local")
        reader = StorageReader(folder / "lake", kind, local=folder / "local")
        assert reader.newest() is None
        if kind == "async":
            group = distributed.new_group(backend="gloo")
            future = dcp.async_save(
                state, checkpoint_id=2, storage_writer=writer, process_group=group
            )
            expected = digest(state)
            # It was copied: training goes on.
            train(model, optimizer, 1)
            future.result()
        else:
            dcp.save(state, checkpoint_id="2", storage_writer=writer)
            expected = digest(state)
        assert reader.newest() == 2
        if kind == "fsdp":
            check_refusal(writer, reader, state)
            check_company(writer, reader)
        writer.close()
        if distributed.get_rank() == 0:
            (folder / f"{kind}.json").write_text(json.dumps(expected))


def load(folder: Path) -> None:
    for kind in KINDS:
        for layout in ("fsdp", "ddp") if kind == "fsdp" else ("fsdp",):
            load_one(folder, kind, layout)
    if distributed.get_world_size() > 2:
        # Two of the ranks alone.
        pair = distributed.new_group([0, 1])
        if distributed.get_rank() < 2:
            mesh = DeviceMesh.from_group(pair, "cpu", mesh=[0, 1])
            load_one(folder, "fsdp", "fsdp", mesh=mesh, group=pair)


def load_one(folder: Path, kind: str, layout: str, mesh: Any = None, group: Any = None) -> None:
    model, optimizer = build(kind if kind == "tensor-parallel" else layout, seed=1, mesh=mesh)
    train(model, optimizer, 1)
    state = state_of(model, optimizer)
    state["extra"] = {"epoch": 0, "name": "", "pair": None, "list": []}
    reader = StorageReader(folder / "lake", kind, local=folder / "local")
    dcp.load(state, storage_reader=reader, process_group=group)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    found = digest({**state_of(model, optimizer), "extra": state["extra"]})
    assert found == json.loads((folder / f"{kind}.json").read_text()), (kind, layout)


def main() -> None:
    mode, folder = sys.argv[1:]
    distributed.init_process_group("gloo")
    {"save": save, "load": load}[mode](Path(folder))
    distributed.destroy_process_group()


main()
