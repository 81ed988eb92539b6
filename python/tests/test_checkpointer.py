"""Checkpoints of one process: every value comes back bit for bit, and a killed run goes on."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import forebay
import numpy as np
import pytest
import torch
from forebay._interval import Policy
from forebay._overlap import Overlap

from conftest import OpenFeed, bits

SCRIPT = Path(__file__).parent / "scripts" / "train_checkpointed.py"


def load(tmp_path: Path, local: Path, **options: Any) -> dict[str, Any]:
    return forebay.load_checkpoint(tmp_path / "checkpoints", "run", local=local, **options)


DTYPES = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint64",
    "uint32", "uint16", "uint8", "bool", "complex64", "complex128", "complex32", "float8_e5m2",
    "float8_e4m3fn", "float8_e8m0fnu", "float8_e5m2fnuz", "float8_e4m3fnuz",
]  # fmt: skip


def some(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    width = torch.empty(0, dtype=dtype).element_size()
    count = int(np.prod(shape)) * width
    values = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), generator=generator)
    return values.to(torch.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("name", [name for name in DTYPES if hasattr(torch, name)])
def test_every_type_and_shape_comes_back_bit_for_bit(
    name: str, tmp_path: Path, local: Path, open_checkpointer: Any
) -> None:
    dtype = getattr(torch, name)
    whole = some(dtype, 6, 5, 4)
    tensors = {
        "whole": whole,
        "strided": whole.permute(2, 0, 1),
        "sliced": whole[::2, 1:4],
        "none": some(dtype, 0, 3),
        "single": some(dtype, 1).reshape(()),
    }
    if whole.is_complex() and name != "complex32":
        tensors["conjugate"] = whole.conj()
    checkpointer = open_checkpointer({"state": dict(tensors)})
    checkpointer.save(1)
    checkpointer.wait()
    restored = load(tmp_path, local)["state"]
    assert restored.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert (restored[key].dtype, restored[key].shape) == (tensor.dtype, tensor.shape)
        assert bits(restored[key]) == bits(tensor), key


def test_plain_values_come_back_as_they_were(
    tmp_path: Path, local: Path, open_checkpointer: Any
) -> None:
    state: dict[str, Any] = {
        "z": 1, "a": None, "text": "é", "flag": True, "bytes": b"\0\xff", "large": 1 << 200,
        "least": -(1 << 63), "infinite": float("-inf"), "float": 0.1 + 0.2, "complex": 1 - 2j,
        "tuple": (1, ("a", []), {}), "keys": {3: "b", (1, "x"): "c", None: "d", True: "e"},
        "$odd": {"$tensor": "no"}, "dtype": torch.bfloat16, "device": torch.device("cuda", 1),
        "size": torch.Size([2, 3]), "array": np.arange(6, dtype=">i4").reshape(2, 3),
        "number": np.float32(0.5), "nested": [{"deep": {"er": [1, 2]}}],
    }  # fmt: skip
    checkpointer = open_checkpointer({"state": state})
    checkpointer.save(1)
    checkpointer.wait()
    restored = load(tmp_path, local)["state"]
    assert list(restored) == list(state)
    assert list(restored["keys"].items()) == list(state["keys"].items())
    for key in state.keys() - {"array", "number"}:
        assert restored[key] == state[key] and type(restored[key]) is type(state[key]), key
    assert (restored["array"] == state["array"]).all() and restored["array"].dtype == np.int32
    assert restored["number"] == np.float32(0.5) and restored["number"].shape == ()


def test_tied_weights_are_stored_once_and_tied_again(
    tmp_path: Path, local: Path, open_checkpointer: Any
) -> None:
    weight = torch.arange(1 << 18, dtype=torch.float32)
    checkpointer = open_checkpointer({"state": {"one": weight, "two": weight, "half": weight[:9]}})
    checkpointer.save(1)
    assert checkpointer.wait()[0]["bytes"] < weight.nbytes * 1.1
    restored = load(tmp_path, local)["state"]
    assert restored["one"].data_ptr() == restored["two"].data_ptr()
    assert torch.equal(restored["one"], weight) and torch.equal(restored["half"], weight[:9])


class Pickled:
    pass


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Pickled(), "is a test_checkpointer.Pickled"),
        ({1, 2}, "builtins.set"),
        (torch.eye(3).to_sparse(), "layout is torch.sparse_coo"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "quantized"),
        (torch.empty(2, device="meta"), "meta device"),
        (np.array(["text"]), "no form for elements of str"),
        ({1.5: "x"}, "a key that cannot be stored: 1.5"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name_before_training(
    value: Any, why: str, open_checkpointer: Any
) -> None:
    with pytest.raises(forebay.InvalidError, match=r"state\['mine'\]\['inner'\]") as refused:
        open_checkpointer({"mine": {"inner": value}})
    assert why in str(refused.value)


def test_what_could_not_be_given_back_is_refused(open_checkpointer: Any) -> None:
    with pytest.raises(forebay.InvalidError, match="put it into a dict"):
        open_checkpointer({"step": 3})


def make(seed: int = 0) -> tuple[torch.nn.Module, Any, Any]:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Embedding(256, 16), torch.nn.Flatten(), torch.nn.Dropout(0.2),
        torch.nn.Linear(16 * 512, 32), torch.nn.BatchNorm1d(32), torch.nn.Linear(32, 256),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)


def train(feed: Any, parts: Any, checkpointer: Any, start: int, end: int) -> list[float]:
    model, optimizer, scheduler = parts
    losses = []
    for step in range(start, end):
        tokens = next(feed)["tokens"].long() % 256
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]), tokens[:, -1])
        loss = loss * (1 + random.random() + float(np.random.rand()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        if checkpointer is not None:
            checkpointer.step(step, metrics={"loss": loss})
    return losses


def state_of(parts: Any, feed: Any) -> dict[str, Any]:
    return {"model": parts[0], "optimizer": parts[1], "scheduler": parts[2], "feed": feed}


def test_a_run_that_is_taken_up_goes_on_bit_for_bit(
    open_feed: OpenFeed, open_checkpointer: Any, tmp_path: Path
) -> None:
    random.seed(3)
    np.random.seed(4)
    parts, feed = make(), open_feed(seed=5)
    checkpointer = open_checkpointer(state_of(parts, feed), interval=4)
    assert checkpointer.resume() == 0
    whole = train(feed, parts, checkpointer, 0, 10)
    checkpointer.close()
    parts, feed = make(seed=9), open_feed(seed=5)
    checkpointer = open_checkpointer(state_of(parts, feed), interval=None)
    assert checkpointer.resume() == 8 == feed.step
    assert train(feed, parts, None, 8, 10) == whole[8:]
    assert checkpointer.resume(4) == 4 == feed.step
    assert train(feed, parts, None, 4, 10) == whole[4:]
    with pytest.raises(forebay.NotFoundError, match="step 5"):
        checkpointer.resume(5)


def test_a_model_that_does_not_fit_is_refused_with_every_difference(
    open_checkpointer: Any,
) -> None:
    saved = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 3), "b": torch.nn.Linear(2, 3)})
    checkpointer = open_checkpointer({"model": saved})
    checkpointer.save(1)
    checkpointer.wait()
    other = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 3), "b": torch.nn.Linear(4, 3), "c": torch.nn.Linear(1, 1)})  # fmt: skip
    checkpointer = open_checkpointer({"model": other})
    with pytest.raises(forebay.InvalidError) as refused:
        checkpointer.resume()
    for line in (
        "missing in the checkpoint: model.c.weight",
        "of another shape: model.b.weight ([3, 2] in the checkpoint, [3, 4] in the model)",
    ):
        assert line in str(refused.value)
    with pytest.warns(UserWarning, match=r"left out.*\n.*model\.c\.weight"):
        assert checkpointer.resume(strict=False) == 1
    assert torch.equal(other["a"].weight, saved["a"].weight)


def test_state_in_dicts_and_lists_is_restored_in_place(open_checkpointer: Any) -> None:
    inner, tensor = torch.nn.Linear(2, 2), torch.ones(3)
    state = {"deep": {"models": [inner], "count": 3, "tensor": tensor, "gone": 1}}
    checkpointer = open_checkpointer(state)
    checkpointer.save(1)
    checkpointer.wait()
    before = inner.weight.detach().clone()
    with torch.no_grad():
        inner.weight.zero_()
        tensor.zero_()
    deep: Any = state["deep"]
    deep.update(count=9, new=2)
    del deep["gone"]
    checkpointer.resume()
    assert torch.equal(inner.weight, before) and torch.equal(tensor, torch.ones(3))
    assert deep["models"][0] is inner and deep["tensor"] is tensor
    assert (deep["count"], deep["gone"], "new" in deep) == (3, 1, False)


def test_a_damaged_checkpoint_is_named_and_never_loaded(
    open_checkpointer: Any, tmp_path: Path
) -> None:
    model = torch.nn.Linear(64, 64)
    checkpointer = open_checkpointer({"model": model}, random_state=False)
    for step in (1, 2):
        checkpointer.save(step)
        checkpointer.wait()
    file = next(tmp_path.glob("checkpoints/runs/run/checkpoints/*2/*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    os.chmod(file, 0o600)
    file.write_bytes(data)
    # The memory that it was captured into is there until the checkpointer is closed.
    assert checkpointer.resume() == 2
    checkpointer.close()
    checkpointer = open_checkpointer({"model": model}, random_state=False)
    with pytest.raises(forebay.CorruptError, match=r"tensor `model\.\w+`") as damaged:
        checkpointer.resume()
    assert "step 1 is intact" in str(damaged.value)
    assert checkpointer.resume(1) == 1


def run_script(*arguments: Any, kill: bool = False) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert kill or done.returncode == 0, done.stderr
    return done


def test_a_killed_run_goes_on_with_the_same_losses(lake: Path, tmp_path: Path) -> None:
    whole = run_script(lake, tmp_path / "whole", 9, "never").stdout.split()
    found: dict[int, str] = {}
    # Each kill strikes so many steps after the start. Whether the save before it became durable is
    # chance, and so is how far the run came; what it computed must never be.
    for death in ("0", "2", "1", "3", "never"):
        done = run_script(lake, tmp_path / "killed", 9, death, kill=death != "never")
        assert death == "never" or done.returncode in (0, -signal.SIGKILL), done.stderr
        for line in done.stdout.split():
            step, loss = line.split("=")
            assert found.setdefault(int(step), loss) == loss
    assert [f"{step}={found[step]}" for step in range(9)] == whole


def test_sigterm_saves_and_exits(lake: Path, tmp_path: Path) -> None:
    done = run_script(lake, tmp_path / "run", 8, "sigterm", kill=True)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    again = run_script(lake, tmp_path / "run", 8, "never").stdout.split()
    # The signal came during the step of number 5, whose end saved.
    assert again[0].startswith("6=")


def test_intervals() -> None:
    assert [Policy(3, "24h").is_due(step, 0) for step in (2, 3, 6)] == [False, True, True]
    assert not Policy(None, "24h").is_due(1, 1e9)
    by_time = Policy("2min", "24h")
    assert not by_time.is_due(1, 119) and by_time.is_due(1, 120)
    auto = Policy("auto", "2h")
    auto.learn(cost_seconds=1.0, durable_seconds=2.0)
    # sqrt(2 · 1 s · 7200 s)
    assert not auto.is_due(1, 119) and auto.is_due(1, 121)
    auto.learn(cost_seconds=1e-9, durable_seconds=40.0)
    assert not auto.is_due(1, 39) and auto.is_due(1, 41)
    for wrong in (0, -1, "soon", "3 weeks", True):
        with pytest.raises(forebay.InvalidError, match="interval"):
            Policy(wrong, "24h")


def test_a_background_failure_is_raised_by_the_next_step(
    open_checkpointer: Any, tmp_path: Path
) -> None:
    checkpointer = open_checkpointer({"model": torch.nn.Linear(4, 4)}, interval=1)
    lake = tmp_path / "checkpoints"
    assert checkpointer.resume() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A file where the run's folder must be: nothing can be committed.
        (lake / "runs" / "run" / "checkpoints").write_text("in the way")
        checkpointer.save(1)
        with pytest.raises(forebay.Error, match="step 1 of run run is not committed"):
            checkpointer.wait()
        (lake / "runs" / "run" / "checkpoints").unlink()
        assert [report["step"] for report in checkpointer.wait()] == [1]


def test_frozen_weights_are_written_once(open_checkpointer: Any) -> None:
    frozen, adapter = torch.nn.Linear(256, 256), torch.nn.Linear(256, 8)
    state = {"frozen": frozen, "adapter": adapter}
    checkpointer = open_checkpointer(state, interval=None)
    written = []
    for step in range(1, 4):
        with torch.no_grad():
            adapter.weight.add_(1)
        checkpointer.save(step)
        written += [report["bytes"] for report in checkpointer.wait()]
    assert written[0] > 256 * 256 * 4
    assert max(written[1:]) < 2 * 256 * 8 * 4
    expected = {name: one.detach().clone() for name, one in frozen.state_dict().items()}
    checkpointer.close()
    for one in (*frozen.parameters(), *adapter.parameters()):
        torch.nn.init.zeros_(one)
    again = open_checkpointer(state, interval=None)
    assert again.resume() == 3
    assert all(torch.equal(expected[name], one) for name, one in frozen.state_dict().items())
    # A run that goes on refers to what it restored.
    again.save(4)
    assert again.wait()[0]["bytes"] < 256 * 256 * 4


def test_a_second_launch_takes_the_run_over(open_checkpointer: Any) -> None:
    state = {"model": torch.nn.Linear(4, 4)}
    earlier = open_checkpointer(state, interval=1)
    earlier.save(1)
    earlier.wait()
    later = open_checkpointer(state, interval=1)
    assert later.resume() == 1
    earlier.save(2)
    with pytest.raises(forebay.ConflictError, match="has another writer"):
        earlier.wait()
    later.save(2)
    assert [report["step"] for report in later.wait()] == [2]


def committed(tmp_path: Path, run: str) -> list[int]:
    commits = tmp_path.glob(f"checkpoints/runs/{run}/checkpoints/*/commit.json")
    return sorted(int(commit.parent.name) for commit in commits)


def test_the_best_checkpoint_stays(open_checkpointer: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"interval": 1, "keep_last": 1, "keep_best": "accuracy:max"}
    checkpointer = open_checkpointer({"count": {"x": 1}}, **options)
    for step, accuracy in enumerate([0.1, 0.9, torch.tensor(0.3), float("nan"), 0.4]):
        checkpointer.step(step, metrics={"accuracy": accuracy})
        checkpointer.wait()
    assert committed(tmp_path, "run") == [2, 5]
    for wrong in ({"keep_best": ":max"}, {"keep_best": "loss", "keep_best_count": 0}):
        with pytest.raises(forebay.InvalidError, match="keep_best"):
            open_checkpointer({"count": {"x": 1}}, **wrong)


def test_a_fork_goes_on_without_the_range_that_is_skipped(
    lake: Path, open_feed: OpenFeed, open_checkpointer: Any, tmp_path: Path, local: Path
) -> None:
    def train(steps: int, skip: Any = None, **options: Any) -> list[list[str]]:
        """The samples of every step that this start of the script takes."""
        feed = open_feed(lake=lake, skip=skip)
        state = {"seen": {"steps": 0}, "feed": feed}
        options = {"run": "run", "interval": 1, "keep_last": 0, "random_state": False, **options}
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        with forebay.Checkpointer(
            tmp_path / "checkpoints", state=state, local=local, **options
        ) as checkpointer:
            start = checkpointer.resume()
            assert state["seen"]["steps"] == start
            taken = []
            for step in range(start, steps):
                next(feed)
                taken.append(feed.last_ids)
                state["seen"]["steps"] = step + 1
                checkpointer.step(step)
        return taken

    whole = train(8)
    options: dict[str, Any] = {"run": "fork", "fork": ("run", 3), "skip": [(4, 6)]}
    forked = train(5, **options)
    assert forked == [whole[3], whole[6]], "samples of steps 4 and 5 are passed over"
    # Started again as it is, it goes on from its own newest step.
    assert train(6, **options) == [whole[7]]
    assert committed(tmp_path, "fork") == [3, 4, 5, 6]
    for step in committed(tmp_path, "fork"):
        record = next(tmp_path.glob(f"checkpoints/runs/fork/checkpoints/*{step}/commit.json"))
        assert json.loads(record.read_text())["body"]["forked_from"]["step"] == 3
    with pytest.raises(forebay.ConflictError, match="choose another name"):
        train(9, run="fork", fork=("run", 5))
    with pytest.raises(forebay.NotFoundError, match="step 99"):
        forebay.fork_run(tmp_path / "checkpoints", "run", 99, "new", local=local)
    forked_run = forebay.fork_run(tmp_path / "checkpoints", "run", None, "new", local=local)
    assert forked_run["origin"]["step"] == 8 and not forked_run["existed"]


def adam(model: torch.nn.Module) -> torch.optim.Optimizer:
    """An optimizer whose state is there."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train_step(model, optimizer)
    return optimizer


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(2, 512)).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def test_what_is_copied_while_training_goes_on_is_the_state_of_its_step(
    open_checkpointer: Any, tmp_path: Path, local: Path
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.BatchNorm1d(512))
    optimizer = adam(model)
    state = {"model": model, "optimizer": optimizer}
    checkpointer = open_checkpointer(state, interval=1, keep_last=0)
    expected = []
    for step in range(4):
        train_step(model, optimizer)
        expected.append(copy.deepcopy({name: one.state_dict() for name, one in state.items()}))
        assert checkpointer.step(step)
    checkpointer.wait()
    assert committed(tmp_path, "run") == [1, 2, 3, 4]
    for step, whole in enumerate(expected):
        found = load(tmp_path, local, step=step + 1)
        for key, one in whole["model"].items():
            assert bits(found["model"][key]) == bits(one)
        for number, moments in whole["optimizer"]["state"].items():
            for key, one in moments.items():
                assert bits(found["optimizer"]["state"][number][key]) == bits(one)


class Slow:
    """A copy that is not done before ``go`` is set."""

    def __init__(self, copying: Any, go: threading.Event) -> None:
        self._copying = copying
        self._go = go
        self.settle = copying.settle

    def wait(self) -> None:
        self._go.wait(60)
        self._copying.wait()


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No copy is done before this is set."""
    go, watch = threading.Event(), Overlap.watch
    monkeypatch.setattr(
        Overlap,
        "watch",
        lambda self, copying, *args, **more: watch(self, Slow(copying, go), *args, **more),
    )
    return go


def test_a_state_that_changes_while_it_is_copied_is_dropped_and_saved_after_the_next_step(
    open_checkpointer: Any, tmp_path: Path, local: Path, go: threading.Event
) -> None:
    model = torch.nn.Linear(512, 512)
    optimizer = adam(model)
    checkpointer = open_checkpointer({"model": model, "optimizer": optimizer}, interval=3)
    assert checkpointer.step(2)
    with torch.no_grad():
        model.weight.mul_(2)
    go.set()
    train_step(model, optimizer)
    with pytest.warns(UserWarning, match="changed outside of an optimizer's step"):
        assert checkpointer.step(3)
    checkpointer.wait()
    assert committed(tmp_path, "run") == [4]
    assert torch.equal(load(tmp_path, local)["model"]["weight"], model.weight)


def test_the_optimizer_waits_for_the_copy(open_checkpointer: Any, go: threading.Event) -> None:
    model = torch.nn.Linear(512, 512)
    optimizer = adam(model)
    checkpointer = open_checkpointer({"model": model, "optimizer": optimizer}, interval=1)
    assert checkpointer.step(0)
    stepping = threading.Thread(target=optimizer.step)
    stepping.start()
    stepping.join(0.2)
    assert stepping.is_alive()
    go.set()
    stepping.join()
    assert [report["step"] for report in checkpointer.wait()] == [1]


def test_a_conjugate_that_was_not_written_out_is_saved_as_what_it_means(
    open_checkpointer: Any, tmp_path: Path, local: Path
) -> None:
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.randn(128, 128, dtype=torch.complex64).conj())
    assert model.weight.is_conj()
    checkpointer = open_checkpointer({"model": model}, interval=1)
    assert checkpointer.step(0)
    checkpointer.wait()
    assert bits(load(tmp_path, local)["model"]["weight"]) == bits(model.weight)


def test_a_run_is_asked_for_a_checkpoint_from_outside(open_checkpointer: Any, local: Path) -> None:
    checkpointer = open_checkpointer({"model": torch.nn.Linear(4, 4)}, interval=None)
    assert not checkpointer.step(0)
    # What `forebay checkpoint now` leaves; docs/format/local-tier.md.
    (local / "asks" / "run").touch()
    assert checkpointer.step(1)
    assert not checkpointer.step(2)
    assert [report["step"] for report in checkpointer.wait()] == [2]


def test_auto_reckons_with_the_failures_that_the_run_has_seen() -> None:
    def seconds(mtbf: str | None, *began: float) -> float:
        policy = Policy("auto", mtbf)
        policy.learn_launches(list(began), 30_000.0)
        policy.learn(10.0, 1.0)
        return next(float(at) for at in range(5, 3600) if policy.is_due(0, at))

    day, two_hours = seconds("24h"), seconds("2h")
    assert seconds(None) == seconds(None, 0.0) == day
    # 0, 15 600 and now, at 30 000: 15 000 seconds each.
    assert seconds(None, 0.0, 15_600.0) == seconds("15000s") < day
    assert seconds("2h", 0.0, 15_600.0) == two_hours


def test_without_memory_for_a_copy_the_state_is_stored_all_the_same(
    open_checkpointer: Any, local: Path
) -> None:
    model = torch.nn.Linear(300, 300)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpointer = open_checkpointer({"model": model, "optimizer": optimizer}, interval=1, memory=0)
    for step in range(3):
        optimizer.zero_grad()
        model(torch.ones(300)).sum().backward()
        optimizer.step()
        checkpointer.step(step)
    checkpointer.close()
    stored = forebay.load_checkpoint(local.parent / "checkpoints", "run", names=["model"])
    assert torch.equal(stored["model"]["weight"], model.weight)


def test_compressed_states_take_less_room_and_come_back_bit_for_bit(
    tmp_path: Path, local: Path, open_checkpointer: Any
) -> None:
    names = [name for name in DTYPES if hasattr(torch, name)]
    # Few values, as exponents have: every type is worth it.
    tensors = {name: some(getattr(torch, name), 16).repeat(20_000) for name in names}
    tensors["learnt"] = torch.randn(300, 400, generator=torch.Generator().manual_seed(1)) * 0.02
    tensors["across"] = tensors["learnt"].T
    checkpointer = open_checkpointer({"state": dict(tensors)}, compress=True)
    checkpointer.save(1)
    (report,) = checkpointer.wait()
    assert report["bytes"] < 0.4 * sum(tensor.nbytes for tensor in tensors.values())
    checkpointer.close()
    restored = load(tmp_path, local)["state"]
    for key, tensor in tensors.items():
        assert bits(restored[key]) == bits(tensor), key
    target = {"state": {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}}
    again = open_checkpointer(target, compress=True)
    assert again.resume() == 1
    for key, tensor in tensors.items():
        assert bits(target["state"][key]) == bits(tensor), key
