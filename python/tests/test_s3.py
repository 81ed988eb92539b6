"""The five lines against a real S3 server: prepared there, fed from there, resumed from there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import forebay
import pytest

from conftest import RECIPE, ids_of


def free_port() -> int:
    """A port whose neighbour 10000 above, which SeaweedFS takes for itself, is free too."""
    while True:
        with contextlib.ExitStack() as stack:
            one = stack.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1] // 2
            try:
                for number in (port, port + 10_000):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            if port > 10_000:
                return int(port)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a bucket of a running SeaweedFS; credentials stand in the environment."""
    tools = os.environ.get("FOREBAY_TOOLS", "")
    weed = shutil.which("weed", path=os.pathsep.join([tools, os.environ["PATH"]]))
    assert weed, "this test needs `weed`: run ci/install-tools and set FOREBAY_TOOLS"
    folder = tmp_path_factory.mktemp("s3")
    credentials = [{"accessKey": "forebay-key", "secretKey": "forebay-secret"}]
    identity = {"name": "t", "credentials": credentials, "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    roles = ["s3.port", "master.port", "volume.port", "filer.port", "admin.port"]
    ports = {role: free_port() for role in roles}
    process = subprocess.Popen(
        [
            weed, "mini", f"-dir={folder}", f"-s3.config={folder / 's3.json'}",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false",
            "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-s3.autoCreateBucket=false", "-bucket=lake",
            *[f"-{role}={port}" for role, port in ports.items()],
        ],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3.port']}",
        "AWS_ACCESS_KEY_ID": "forebay-key",
        "AWS_SECRET_ACCESS_KEY": "forebay-secret",
        "AWS_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        await_bucket(folder)
        yield "s3://lake/team"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def await_bucket(folder: Path) -> None:
    """Waits until the server takes objects, which is the last thing to work."""
    deadline = time.monotonic() + 60
    while True:
        try:
            forebay.feed("s3://lake/ready", "none", batch_size=1, local=folder / "probe")
        except forebay.NotFoundError as error:
            if "no dataset" in str(error):
                return
        except forebay.Error:
            pass
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.2)


def test_prepared_fed_and_resumed(bucket: str, source: Path, tmp_path: Path) -> None:
    said = forebay.prepare(bucket, "text", source, local=tmp_path / "first", **RECIPE)
    assert said["rows"]["train"] > 0

    def feed(local: str) -> forebay.Feed:
        return forebay.feed(bucket, "text@1", batch_size=8, seed=7, local=tmp_path / local)

    whole = ids_of(feed("one"), 30)
    first = feed("two")
    assert ids_of(first, 11) == whole[:11]
    state = json.loads(json.dumps(first.state_dict()))
    assert first.stats()["lake_bytes"] > 0
    # On another node, whose tier is empty.
    second = feed("three")
    second.load_state_dict(state)
    assert ids_of(second, 19) == whole[11:]
    # And on the first, where nothing has to come again.
    third = feed("one")
    ids_of(third, 30)
    assert third.stats()["lake_bytes"] == 0


def test_files_of_a_bucket_are_fed_where_they_lie(bucket: str, tmp_path: Path) -> None:
    """The source lies in a directory here, its index in the bucket: two stores in one feed."""
    folder = tmp_path / "lines"
    folder.mkdir()
    lines = "".join(json.dumps({"number": row}) + "\n" for row in range(50))
    (folder / "rows.jsonl").write_text(lines)
    forebay.index(bucket, "numbers", folder, local=tmp_path / "tier")
    options = {"batch_size": 10, "epochs": 1, "local": tmp_path / "tier"}
    feed = forebay.feed(bucket, "numbers", **options)  # type: ignore[arg-type]
    assert sorted(n for batch in feed for n in batch["number"].tolist()) == list(range(50))


def test_wrong_credentials_say_what_to_set(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(forebay.Error, match="AWS_") as caught:
        forebay.feed(bucket, "text", batch_size=8, local=tmp_path / "local")
    assert "not-the-secret" not in str(caught.value)
