"""What a save knows of the state from the one before never differs from what a new walk finds."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import forebay
import numpy as np
import pytest
import torch
from forebay._plan import Plan, Seen
from forebay._random import RandomState
from forebay._tensors import Leaves
from forebay._tree import encode


def look(plan: Plan, state: dict[str, Any]) -> Seen:
    return plan.look({name: ((name,), value) for name, value in state.items()})


def assert_is_what_a_walk_finds(seen: Seen, state: dict[str, Any]) -> None:
    leaves = Leaves()
    for name, value in state.items():
        assert json.loads(seen.texts[name]) == json.loads(json.dumps(encode(value, (name,), leaves)))
        # Equal is not the same: 1, 1.0 and True.
        assert json.dumps(json.loads(seen.texts[name])) == json.dumps(encode(value, (name,), Leaves()))
    assert seen.forms.described == [leaf.described() for leaf in leaves.leaves]
    assert seen.forms.bytes == [leaf.bytes for leaf in leaves.leaves]
    assert seen.forms.as_it_lies == [leaf.is_as_it_lies() for leaf in leaves.leaves]
    for leaf, value, address in zip(leaves.leaves, seen.values, seen.addresses):
        if isinstance(leaf.value, np.ndarray):
            assert np.array_equal(leaf.value, value) and address == 0
        else:
            assert (value.data_ptr(), value.dtype) == (address, leaf.value.dtype)
            assert value.stride() == leaf.value.stride() and torch.equal(value, leaf.value)
            # The state of a generator is fresh memory whenever it is asked for.
            assert leaf.value.data_ptr() == address or leaf.name.startswith("random.")
            assert (leaf.value.is_neg(), leaf.value.is_conj()) == (value.is_neg(), value.is_conj())


def make() -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(2, 4)).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    tensor = torch.ones(2, 6)
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2),
        "random": RandomState(),
        "own": {
            "tensor": tensor, "tied": tensor, "view": tensor[:, ::2], "empty": torch.ones(0, 3),
            "other empty": torch.ones(0, 3), "number": 1, "history": [1, 2.5], "list": [tensor, 3, {}],
            "array": np.ones((2, 3)), "tuple": (1, torch.zeros(3), "x"), "complex": torch.ones(3, dtype=torch.complex64),
            "keys": {1: torch.zeros(1), "a": 2}, "pairs": {(1, 2): torch.zeros(1)}, "none": None, "scalar": np.float32(2),
        },
    }  # fmt: skip


def train(state: dict[str, Any]) -> None:
    state["model"](torch.ones(2, 4)).sum().backward()
    state["optimizer"].step()
    state["scheduler"].step()


def test_the_same_state_with_other_values_is_not_walked_anew() -> None:
    state, plan = make(), Plan()
    first = look(plan, state)
    assert_is_what_a_walk_finds(first, state)
    for number in range(3):
        train(state)
        own = state["own"]
        own["number"] = number + 0.5
        own["history"].append(number)
        own["none"] = "text" * number
        own["array"] = np.full((2, 3), number)[:]
        own["array"] = own["array"].astype(float)
        own["tuple"] = (1, own["tuple"][1], "y")
        torch.rand(number + 1)
        seen = look(plan, state)
        assert_is_what_a_walk_finds(seen, state)
        assert seen.forms is first.forms


def own(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda state: change(state["own"])


def tie(state: dict[str, Any]) -> None:
    state["model"][2].weight = state["model"][0].weight


def tie_by_data(state: dict[str, Any]) -> None:
    state["model"][2].weight.data = state["model"][0].weight.data


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a key more": own(lambda one: one.update(more=torch.ones(1))),
    "a key less": own(lambda one: one.pop("view")),
    "another key": own(lambda one: one.update(other=one.pop("view"))),
    "another order": own(lambda one: one.update(tensor=one.pop("tensor"))),
    "a key that is equal": own(lambda one: one.update(keys={True: one["keys"][1], "a": 2})),
    "a key in a tuple that is equal": own(lambda one: one.update(pairs={(True, 2): torch.zeros(1)})),
    "a dict of another type": own(lambda one: one.update(keys=OrderedDict(one["keys"]))),
    "a list for a tuple": own(lambda one: one.update(tuple=list(one["tuple"]))),
    "a longer list": own(lambda one: one["list"].append(torch.ones(1))),
    "a shorter list": own(lambda one: one["list"].pop(0)),
    "a tensor where none was": own(lambda one: one.update(number=torch.ones(1))),
    "a tensor deep in what held none": own(lambda one: one["history"].append({"x": [torch.ones(1)]})),
    "an array where none was": own(lambda one: one.update(number=np.ones(1))),
    "a number where a tensor was": own(lambda one: one.update(tensor=2)),
    "an array where a tensor was": own(lambda one: one.update(tensor=np.ones((2, 6)))),
    "a parameter where a tensor was": own(
        lambda one: one.update(view=torch.nn.Parameter(one["view"]))
    ),
    "an array of another shape": own(lambda one: one.update(array=np.ones((3, 2)))),
    "an array of another type": own(lambda one: one.update(array=np.ones((2, 3), np.float32))),
    "an array of numbers of Python": own(lambda one: one.update(array=[[1.0] * 3] * 2)),
    "another type": own(lambda one: one.update(view=one["view"].int())),
    "another type of the same width": own(lambda one: one.update(view=one["view"].view(torch.int32))),
    "another shape": own(lambda one: one.update(view=torch.ones(3, 2))),
    "other strides": own(lambda one: one.update(view=one["view"].contiguous())),
    "resized in place": own(lambda one: one["tensor"].resize_(3, 6)),
    "another shape of the same memory": own(lambda one: one["tensor"].resize_(6, 2)),
    "other strides of the same memory": own(lambda one: one["tensor"].t_()),
    "untied": own(lambda one: one.update(tied=one["tied"].clone())),
    "tied": tie,
    "tied by its data": tie_by_data,
    "tied to what was tied already": own(lambda one: one.update(third=one["tensor"])),
    "another tied to it in its place": own(
        lambda one: one.update(tensor=torch.ones(2, 6), list=[one["tied"], 3, {}])
    ),
    "conjugated": own(lambda one: one.update(complex=one["complex"].conj())),
    "negated": own(lambda one: one.update(complex=one["complex"].conj().imag)),
    "a replaced tensor": own(lambda one: one.update(tensor=torch.zeros(2, 6))),
    "a replaced parameter": lambda state: setattr(state["model"][0], "bias", torch.nn.Parameter(torch.ones(4))),
    "a parameter of another type": lambda state: state["model"].double(),
    "a frozen layer": lambda state: state["model"][0].requires_grad_(False),
    "a buffer for a parameter": lambda state: (
        delattr(state["model"][0], "bias"), state["model"][0].register_buffer("bias", torch.ones(4)),
    ),
    "a layer more": lambda state: state["model"].append(torch.nn.Linear(4, 2)),
    "a fresh optimizer": lambda state: state.update(optimizer=torch.optim.AdamW(state["model"].parameters())),
    "another optimizer": lambda state: state.update(optimizer=torch.optim.SGD(state["model"].parameters())),
    "a group more": lambda state: state["optimizer"].add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]}),
    "a tensor for a rate": lambda state: state["optimizer"].param_groups[0].update(lr=torch.tensor(0.1)),
    "a part more": lambda state: state.update(more=[1]),
    "a part less": lambda state: state.pop("scheduler"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_is_noticed(name: str) -> None:
    state, plan = make(), Plan()
    look(plan, state)
    CHANGES[name](state)
    assert_is_what_a_walk_finds(look(plan, state), state)
    # What was found is what is gone by from here on.
    again = look(plan, state)
    assert_is_what_a_walk_finds(again, state)
    assert look(plan, state).forms is again.forms


@pytest.mark.parametrize("shape", [(2, 2), (8,), (4, 2), (1, 8)])
def test_memory_that_was_freed_and_given_out_again_is_what_it_is_now(shape: tuple[int, ...]) -> None:
    plan = Plan()
    # Where an allocator puts fresh memory is its choice; here it is ours.
    memory = bytearray(32)
    state = {"own": {"one": torch.frombuffer(memory, dtype=torch.float32).view(4, 2)}}
    address = look(plan, state).addresses[0]
    del state["own"]["one"]
    count = int(np.prod(shape))
    state["own"]["one"] = torch.frombuffer(memory, dtype=torch.float32, count=count).view(shape)
    seen = look(plan, state)
    assert seen.addresses[0] == address
    assert_is_what_a_walk_finds(seen, state)


class Pickled:
    pass


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Pickled(), r"state\['own'\]\['tensor'\].*is a test_plan.Pickled"),
        (torch.eye(6).to_sparse(), r"state\['own'\]\['tensor'\].*layout"),
        (torch.empty(2, 6, device="meta"), r"state\['own'\]\['tensor'\].*meta device"),
        (torch.quantize_per_tensor(torch.ones(2, 6), 0.1, 0, torch.qint8), "quantized"),
        ({1.5: 1}, "a key that cannot be stored"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name_at_any_time(value: Any, why: str) -> None:
    state, plan = make(), Plan()
    look(plan, state)
    state["own"]["tensor"] = value
    with pytest.raises(forebay.InvalidError, match=why):
        look(plan, state)
    state["own"]["tensor"], state["own"]["number"] = torch.ones(2, 6), value
    with pytest.raises(forebay.InvalidError, match=why.replace("tensor'", "number'")):
        look(plan, state)


def test_no_tensor_is_kept() -> None:
    import gc
    import weakref

    state, plan = {"own": {"one": torch.ones(3), "two": torch.ones(2)}}, Plan()
    alive = weakref.ref(state["own"]["one"])
    look(plan, state)
    look(plan, state)
    del state["own"]["one"]
    gc.collect()
    assert alive() is None
