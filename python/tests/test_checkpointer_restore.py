"""What is stored is read into the memory that the live state has, and comes to the same as ever."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forebay
import pytest
import torch
from forebay._fit import Fit, StoredTensor

from conftest import bits

#: Rows and columns; with them a parameter is larger than what is read together.
LARGE = (2048, 1100)


def build(seed: int = 0) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model with parameters and buffers of many shapes, and an optimizer that took a step."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 3, bias=False)
    )
    model.large = torch.nn.Parameter(torch.randn(LARGE))
    model.scale = torch.nn.Parameter(torch.randn(()))
    model.none = torch.nn.Parameter(torch.randn(0, 4))
    model.register_buffer("halves", torch.randn(5).to(torch.bfloat16))
    model.register_buffer("unsaved", torch.randn(5), persistent=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train(model, optimizer)
    return model, optimizer


def train(model: Any, optimizer: torch.optim.Optimizer) -> None:
    loss = model[:3](torch.randn(8, 16)).square().sum() * model.scale + model.large.square().mean()
    loss = loss + model.none.sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def tensors(value: Any, path: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a state, by the keys that lead there."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    if hasattr(value, "state_dict"):
        value = value.state_dict()
    if isinstance(value, dict):
        pairs: Any = value.items()
    else:
        pairs = enumerate(value) if isinstance(value, list) else ()
    found: dict[str, torch.Tensor] = {}
    for key, one in pairs:
        found |= tensors(one, f"{path}.{key}")
    return found


def values(state: Any) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {key: (one.dtype, one.shape, bits(one)) for key, one in tensors(state).items()}


def addresses(state: Any) -> dict[str, int]:
    return {key: one.data_ptr() for key, one in tensors(state).items()}


def commit(checkpointer: forebay.Checkpointer, step: int) -> None:
    checkpointer.save(step)
    checkpointer.wait()


def overwrite(state: Any) -> None:
    with torch.no_grad():
        for one in tensors(state).values():
            one.zero_()


def test_a_state_keeps_its_memory(open_checkpointer: Any) -> None:
    model, optimizer = build()
    lists = {"deep": [torch.randn(9), {"counts": torch.arange(4)}]}
    state = {"model": model, "optimizer": optimizer, "lists": lists}
    checkpointer = open_checkpointer(state)
    commit(checkpointer, 1)
    before = values(state)
    for _ in range(2):
        train(model, optimizer)
    lists["deep"][1]["counts"] += 1
    parameters, where = list(model.parameters()), addresses(state)
    versions = {key: one._version for key, one in tensors(state).items()}
    unsaved = bits(model.unsaved)
    assert checkpointer.resume() == 1
    assert values(state) == before
    assert addresses(state) == where
    assert bits(model.unsaved) == unsaved
    assert all(one is other for one, other in zip(model.parameters(), parameters))
    assert all(one.requires_grad and one.is_leaf for one in parameters)
    # torch is told: what was computed from the weights before cannot be differentiated any more.
    assert all(one._version > versions[key] for key, one in tensors(state).items())
    train(model, optimizer)
    assert values(state) != before


def test_an_optimizer_without_a_state_takes_the_stored_one(open_checkpointer: Any) -> None:
    model, optimizer = build()
    checkpointer = open_checkpointer({"model": model, "optimizer": optimizer})
    commit(checkpointer, 1)
    fresh = torch.optim.AdamW(model.parameters())
    assert open_checkpointer({"model": model, "optimizer": fresh}).resume() == 1
    assert values(fresh) == values(optimizer)
    assert not set(addresses(fresh).values()) & set(addresses(optimizer).values()) - {0}


def test_plain_values_are_read_beside_the_state(
    open_checkpointer: Any, tmp_path: Path, local: Path
) -> None:
    model, _ = build()
    commit(open_checkpointer({"model": model}), 1)
    overwrite(model)
    found = forebay.load_checkpoint(tmp_path / "checkpoints", "run", local=local)
    assert not any(one.any() for one in model.parameters())
    assert not set(addresses(found).values()) & set(addresses(model).values()) - {0}


def test_what_was_computed_before_is_not_differentiated_with_other_weights(
    open_checkpointer: Any,
) -> None:
    state = {"weights": {"one": torch.randn(64, requires_grad=True)}}
    checkpointer = open_checkpointer(state)
    commit(checkpointer, 1)
    loss = state["weights"]["one"].square().sum()
    checkpointer.resume()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


MISFITS: dict[str, Callable[[], Any]] = {
    r"missing in the checkpoint: other\.new\.weight": lambda: torch.nn.ModuleDict(
        {"old": torch.nn.Linear(4, 4), "new": torch.nn.Linear(4, 4)}
    ),
    r"of another shape: other\.old\.weight": lambda: torch.nn.ModuleDict(
        {"old": torch.nn.Linear(5, 4)}
    ),
    r"not in the model: other\.old\.bias": lambda: torch.nn.ModuleDict(
        {"old": torch.nn.Linear(4, 4, bias=False)}
    ),
}


@pytest.mark.parametrize("why", MISFITS)
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_refused_model_changes_nothing(why: str, is_nested: bool, open_checkpointer: Any) -> None:
    def wrap(other: Any) -> Any:
        return [{"it": other}] if is_nested else other

    model, optimizer = build()
    saved = torch.nn.ModuleDict({"old": torch.nn.Linear(4, 4)})
    state = {"model": model, "optimizer": optimizer, "other": wrap(saved)}
    commit(open_checkpointer(state), 1)
    overwrite(state)
    state["other"] = wrap(MISFITS[why]())
    checkpointer = open_checkpointer(state)
    before = values(state)
    with pytest.raises(forebay.InvalidError, match=why.replace("other", r"other(\.0\.it)?")):
        checkpointer.resume()
    assert values(state) == before
    # It is as it was, so it may go on.
    commit(checkpointer, 2)
    with pytest.warns(UserWarning, match="left out"):
        assert checkpointer.resume(1, strict=False) == 1
    assert any(one.any() for one in model.parameters())


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"one": torch.zeros(3, dtype=torch.float64)}, r"\['other'\]\['one'\] is torch.float64 of \[3\] here"),
        ({"one": torch.zeros(4)}, r"and torch.float32 of \[3\] in the checkpoint"),
        (torch.optim.SGD([torch.zeros(2), torch.zeros(2)]), r"1 groups of \[2\] parameters here, and 1 of \[1\]"),
        (None, "no state called 'absent'"),
    ],
)  # fmt: skip
def test_any_other_refusal_changes_nothing(other: Any, why: str, open_checkpointer: Any) -> None:
    model, _ = build()
    saved: Any = {"one": torch.ones(3)}
    if isinstance(other, torch.optim.Optimizer):
        saved = torch.optim.SGD([torch.zeros(2)])
    commit(open_checkpointer({"model": model, "other": saved}), 1)
    overwrite(model)
    state = {"model": model, "absent" if other is None else "other": other or {}}
    checkpointer = open_checkpointer(state)
    with pytest.raises(forebay.InvalidError, match=why):
        checkpointer.resume()
    assert not any(one.any() for one in model.parameters())


def test_after_damage_the_older_step_overwrites_all(open_checkpointer: Any, tmp_path: Path) -> None:
    model, optimizer = build()
    state = {"model": model, "optimizer": optimizer, "extra": {"one": torch.randn(LARGE)}}
    checkpointer = open_checkpointer(state, random_state=False)
    commit(checkpointer, 1)
    older = values(state)
    train(model, optimizer)
    state["extra"]["one"] += 1
    commit(checkpointer, 2)
    newer = values(state)
    file = next(tmp_path.glob("checkpoints/runs/run/checkpoints/*2/*.safetensors"))
    whole = file.read_bytes()
    os.chmod(file, 0o600)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    train(model, optimizer)
    # What still lies in memory goes with it.
    checkpointer.close()
    checkpointer = open_checkpointer(state, random_state=False)
    with pytest.raises(forebay.CorruptError, match="does not have its checksum") as damaged:
        checkpointer.resume()
    assert "step 1 is intact" in str(damaged.value)
    # Nobody goes on with what is left.
    for act in (lambda: checkpointer.step(0), lambda: checkpointer.save(1)):
        with pytest.raises(forebay.InvalidError, match="restoring step 2 .* resume again"):
            act()
    assert checkpointer.resume(1) == 1
    assert values(state) == older
    commit(checkpointer, 3)
    file.write_bytes(whole)
    assert checkpointer.resume(2) == 2
    assert values(state) == newer


def test_what_does_not_lie_as_it_is_stored_is_converted(open_checkpointer: Any) -> None:
    saved = torch.nn.ParameterDict(
        {key: torch.nn.Parameter(torch.randn(6, 4)) for key in ("strided", "halves", "spread", "plain")}
    )
    commit(open_checkpointer({"model": saved}), 1)
    model = torch.nn.ParameterDict(
        {
            "strided": torch.nn.Parameter(torch.zeros(4, 6).t()),
            "halves": torch.nn.Parameter(torch.zeros(6, 4, dtype=torch.float16)),
            "spread": torch.nn.Parameter(torch.zeros(12, 8)[::2, ::2]),
            "plain": torch.nn.Parameter(torch.zeros(6, 4)),
        }
    )
    where, strides = addresses(model), [one.stride() for one in model.values()]
    assert open_checkpointer({"model": model}).resume() == 1
    for key, one in model.items():
        assert torch.equal(one, saved[key].to(one.dtype)), key
    assert addresses(model) == where and [one.stride() for one in model.values()] == strides


def test_only_memory_of_this_machine_is_read_into() -> None:
    fit = Fit()
    for device in ("cpu", "meta"):
        model = torch.nn.Linear(2, 2, device=device)
        stored = {
            key: StoredTensor(f"{device}.{key}", "float32", tuple(one.shape), False)
            for key, one in model.named_parameters()
        }
        fit.add(model, stored, (device,))
    fit.settle()
    places = [fit.place((device, "weight")) for device in ("cpu", "meta")]
    assert [place is not None and place.live is not None for place in places] == [True, False]


def pair(model: torch.nn.ParameterDict) -> list[torch.Tensor]:
    return [one.detach().clone() for one in (model["one"], model["two"])]


def parameters(*two: torch.Tensor) -> torch.nn.ParameterDict:
    return torch.nn.ParameterDict(dict(zip(("one", "two"), map(torch.nn.Parameter, two))))


def tied(weight: torch.Tensor) -> torch.nn.ParameterDict:
    model = parameters(weight, weight)
    model["two"] = model["one"]
    return model


@pytest.mark.parametrize("side", [3, 1200])
def test_tied_weights_and_those_that_were_tied(side: int, open_checkpointer: Any) -> None:
    saved = tied(torch.randn(side, side))
    commit(open_checkpointer({"model": saved}), 1)
    for model in (tied(torch.zeros(side, side)), parameters(*torch.zeros(2, side, side))):
        where = addresses(model)
        assert open_checkpointer({"model": model}).resume() == 1
        assert all(torch.equal(one, saved["one"]) for one in pair(model))
        assert addresses(model) == where


def test_of_two_stored_tensors_for_one_memory_the_same_one_wins(
    open_checkpointer: Any, tmp_path: Path, local: Path
) -> None:
    whole = torch.zeros(60)
    shared: dict[str, Callable[[], torch.nn.ParameterDict]] = {
        "tied": lambda: tied(torch.zeros(40)),
        "overlapping": lambda: parameters(whole[:40], whole[20:]),
        "crossed": lambda: parameters(whole[:40].view(5, 8), whole[:40].view(8, 5).t()),
    }
    for step, (name, make) in enumerate(shared.items(), 1):
        shape = make()["one"].shape
        saved = parameters(torch.randn(shape), torch.randn(shape))
        commit(open_checkpointer({"model": saved}), step)
        expected = make()
        found = forebay.load_checkpoint(tmp_path / "checkpoints", "run", local=local)
        expected.load_state_dict(found["model"])
        there = pair(expected)
        model = make()
        overwrite(model)
        assert open_checkpointer({"model": model}).resume() == step
        assert all(torch.equal(one, other) for one, other in zip(pair(model), there)), name


class Swapped(torch.nn.ParameterDict):
    """Takes each of its values for the other's place."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        one, two = prefix + "one", prefix + "two"
        state_dict[one], state_dict[two] = state_dict[two], state_dict[one]
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Halved(torch.nn.ParameterDict):
    """Reckons with what it had."""

    def load_state_dict(self, state_dict: Any, *rest: Any, **more: Any) -> Any:
        with torch.no_grad():
            mean = {key: (one + self[key]) / 2 for key, one in state_dict.items()}
        return super().load_state_dict(mean, *rest, **more)


def swap(module: Any, state_dict: dict[str, Any], *_: Any) -> None:
    state_dict["one"], state_dict["two"] = state_dict["two"], state_dict["one"]


def test_code_that_loads_in_its_own_way_is_left_to_it(open_checkpointer: Any) -> None:
    saved = parameters(torch.randn(9), torch.randn(9))
    commit(open_checkpointer({"model": saved}), 1)
    hooked, after = (parameters(*torch.zeros(2, 9)) for _ in range(2))
    hooked.register_load_state_dict_pre_hook(swap)
    said: list[Any] = []
    after.register_load_state_dict_post_hook(lambda module, _: said.append(pair(module)))
    swapped = Swapped({"one": torch.zeros(9), "two": torch.zeros(9)})
    halved = Halved({"one": torch.ones(9), "two": torch.ones(9)})
    one, two = pair(saved)
    for model, expected in (
        (hooked, [two, one]),
        (after, [one, two]),
        (swapped, [two, one]),
        (halved, [(one + 1) / 2, (two + 1) / 2]),
    ):
        assert open_checkpointer({"model": model}).resume() == 1
        assert all(torch.equal(one, other) for one, other in zip(pair(model), expected))
    assert len(said) == 1 and torch.equal(said[0][0], one)


def test_an_optimizer_that_loads_in_its_own_way_is_left_to_it(open_checkpointer: Any) -> None:
    model, optimizer = build()
    commit(open_checkpointer({"optimizer": optimizer}), 1)
    before = values(optimizer)
    train(model, optimizer)
    held = copy.copy(tensors(optimizer))
    newer = values(optimizer)
    optimizer.register_load_state_dict_pre_hook(lambda *_: None)
    assert open_checkpointer({"optimizer": optimizer}).resume() == 1
    assert values(optimizer) == before
    # The tensors that it had were replaced, not written.
    assert {key: (one.dtype, one.shape, bits(one)) for key, one in held.items()} == newer


class Sum:
    """Something of the user's that takes its state in its own way."""

    def __init__(self) -> None:
        self.total = torch.zeros(8)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total.zero_()
        self.total.add_(state["total"])


def test_an_object_of_the_users_gets_tensors_of_its_own(open_checkpointer: Any) -> None:
    one = Sum()
    one.total += torch.randn(8)
    before = one.total.clone()
    checkpointer = open_checkpointer({"sum": one})
    commit(checkpointer, 1)
    one.total += 1
    checkpointer.resume()
    assert torch.equal(one.total, before)
