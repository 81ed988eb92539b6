"""Checkpoints of other tools come in and go out bit for bit, and nothing in them is ever run."""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import forebay
import pytest
import torch
from torch.distributed import checkpoint as dcp


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def model(seed: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)).to(torch.bfloat16)


def trained(seed: int = 1) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    net = model(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(2):
        net(torch.ones(2, 5, dtype=torch.bfloat16)).sum().backward()
        optimizer.step()
    return net, optimizer


def assert_equal(found: Any, wanted: Any) -> None:
    """Equal to the last bit, whatever it is."""
    if isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        bits = [one.contiguous().reshape(-1).view(torch.uint8) for one in (found, wanted)]
        assert bits[0].equal(bits[1])
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_equal(found[key], wanted[key])
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted):
            assert_equal(one, other)
    else:
        assert found == wanted


class Bomb:
    """Touches a file when it is unpickled by whoever obeys."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_hugging_face_model_is_resumed_from_and_exported_again(
    tmp_path: Path, local: Path, store: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2, tie_word_embeddings=False
    )
    torch.manual_seed(1)
    net = transformers.GPT2LMHeadModel(config)
    net.save_pretrained(tmp_path / "source", max_shard_size="20KB")
    assert (tmp_path / "source" / "model.safetensors.index.json").exists()
    said = forebay.import_checkpoint(tmp_path / "source", store, "small", step=3, local=local)
    assert said["files"] > 1 and not said["existed"]
    assert_equal(
        forebay.load_checkpoint(store, "small", local=local)["model"],
        {name: value for name, value in sorted(net.state_dict().items())},
    )

    torch.manual_seed(2)
    fresh = transformers.GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(fresh.parameters())
    state = {"model": fresh, "optimizer": optimizer}
    with forebay.Checkpointer(store, "small", state, local=local, interval=None) as checkpointer:
        with pytest.raises(forebay.InvalidError, match="no state called 'optimizer'; it has model"):
            checkpointer.resume()
        with pytest.warns(UserWarning, match="'optimizer' stays as it is"):
            assert checkpointer.resume(strict=False) == 3
        assert_equal(fresh.state_dict(), net.state_dict())
        checkpointer.save(4)

    target = tmp_path / "target"
    assert forebay.export_checkpoint(store, "small", target, shard_bytes="20KB", local=local) == 4
    config.save_pretrained(target)
    again = transformers.GPT2LMHeadModel.from_pretrained(target, dtype=torch.float32)
    assert_equal(again.state_dict(), net.state_dict())
    assert stat.S_IMODE(target.stat().st_mode) == 0o700


def test_a_file_of_torch_save_comes_back_with_all_that_is_in_it(
    tmp_path: Path, local: Path, store: Path
) -> None:
    net, optimizer = trained()
    whole = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "nested": [{"a": (1, 2.5, "text", None, True)}],
        "tied": [net[0].weight.data, net[0].weight.data],  # type: ignore[index,union-attr]
        "strided": torch.arange(12.0).reshape(3, 4).T,
    }
    torch.save(whole, tmp_path / "whole.pt")
    said = forebay.import_checkpoint(
        tmp_path / "whole.pt", store, "run", step=9, state=None, scratch=tmp_path, local=local
    )
    assert said["step"] == 9
    assert forebay.import_checkpoint(
        tmp_path / "whole.pt", store, "run", step=9, state=None, local=local
    )["existed"]
    found = forebay.load_checkpoint(store, "run", local=local)
    assert_equal(found, whole)
    one, two = found["tied"]
    assert one.data_ptr() == two.data_ptr()
    assert not list(tmp_path.glob("forebay-import-*")), "nothing stays in the scratch directory"

    target = tmp_path / "again.pt"
    forebay.export_checkpoint(store, "run", target, "torch", state=None, local=local)
    assert_equal(torch.load(target, weights_only=True), whole)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with pytest.raises(forebay.InvalidError, match="exists"):
        forebay.export_checkpoint(store, "run", target, "torch", local=local)

    torch.save(net.state_dict(), tmp_path / "weights.pt", _use_new_zipfile_serialization=False)
    forebay.import_checkpoint(tmp_path / "weights.pt", store, "weights", local=local)
    assert_equal(forebay.load_checkpoint(store, "weights", local=local)["model"], net.state_dict())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_torch_save_that_would_run_something_is_refused(
    zipped: bool, tmp_path: Path, local: Path, store: Path
) -> None:
    bomb = {"model": torch.ones(2), "more": Bomb(tmp_path / "run")}
    torch.save(bomb, tmp_path / "bomb.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(forebay.InvalidError, match="more than tensors and plain values"):
        forebay.import_checkpoint(tmp_path / "bomb.pt", store, "run", state=None, local=local)
    assert not (tmp_path / "run").exists()
    assert not list(store.glob("runs/**/*.json"))


def test_what_is_no_checkpoint_is_refused_by_name(
    tmp_path: Path, local: Path, store: Path
) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(forebay.Error, match="text.pt"):
        forebay.import_checkpoint(tmp_path / "text.pt", store, "run", local=local)
    torch.save(torch.ones(100), tmp_path / "cut.pt")
    held = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(held[: len(held) // 2])
    with pytest.raises(forebay.Error, match="cut.pt"):
        forebay.import_checkpoint(tmp_path / "cut.pt", store, "run", local=local)
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(forebay.InvalidError, match="list.pt holds a list"):
        forebay.import_checkpoint(tmp_path / "list.pt", store, "run", state=None, local=local)
    torch.save({"s": torch.eye(3).to_sparse()}, tmp_path / "sparse.pt")
    with pytest.raises(forebay.InvalidError, match=r"state\['model'\]\['s'\] cannot be stored"):
        forebay.import_checkpoint(tmp_path / "sparse.pt", store, "run", local=local)
    with pytest.raises(forebay.NotFoundError, match="does not exist"):
        forebay.import_checkpoint(tmp_path / "none", store, "run", local=local)


def write_dcp(path: Path, state: dict[str, Any]) -> None:
    dcp.save(state, checkpoint_id=path, no_dist=True)


def test_a_directory_of_dcp_comes_in_and_goes_out(tmp_path: Path, local: Path, store: Path) -> None:
    net, optimizer = trained()
    state = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": 7,
        "name": "x",
        "scalar": torch.tensor(2.5),
        "list": [torch.arange(3), {"deep": torch.zeros(0, 2)}],
    }
    write_dcp(tmp_path / "dcp", state)
    forebay.import_checkpoint(tmp_path / "dcp", store, "run", step=7, state=None, local=local)
    found = forebay.load_checkpoint(store, "run", local=local)
    # DCP spells the keys of dicts as texts.
    moments = {str(key): value for key, value in state["optimizer"]["state"].items()}
    state["optimizer"]["state"] = moments
    assert_equal(found, state)

    forebay.export_checkpoint(store, "run", tmp_path / "out", "dcp", local=local)
    again = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    dcp.load(again, checkpoint_id=tmp_path / "out", no_dist=True)
    assert_equal(again, dict(net.state_dict()))
    with pytest.raises(forebay.InvalidError, match="not empty"):
        forebay.export_checkpoint(store, "run", tmp_path / "out", "dcp", local=local)


def test_a_tensor_that_ranks_saved_in_parts_is_put_together(
    tmp_path: Path, local: Path, store: Path
) -> None:
    script = Path(__file__).parent / "scripts" / "save_dcp.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "3", str(script), str(tmp_path / "dcp")]
    done = subprocess.run(torchrun, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "dcp").glob("*.distcp"))) == 3
    forebay.import_checkpoint(tmp_path / "dcp", store, "run", local=local)
    found = forebay.load_checkpoint(store, "run", local=local)["model"]
    assert_equal(found["rows"], torch.arange(70, dtype=torch.float64).reshape(10, 7))
    assert_equal(found["columns"], torch.arange(70, dtype=torch.int32).reshape(10, 7))
    assert found["step"] == 5


def change_metadata(path: Path, change: Any) -> None:
    with open(path / ".metadata", "rb") as file:
        metadata = pickle.load(file)
    changed = change(metadata)
    with open(path / ".metadata", "wb") as file:
        pickle.dump(metadata if changed is None else changed, file)


def attack_bomb(metadata: Any) -> Any:
    return {"state": metadata, "more": Bomb(Path("/tmp/forebay-must-not-exist"))}


def attack_outside(metadata: Any) -> None:
    for place in metadata.storage_data.values():
        place.relative_path = "../outside.distcp"


def attack_absolute(metadata: Any) -> None:
    for place in metadata.storage_data.values():
        place.relative_path = "/etc/passwd"


def attack_range(metadata: Any) -> None:
    for place in metadata.storage_data.values():
        place.length = 1 << 40


def attack_hole(metadata: Any) -> None:
    about = metadata.state_dict_metadata["w"]
    about.size = torch.Size([1 << 20, 4])


def attack_shape(metadata: Any) -> None:
    about = metadata.state_dict_metadata["w"]
    about.size = torch.Size([8, 2])
    about.chunks[0].sizes = torch.Size([8, 2])


@pytest.mark.parametrize(
    ("attack", "error", "says"),
    [
        (attack_bomb, forebay.InvalidError, "names posix.mkdir"),
        (attack_outside, forebay.InvalidError, "names the file '../outside.distcp'"),
        (attack_absolute, forebay.InvalidError, "names the file '/etc/passwd'"),
        (attack_range, forebay.CorruptError, "ends before the values of 'w'"),
        (attack_hole, forebay.CorruptError, "do not cover it"),
        (attack_shape, forebay.CorruptError, "is not what it must be"),
        (lambda metadata: [1, 2], forebay.CorruptError, "is no Metadata"),
    ],
)
def test_hostile_metadata_is_refused_and_nothing_runs(
    attack: Any, error: Any, says: str, tmp_path: Path, local: Path, store: Path
) -> None:
    write_dcp(tmp_path / "dcp", {"w": torch.ones(4, 4)})
    (tmp_path / "outside.distcp").write_bytes(next((tmp_path / "dcp").glob("*.distcp")).read_bytes())
    change_metadata(tmp_path / "dcp", attack)
    with pytest.raises(error) as refused:
        forebay.import_checkpoint(tmp_path / "dcp", store, "run", local=local)
    assert says in str(refused.value)
    assert not Path("/tmp/forebay-must-not-exist").exists()
    assert not list(store.glob("runs/**/*.json"))


def test_a_value_of_dcp_that_would_run_something_is_refused(
    tmp_path: Path, local: Path, store: Path
) -> None:
    write_dcp(tmp_path / "dcp", {"w": torch.ones(4), "bomb": Bomb(tmp_path / "run")})
    with pytest.raises(forebay.InvalidError, match="'bomb' is more than tensors and plain values"):
        forebay.import_checkpoint(tmp_path / "dcp", store, "run", state=None, local=local)
    assert not (tmp_path / "run").exists()


def test_safetensors_hold_one_state_and_layouts_have_names(
    tmp_path: Path, local: Path, store: Path
) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\x80?")
    with pytest.raises(forebay.InvalidError, match="say how it is called"):
        forebay.import_checkpoint(file, store, "run", state=None, local=local)
    with pytest.raises(forebay.InvalidError, match="none starts with"):
        forebay.import_checkpoint(file, store, "run", state="$x", local=local)
    forebay.import_checkpoint(file, store, "run", state="adapter", local=local)
    assert forebay.load_checkpoint(store, "run", local=local)["adapter"]["a"].item() == 1.0
    with pytest.raises(forebay.InvalidError, match="'hugging-face', 'torch' or 'dcp'"):
        forebay.export_checkpoint(store, "run", tmp_path / "x", "tar", local=local)
    with pytest.raises(forebay.InvalidError, match="it has adapter"):
        forebay.export_checkpoint(store, "run", tmp_path / "x", local=local)
