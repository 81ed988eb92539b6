"""Checkpoints of what lies on a GPU: all of it but CUDA's own calls on the CPU, and CUDA where it is."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forebay
import pytest
import sidestream
import torch
from forebay import _fill, _restore
from sidestream import Control

from conftest import bits

SCRIPT = Path(__file__).parent / "scripts" / "die_filling.py"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@pytest.fixture
def control(open_checkpointer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    control = sidestream.install(monkeypatch)
    yield control
    # Before the checkpointers close, which wait for it.
    control.go.set()
    control.told.set()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device whose side streams fill the engine's memory."""
    name: str = request.param
    if name == "cpu":
        sidestream.install(monkeypatch)
    return name


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """How many tensors each save had filled before it returned, and how many after."""
    found, begin = [], _fill.Fills.begin

    def watched(self: Any, copying: Any, soon: Any, later: Any) -> Any:
        found.append((len(soon), len(later)))
        return begin(self, copying, soon, later)

    monkeypatch.setattr(_fill.Fills, "begin", watched)
    return found


def load(tmp_path: Path, local: Path, **options: Any) -> dict[str, Any]:
    return forebay.load_checkpoint(tmp_path / "checkpoints", "run", local=local, **options)


def trained(device: str = "cpu") -> tuple[torch.nn.Module, torch.optim.Optimizer, Callable[[], None]]:
    """A model with parameters and buffers, an optimizer with state, and a step of them."""
    model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.BatchNorm1d(256)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.rand(4, 256, device=device)).square().sum().backward()
        optimizer.step()

    step()
    return model, optimizer, step


def states(**parts: Any) -> dict[str, Any]:
    return copy.deepcopy({name: one.state_dict() for name, one in parts.items()})


def assert_same(found: Any, expected: Any) -> None:
    if torch.is_tensor(expected):
        assert found.dtype == expected.dtype and bits(found.cpu()) == bits(expected.cpu())
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, one in expected.items():
            assert_same(found[key], one)
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("overlap", [True, False])
def test_what_devices_fill_is_the_state_of_its_step(
    device: str,
    overlap: bool,
    filled: list[tuple[int, int]],
    open_checkpointer: Any,
    tmp_path: Path,
    local: Path,
) -> None:
    model, optimizer, step = trained(device)
    state = {"model": model, "optimizer": optimizer}
    checkpointer = open_checkpointer(state, interval=1, keep_last=0, overlap=overlap)
    expected = []
    for number in range(5):
        step()
        expected.append(states(**state))
        assert checkpointer.step(number)
    checkpointer.wait()
    assert len(filled) == 5 and all(soon >= 3 and (later >= 8) == overlap for soon, later in filled)
    for number, whole in enumerate(expected):
        assert_same(load(tmp_path, local, step=number + 1), whole)
    step()
    assert checkpointer.resume() == 5
    assert_same(states(**state), expected[-1])


def test_every_layout_comes_back_bit_for_bit(
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    open_checkpointer: Any,
    tmp_path: Path,
    local: Path,
) -> None:
    # A row of most is more than a bucket.
    monkeypatch.setattr(_fill, "BUCKET_BYTES", 512)
    whole = torch.randn(40, 30, 7, device=device)
    complex_ones = torch.randn(20, 20, dtype=torch.complex128, device=device)
    tensors = {
        "whole": whole,
        "turned": whole.permute(2, 0, 1),
        "every second": whole[::2, 1:9],
        "spread": whole[:1, :1, :1].expand(3, 200, 5),
        "single": whole[3, 2, 1],
        "none": whole[:0],
        "conjugate": complex_ones.conj(),
        "negative": complex_ones.conj().imag,
        "half": torch.randn(33, 65, device=device).to(torch.bfloat16).T,
        "bits": (torch.randn(33, 65, device=device) > 0).T,
    }
    assert tensors["conjugate"].is_conj() and tensors["negative"].is_neg()
    checkpointer = open_checkpointer({"tensors": tensors})
    checkpointer.save(1)
    checkpointer.wait()
    found = load(tmp_path, local)["tensors"]
    for name, one in tensors.items():
        assert bits(found[name]) == bits(one.resolve_conj().resolve_neg().cpu()), name


def test_a_restore_goes_through_a_bucket(
    device: str, monkeypatch: pytest.MonkeyPatch, open_checkpointer: Any
) -> None:
    # Less than most tensors, and room for several of the others.
    monkeypatch.setattr(_restore, "BUCKET_BYTES", 1000)
    made = torch.empty
    sizes: list[int] = []

    def empty(*sides: Any, **options: Any) -> torch.Tensor:
        if options.get("dtype") is torch.uint8:
            sizes.append(sides[0])
        return made(*sides, **options)

    complex_ones = torch.randn(9, 9, dtype=torch.complex128, device=device)
    tensors = {
        "large": torch.randn(30, 41, device=device),
        "turned": torch.randn(30, 41, device=device).T,
        "complex": complex_ones,
        "tied": complex_ones,
        "none": torch.zeros(0, 3, device=device),
        **{f"small {number}": torch.randn(7, device=device) for number in range(60)},
        "odd": torch.randn(3, device=device) > 0,
    }
    expected = {name: one.clone() for name, one in tensors.items()}
    checkpointer = open_checkpointer({"tensors": tensors}, random_state=False)
    checkpointer.save(1)
    checkpointer.wait()
    live = dict(tensors)
    for one in tensors.values():
        one.zero_()
    monkeypatch.setattr(torch, "empty", empty)
    assert checkpointer.resume() == 1
    assert_same(tensors, expected)
    assert all(tensors[name] is one for name, one in live.items())
    assert sizes == [30 * 41 * 4 + 8]


def test_the_host_goes_on_and_what_the_step_changes_is_not_of_the_save(
    open_checkpointer: Any, control: Control, tmp_path: Path, local: Path
) -> None:
    model, optimizer, step = trained()
    # No buffers, which the host waits for.
    linear = model[0]
    checkpointer = open_checkpointer(
        {"linear": linear, "optimizer": optimizer}, interval=1, random_state=False
    )
    step()
    control.told.clear()
    expected = states(linear=linear, optimizer=optimizer)
    assert checkpointer.step(0)
    for _ in range(3):
        step()
    assert control.held_back == 3
    assert checkpointer._native.finished() == "[]"
    control.told.set()
    checkpointer.wait()
    assert_same(load(tmp_path, local), expected)


def test_buffers_are_copied_before_the_save_returns(
    open_checkpointer: Any, control: Control, tmp_path: Path, local: Path
) -> None:
    model, optimizer, step = trained()
    checkpointer = open_checkpointer({"model": model, "optimizer": optimizer}, interval=1)
    step()
    expected = states(model=model, optimizer=optimizer)
    control.go.clear()
    saving = threading.Thread(target=checkpointer.step, args=(0,))
    saving.start()
    saving.join(0.1)
    assert saving.is_alive()
    control.go.set()
    saving.join()
    model(torch.rand(4, 256))
    checkpointer.wait()
    assert_same(load(tmp_path, local), expected)


def test_what_changes_before_the_optimizers_step_drops_the_save(
    open_checkpointer: Any, control: Control, tmp_path: Path, local: Path
) -> None:
    model, optimizer, step = trained()
    checkpointer = open_checkpointer(
        {"linear": model[0], "optimizer": optimizer}, interval=2, random_state=False
    )
    control.told.clear()
    step()
    assert checkpointer.step(1)
    with torch.no_grad():
        model[0].weight.mul_(2)
    step()
    control.told.set()
    with pytest.warns(UserWarning, match=r"linear\.weight changed outside of an optimizer's step"):
        assert checkpointer.step(2)
    checkpointer.wait()
    with pytest.raises(forebay.NotFoundError):
        load(tmp_path, local, step=2)
    assert_same(load(tmp_path, local, step=3)["linear"], model[0].state_dict())


def test_where_no_step_of_an_optimizer_is_seen_all_is_copied_at_once(
    open_checkpointer: Any, control: Control, tmp_path: Path, local: Path
) -> None:
    model, optimizer, step = trained()
    checkpointer = open_checkpointer({"linear": model[0], "optimizer": optimizer}, interval=1)
    step()
    assert checkpointer.step(0)
    # As a graph does it that CUDA replays: nothing counts this.
    model[0].weight.data.mul_(2)
    expected = model[0].weight.clone()
    assert checkpointer.step(1)
    model[0].weight.data.mul_(2)
    checkpointer.wait()
    assert_same(load(tmp_path, local, step=2)["linear"]["weight"], expected)


def test_a_copy_that_fails_is_told_and_the_next_save_goes_on(
    open_checkpointer: Any, control: Control, tmp_path: Path, local: Path
) -> None:
    model, optimizer, step = trained()
    state = {"linear": model[0], "optimizer": optimizer}
    checkpointer = open_checkpointer(state, interval=1, random_state=False)
    control.failure = RuntimeError("an illegal address")
    with pytest.raises(RuntimeError, match="an illegal address"):
        checkpointer.save(1)
    step()
    control.failure = RuntimeError("an illegal address")
    assert checkpointer.step(1)
    with pytest.raises(RuntimeError, match="an illegal address"):
        checkpointer.wait()
    checkpointer.save(3)
    assert [report["step"] for report in checkpointer.wait()] == [3]
    assert_same(load(tmp_path, local)["linear"], model[0].state_dict())


def test_without_memory_for_a_copy_it_is_stored_all_the_same(
    device: str,
    filled: list[tuple[int, int]],
    open_checkpointer: Any,
    tmp_path: Path,
    local: Path,
) -> None:
    model, optimizer, step = trained(device)
    state = {"model": model, "optimizer": optimizer}
    checkpointer = open_checkpointer(state, interval=1, memory=0)
    for number in range(2):
        step()
        assert checkpointer.step(number)
    checkpointer.wait()
    assert filled == []
    assert_same(load(tmp_path, local), states(**state))


def test_memory_is_locked_once_and_unlocked_before_it_goes(
    open_checkpointer: Any, control: Control
) -> None:
    tensors = {"one": torch.ones(1000)}
    checkpointer = open_checkpointer({"tensors": tensors})
    for number in range(3):
        checkpointer.save(number + 1)
        checkpointer.wait()
    assert control.locks == 1 and len(control.locked) == 1
    tensors["one"] = torch.ones(1 << 20)
    checkpointer.save(4)
    checkpointer.wait()
    # What the first save into grown memory leaves is locked beside it.
    checkpointer.save(5)
    checkpointer.wait()
    assert control.locks == 2 and [*control.locked.values()][0] >= 4 << 20
    checkpointer.close()
    assert control.locked == {} and control.wrong == []


def test_memory_that_cannot_be_locked_is_used_as_it_is(
    open_checkpointer: Any, control: Control, tmp_path: Path, local: Path
) -> None:
    control.refuses = True
    tensors = {"one": torch.arange(1000)}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        checkpointer = open_checkpointer({"tensors": tensors})
        for number in range(3):
            checkpointer.save(number + 1)
            checkpointer.wait()
    [said] = [str(one.message) for one in told]
    assert "could not be locked (not here)" in said
    assert_same(load(tmp_path, local)["tensors"], tensors)


def test_killed_between_its_places_and_their_filling_nothing_is_left(
    open_checkpointer: Any, tmp_path: Path, local: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    command = [sys.executable, SCRIPT, tmp_path / "checkpoints", local]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    model = torch.nn.Linear(256, 256)
    checkpointer = open_checkpointer({"model": model})
    assert checkpointer.recovered() == []
    assert checkpointer.resume() == 1
    checkpointer.save(2)
    checkpointer.wait()
    assert_same(load(tmp_path, local, step=2)["model"], model.state_dict())


def test_distributed_checkpoints_are_filled_too(
    device: str, filled: list[tuple[int, int]], tmp_path: Path, local: Path
) -> None:
    import torch.distributed.checkpoint as dcp

    from forebay.dcp import StorageReader, StorageWriter

    lake = tmp_path / "checkpoints"
    lake.mkdir()
    whole = torch.randn(40, 30, device=device)
    state = {"a": whole, "turned": whole.T, "number": 3, "list": [torch.ones(5, device=device)]}
    with StorageWriter(lake, "run", local=local) as writer:
        dcp.save(state, storage_writer=writer, checkpoint_id=1)
        dcp.save(state, storage_writer=writer, checkpoint_id=2)
    assert filled == [(3, 0), (3, 0)]
    empty = {"a": torch.zeros(40, 30), "turned": torch.zeros(30, 40), "number": 0, "list": [torch.zeros(5)]}
    dcp.load(empty, storage_reader=StorageReader(lake, "run", local=local), checkpoint_id=2)
    assert_same(empty, state)


@needs_gpu
def test_memory_is_locked_for_cuda(open_checkpointer: Any) -> None:
    tensors = {"one": torch.ones(1 << 20, device="cuda")}
    checkpointer = open_checkpointer({"tensors": tensors})
    found: list[bool] = []
    begin = _fill.Fills.begin

    def watched(self: Any, copying: Any, *values: Any) -> Any:
        class Looking:
            def __getattr__(self, name: str) -> Any:
                return getattr(copying, name)

            def places(self) -> list[int]:
                places: list[int] = copying.places()
                found.append(_fill._memory([tensors["one"]], places[:1])[0].is_pinned())
                return places

        return begin(self, Looking(), *values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fill.Fills, "begin", watched)
        for number in range(3):
            checkpointer.save(number + 1)
            checkpointer.wait()
    assert found[-1]


@needs_gpu
def test_a_captured_step_is_copied_at_once(
    open_checkpointer: Any, tmp_path: Path, local: Path
) -> None:
    weight = torch.nn.Parameter(torch.ones(1 << 22, device="cuda"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = torch.ones_like(weight)
    checkpointer = open_checkpointer({"tensors": [weight]}, interval=1, keep_last=0)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    expected = []
    for number in range(4):
        graph.replay()
        expected.append(weight.detach().clone())
        assert checkpointer.step(number)
    checkpointer.wait()
    for number, one in enumerate(expected):
        assert_same(load(tmp_path, local, step=number + 1)["tensors"][0], one)
