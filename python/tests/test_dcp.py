"""``torch.distributed.checkpoint`` over Forebay: any layout back into any other, bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import re
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forebay
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from forebay._dcp_writer import check_agreement
from forebay.dcp import StorageReader, StorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from test_checkpointer import DTYPES, bits, some

SCRIPT = Path(__file__).parent / "scripts" / "dcp_ranks.py"
#: As for the jobs that are killed: with more than one, everything is tried.
ROUNDS = int(os.environ.get("FOREBAY_KILL_ROUNDS", "1"))
PATIENCE_SECONDS = 240


@pytest.fixture(autouse=True)
def in_one_process() -> Iterator[None]:
    """Without a group the library warns of each call that there is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is")
        yield


@pytest.fixture
def writer(tmp_path: Path, local: Path) -> Iterator[StorageWriter]:
    (tmp_path / "lake").mkdir()
    with StorageWriter(tmp_path / "lake", "run", local=local) as writer:
        yield writer


@pytest.fixture
def reader(writer: StorageWriter, tmp_path: Path, local: Path) -> StorageReader:
    return StorageReader(tmp_path / "lake", "run", local=local)


def cause(raised: Any) -> BaseException:
    """What the only rank raised."""
    error: BaseException = raised.value.failures[0][0]
    return error


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with what four ranks saved of each kind of model."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "lake").mkdir()
    launch("save", folder, 4)
    return folder


def launch(mode: str, folder: Path, ranks: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # One rank needs no launcher, whose start takes as long as the rank's.
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}"]
    done = subprocess.run(
        [sys.executable, *(launcher if ranks > 1 else []), str(SCRIPT), mode, str(folder)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(alone if ranks == 1 else {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The job of three loads with two of its ranks, too, and one process is this one.
@pytest.mark.parametrize("ranks", [3] if ROUNDS == 1 else [1, 2, 3])
def test_what_four_ranks_saved_is_loaded_on(ranks: int, saved: Path) -> None:
    launch("load", saved, ranks)


@pytest.mark.parametrize("kind", ["fsdp", "ddp", "tensor-parallel", "async"])
def test_what_four_ranks_saved_is_loaded_here(kind: str, saved: Path) -> None:
    whole = forebay.load_checkpoint(saved / "lake", kind, local=saved / "local")
    empty = {key: torch.empty_like(one) for key, one in whole["model"].items()}
    moments = {
        name: {key: torch.empty_like(one) for key, one in held.items()}
        for name, held in whole["optimizer"]["state"].items()
    }
    state: dict[str, Any] = {"model": empty, "optimizer": {"state": moments}}
    dcp.load(state, storage_reader=StorageReader(saved / "lake", kind, local=saved / "local"))
    digests = json.loads((saved / f"{kind}.json").read_text())
    for prefix, tensors in [
        (".model", empty),
        *((f".optimizer.state.{name}", held) for name, held in moments.items()),
    ]:
        for key, one in tensors.items():
            assert hashlib.sha256(bits(one)).hexdigest() == digests[f"{prefix}.{key}"], key


def test_nothing_that_is_stored_is_a_pickle(saved: Path) -> None:
    files = [path for path in (saved / "lake").rglob("*") if path.is_file()]
    tensors = [path for path in files if path.suffix == ".safetensors"]
    assert len(tensors) == 4 * 4
    for path in tensors:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        assert 8 + length + max(one["data_offsets"][1] for one in header.values()) == len(data)
    for path in set(files) - set(tensors):
        assert path.suffix == ".json", path
        json.loads(path.read_text())


def test_load_checkpoint_gives_what_four_ranks_saved_as_it_was_nested(saved: Path) -> None:
    state = forebay.load_checkpoint(saved / "lake", "fsdp", local=saved / "local")
    assert list(state["model"]) == [f"{layer}.{what}" for layer in (0, 2, 3) for what in ("weight", "bias")]
    assert state["model"]["0.weight"].shape == (31, 24)
    assert state["optimizer"]["state"]["2.weight"]["exp_avg"].shape == (24, 31)
    assert state["extra"]["epoch"] == 3 and state["extra"]["list"] == [1, 2.5, None]
    assert torch.equal(state["extra"]["pair"][0], torch.arange(5)) and state["extra"]["pair"][1] == 0.5


def test_the_checkpointer_takes_up_what_four_ranks_saved(saved: Path, tmp_path: Path) -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(24, 32), torch.nn.GELU(), torch.nn.Linear(32, 24), torch.nn.LayerNorm(24)
    )
    state = {"model": model}
    with forebay.Checkpointer(
        saved / "lake", "tensor-parallel", state, local=tmp_path / "local", interval=None
    ) as checkpointer:
        assert checkpointer.resume() == 2
    stored = forebay.load_checkpoint(saved / "lake", "tensor-parallel", local=tmp_path / "local")
    assert all(torch.equal(one, stored["model"][name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize("name", [name for name in DTYPES if hasattr(torch, name)])
def test_every_type_and_shape_comes_back_bit_for_bit(
    name: str, writer: StorageWriter, reader: StorageReader
) -> None:
    dtype = getattr(torch, name)
    whole = some(dtype, 6, 5, 4)
    tensors = {
        "whole": whole,
        "strided": whole.permute(2, 0, 1),
        "none": some(dtype, 0, 3),
        "single": some(dtype, 1).reshape(()),
    }
    if whole.is_complex() and name != "complex32":
        tensors["conjugate"] = whole.conj()
    dcp.save({"state": tensors}, checkpoint_id=1, storage_writer=writer)
    empty = {key: torch.empty(one.shape, dtype=dtype) for key, one in tensors.items()}
    # Where elements lie apart, they are put one by one.
    empty["strided"] = torch.empty(6, 5, 4, dtype=dtype).permute(2, 0, 1)
    state = {"state": empty}
    dcp.load(state, storage_reader=reader)
    for key, tensor in tensors.items():
        assert bits(state["state"][key]) == bits(tensor), key


def test_values_that_are_no_tensors_come_back_as_they_were(
    writer: StorageWriter, reader: StorageReader, tmp_path: Path, local: Path
) -> None:
    values: dict[str, Any] = {
        "text": "é", "large": 1 << 80, "not": float("-inf"), "bytes": b"\0\xff", "empty": [],
        "size": torch.Size([2]),
        "tuple": (1, torch.arange(3), ("a", {"b": torch.eye(2, dtype=torch.bfloat16)})),
        "array": np.arange(6, dtype=np.int16).reshape(2, 3), "mixed": [torch.ones(2), {"c": [1, 2]}],
    }  # fmt: skip
    dcp.save({"v": values}, checkpoint_id=1, storage_writer=writer)
    state: dict[str, Any] = {"v": {**dict.fromkeys(values), "mixed": [torch.zeros(2), {"c": 0}]}}
    dcp.load(state, storage_reader=reader)
    for found in (state, forebay.load_checkpoint(tmp_path / "lake", "run", local=local)):
        found = found["v"]
        for key in ("text", "large", "not", "bytes", "empty", "size"):
            assert found[key] == values[key] and type(found[key]) is type(values[key]), key
        assert torch.equal(found["tuple"][1], torch.arange(3)) and found["tuple"][2][0] == "a"
        assert torch.equal(found["tuple"][2][1]["b"], torch.eye(2, dtype=torch.bfloat16))
        assert (found["array"] == values["array"]).all() and found["array"].dtype == np.int16
        assert torch.equal(found["mixed"][0], torch.ones(2)) and found["mixed"][1] == {"c": [1, 2]}


class Pickled:
    pass


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Pickled(), "it is a test_dcp.Pickled"),
        ((1, {2}), "builtins.set"),
        (torch.nn.Linear(1, 1), r"give its state_dict\(\)"),
        (torch.eye(3).to_sparse(), "layout is torch.sparse_coo"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "no form for elements of qint8"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name_and_nothing_is_committed(
    value: Any, why: str, writer: StorageWriter, reader: StorageReader, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointException) as refused:
        dcp.save({"fine": torch.ones(2), "mine": {"inner": value}}, checkpoint_id=1, storage_writer=writer)
    assert isinstance(cause(refused), forebay.InvalidError)
    assert "mine" in str(cause(refused)) and "inner" in str(cause(refused))
    assert re.search(why, str(cause(refused)))
    assert reader.newest() is None and not list((tmp_path / "lake").rglob("*.safetensors"))
    # The writer is as good as before.
    dcp.save({"fine": torch.ones(2)}, checkpoint_id=1, storage_writer=writer)
    assert reader.newest() == 1


@pytest.mark.parametrize("wrong", [-1, "step-1", "", True, 1.5, "1" * 13])
def test_an_id_is_a_number_of_steps(wrong: Any, writer: StorageWriter, reader: StorageReader) -> None:
    assert not StorageWriter.validate_checkpoint_id(wrong)
    for call in (
        lambda: dcp.save({}, checkpoint_id=wrong, storage_writer=writer),
        lambda: dcp.load({}, checkpoint_id=wrong, storage_reader=reader),
    ):
        with pytest.raises(forebay.InvalidError, match="the number of steps taken"):
            call()


def test_a_save_without_an_id_is_refused_also_after_one_with(writer: StorageWriter) -> None:
    dcp.save({"a": torch.ones(2)}, checkpoint_id=Path("3"), storage_writer=writer)
    with pytest.raises(CheckpointException) as refused:
        dcp.save({"a": torch.ones(2)}, storage_writer=writer)
    assert "give checkpoint_id" in str(cause(refused))


def test_a_step_that_is_asked_for_counts_once_and_a_missing_one_is_named(
    writer: StorageWriter, reader: StorageReader
) -> None:
    for step in (1, 2):
        dcp.save({"a": torch.full((2,), step)}, checkpoint_id=step, storage_writer=writer)
    state = {"a": torch.zeros(2, dtype=torch.int64)}
    for asked, found in ((1, 1), (None, 2)):
        dcp.load(state, checkpoint_id=asked, storage_reader=reader)
        assert state["a"].tolist() == [found, found]
    with pytest.raises(CheckpointException, match="step 7"):
        dcp.load(state, checkpoint_id=7, storage_reader=reader)
    assert reader.newest() == 2
    with pytest.raises(CheckpointException, match="b"):
        dcp.load({"b": torch.zeros(2)}, storage_reader=reader)


def test_a_committed_step_is_not_written_over(writer: StorageWriter, reader: StorageReader) -> None:
    dcp.save({"a": torch.ones(2)}, checkpoint_id=1, storage_writer=writer)
    with pytest.raises(CheckpointException) as refused:
        dcp.save({"a": torch.zeros(2)}, checkpoint_id=1, storage_writer=writer)
    assert isinstance(cause(refused), forebay.Error) and "step 1 of run run" in str(cause(refused))
    # What was told is forgotten: the next save does not fail for it.
    dcp.save({"a": torch.zeros(2)}, checkpoint_id=2, storage_writer=writer)
    state = {"a": torch.empty(2)}
    dcp.load(state, checkpoint_id=1, storage_reader=reader)
    assert state["a"].tolist() == [1, 1]


def test_damage_is_named_and_raised(writer: StorageWriter, reader: StorageReader, tmp_path: Path) -> None:
    dcp.save({"model": {"weight": torch.ones(64, 64)}}, checkpoint_id=1, storage_writer=writer)
    writer.close()
    file = next((tmp_path / "lake").rglob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    os.chmod(file, 0o600)
    file.write_bytes(data)
    with pytest.raises(CheckpointException) as damaged:
        dcp.load({"model": {"weight": torch.zeros(64, 64)}}, storage_reader=reader)
    assert isinstance(cause(damaged), forebay.CorruptError)
    assert "model.weight" in str(cause(damaged)) and "step 1" in str(cause(damaged))


def test_async_saves_hold_what_was_there_when_they_were_asked_for(
    writer: StorageWriter, reader: StorageReader
) -> None:
    weight = torch.zeros(1 << 16)
    stager = DefaultStager(StagingOptions(False, False, False, False))
    for step in (1, 2, 3):
        weight.fill_(step)
        saved: Any = dcp.async_save(
            {"weight": weight, "step": step}, checkpoint_id=step, storage_writer=writer, async_stager=stager
        )
        weight.fill_(-1)
        saved.result()
    stager.close()
    for step in (1, 2, 3):
        state = {"weight": torch.empty(1 << 16), "step": 0}
        dcp.load(state, checkpoint_id=step, storage_reader=reader)
        assert state["step"] == step and bool((state["weight"] == step).all())


def test_a_killed_process_leaves_steps_that_are_whole(tmp_path: Path, local: Path) -> None:
    (tmp_path / "lake").mkdir()
    seconds = random.Random(7).uniform(0, 0.1)
    script = Path(__file__).parent / "scripts" / "dcp_killed.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path), str(seconds)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # Opening it brings what was captured to the lake.
    with StorageWriter(tmp_path / "lake", "run", local=local) as writer:
        reader = StorageReader(tmp_path / "lake", "run", local=local)
        newest = reader.newest()
        assert newest is not None and newest >= 2
        for step in (newest - 1, newest):
            state = {"weight": torch.empty(1 << 20), "step": 0}
            dcp.load(state, checkpoint_id=step, storage_reader=reader)
            assert state["step"] == step and bool((state["weight"] == step).all())
        dcp.save({"weight": torch.ones(2)}, checkpoint_id=newest + 1, storage_writer=writer)
    staged = [path for path in (local / "staging").rglob("*") if path.is_file()]
    assert reader.newest() == newest + 1 and not staged


def in_chunks(values: torch.Tensor, whole: tuple[int, ...], starts: list[tuple[int, ...]]) -> torch.Tensor:
    """A local tensor whose rows are parts of a larger one, as the library's protocol says it."""
    sides = [(1, values.shape[1])] * len(starts)
    described: Any = values
    described.global_shape = whole
    described.global_offsets = tuple(starts)
    described.local_offsets = tuple((row, 0) for row in range(len(starts)))
    described.local_sizes = tuple(sides)
    return values


def test_parts_of_one_tensor_on_one_rank(
    writer: StorageWriter, reader: StorageReader, tmp_path: Path, local: Path
) -> None:
    whole = torch.arange(12.0).reshape(4, 3)
    parts = in_chunks(whole[[2, 0, 3, 1]].clone(), (4, 3), [(2, 0), (0, 0), (3, 0), (1, 0)])
    state = {"w": parts, "w#2": torch.ones(2), "__metadata__": torch.zeros(1), "w#": (torch.full((2,), 7),)}
    dcp.save(state, checkpoint_id=1, storage_writer=writer)
    loaded: dict[str, Any] = {"w": torch.empty(4, 3), "w#2": torch.empty(2), "w#": 0}
    loaded["__metadata__"] = torch.empty(1)
    dcp.load(loaded, storage_reader=reader)
    assert torch.equal(loaded["w"], whole) and loaded["w#2"].tolist() == [1, 1]
    assert loaded["w#"][0].tolist() == [7, 7]
    found = forebay.load_checkpoint(tmp_path / "lake", "run", local=local)
    assert torch.equal(found["w"], whole)


def test_what_the_checkpointer_wrote_is_loaded(tmp_path: Path, local: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    (tmp_path / "lake").mkdir()
    state = {"model": model, "optimizer": optimizer, "extra": {"list": [1, 2], 3: (torch.ones(2), "x")}}
    with forebay.Checkpointer(tmp_path / "lake", "run", state, local=local, interval=None) as checkpointer:
        checkpointer.save(4)
    target: dict[str, Any] = {
        "model": {"weight": torch.empty(2, 3), "bias": torch.empty(2)},
        "optimizer": {"state": {0: {"exp_avg": torch.empty(2, 3)}}},
        "extra": {"list": [], 3: None},
    }
    reader = StorageReader(tmp_path / "lake", "run", local=local)
    assert reader.newest() == 4
    dcp.load(target, storage_reader=reader)
    assert torch.equal(target["model"]["weight"], model.weight)
    assert torch.equal(
        target["optimizer"]["state"][0]["exp_avg"], optimizer.state[model.weight]["exp_avg"]
    )
    # The library puts values under texts.
    assert target["extra"]["list"] == [1, 2] and target["extra"]["3"][0].tolist() == [1, 1]


def test_ranks_that_hold_different_things_under_one_name_are_told(writer: StorageWriter) -> None:
    def plan(dtype: torch.dtype, row: int) -> SavePlan:
        chunk = ChunkStorageMetadata(torch.Size([row, 0]), torch.Size([1, 3]))
        data = TensorWriteData(chunk, TensorProperties(dtype), torch.Size([2, 3]))
        return SavePlan([WriteItem(MetadataIndex("w", [row, 0]), WriteItemType.SHARD, None, data)])

    with pytest.raises(forebay.InvalidError, match="2 of 1 ranks save"):
        writer.prepare_global_plan([plan(torch.float32, 0), plan(torch.float32, 1)])
    check_agreement([plan(torch.float32, 0), plan(torch.float32, 1)])
    with pytest.raises(forebay.InvalidError, match="'w' is torch.bfloat16 of .* on rank 1 and torch.float32"):
        check_agreement([plan(torch.float32, 0), plan(torch.bfloat16, 1)])


def test_planners_that_cache_their_plans(writer: StorageWriter, reader: StorageReader) -> None:
    for step in (1, 2, 3):
        state = {"a": torch.full((4,), step), "b": {"n": step}, **({"c": torch.ones(1)} if step == 3 else {})}
        planner = DefaultSavePlanner(enable_plan_caching=True)
        dcp.save(state, checkpoint_id=step, storage_writer=writer, planner=planner)
    for step in (1, 2, 3):
        loaded = {"a": torch.zeros(4, dtype=torch.int64), "b": {"n": 0}}
        dcp.load(loaded, checkpoint_id=step, storage_reader=reader)
        assert loaded["a"].tolist() == [step] * 4 and loaded["b"]["n"] == step


def test_tied_tensors_and_other_types_are_filled_one_after_the_other(
    writer: StorageWriter, reader: StorageReader
) -> None:
    weight = torch.arange(8.0)
    saved = {"one": weight, "two": weight, "half": weight.half()}
    dcp.save(saved, checkpoint_id=1, storage_writer=writer)
    target = torch.empty(8)
    state = {"one": target, "two": target, "half": torch.empty(8, dtype=torch.float64)}
    dcp.load(state, storage_reader=reader)
    assert torch.equal(target, weight) and torch.equal(state["half"], weight.double())


def test_a_writer_stays_in_its_process(writer: StorageWriter) -> None:
    with pytest.raises(TypeError, match="AsyncCheckpointerType.THREAD"):
        pickle.dumps(writer)
