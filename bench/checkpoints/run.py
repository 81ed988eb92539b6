"""Saves and restores one training state with Forebay and with what people use today; prints Markdown tables.

Contestants take turns, round after round, each in a process of its own (child.py) that measures its limits first: every
ratio is of two times of one process, and the median of the rounds is printed. What is restored must be what was saved,
or the contestant has failed. README.md beside this file says what the columns mean and which command gives which table.
Everything is written under `--work`, in a folder that the end of the run removes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import table
from contestants import CLASSES
from table import Round

HERE = Path(__file__).resolve().parent
# No other contestant knows buckets.
OURS = ("forebay", "forebay_at_once")


class Bench:
    """The folder, the settings and the processes of one run."""

    def __init__(self, arguments: Any, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "TMPDIR": str(folder),
            # DLRover's shared memory and sockets are named by it.
            "TORCHELASTIC_RUN_ID": folder.name,
        }

    def act(self, act: str, name: str, saved: str | None = None) -> Round:
        """Runs one act and returns its result, or {"error": …} or {"missing": …}."""
        output = self.folder / f"{name}.json"
        output.unlink(missing_ok=True)
        command = [sys.executable, str(HERE / "child.py"), act, name, "--output", str(output)]
        command += ["--folder", str(self.folder / name), "--mebibytes", str(self.arguments.mebibytes)]
        command += ["--saved", saved] if saved else []
        command += ["--lake", self.arguments.lake] if self.arguments.lake else []
        log = self.folder / f"{name}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, env=self.environment, stdout=sink, stderr=sink, start_new_session=True
            )
            try:
                process.wait(self.arguments.timeout)
            except subprocess.TimeoutExpired:
                return {"error": f"no end after {self.arguments.timeout:.0f} s"}
            finally:
                end_group(process)
                self.clear_shared()
        if not output.exists():
            tail = log.read_text(errors="replace").splitlines()[-1:]
            return {"error": f"exit status {process.returncode} {' '.join(tail)[:200]}"}
        return json.loads(output.read_text())

    def pair(self, first: str, second: str, name: str) -> Round:
        """An act that saves, and one of a process that starts again after it; then the saves are removed."""
        say(f"{name}: {first}")
        result = self.act(first, name)
        if "saved" in result:
            say(f"{name}: {second}")
            result |= self.act(second, name, result["saved"])
        self.clear(name)
        return result

    def single(self, act: str, name: str) -> Round:
        say(f"{name}: {act}")
        result = self.act(act, name)
        self.clear(name)
        return result

    def clear_shared(self) -> None:
        """Removes what outlives DLRover's processes, so that a restart is one."""
        for folder in (Path("/dev/shm"), Path("/tmp/ckpt_sock")):
            for path in folder.glob(f"{self.folder.name}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def clear(self, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        # The next contestant's times must not hold this one's writing.
        os.sync()


def end_group(process: subprocess.Popen) -> None:
    """Ends what a contestant left running; it is all in the session that was started for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def describe_limits(rounds: list[Round]) -> str:
    """The medians of all processes that measured them."""
    rounds = [one for one in rounds if "limits" in one]
    if not rounds:
        return ""
    says = {
        "copy": f"copy on {len(os.sched_getaffinity(0))} threads",
        "copy_alone": "copy on one",
        "disk_write": "direct write",
        "disk_read": "direct read",
        "cached_read": "cached read",
    }
    words = []
    for key, name in says.items():
        found = [one for one in rounds if key in one["limits"]]
        if found:
            time = statistics.median(one["limits"][key] for one in found)
            rate = statistics.median(one["bytes"] / one["limits"][key] for one in found)
            words.append(f"{name} {time:.0f} ms ({rate / 1e6:.2f} GB/s)")
    words.append(f"a training step {statistics.median(one['step'] for one in rounds):.0f} ms")
    return f"Limits, medians of all processes: {', '.join(words)}.\n"


class Rounds:
    """The results of each table, contestants in turns."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.tables: dict[str, dict[str, list[Round]]] = {}
        self.missing: dict[str, str] = {}

    def take(self, title: str, count: int, act: Callable[[str], Round]) -> dict[str, list[Round]]:
        names = [name for name in self.names if name in OURS or title != "lake"]
        found: dict[str, list[Round]] = {name: [] for name in names}
        for _ in range(count):
            for name in names:
                if name in self.missing:
                    continue
                result = act(name)
                if "missing" in result:
                    self.missing[name] = result["missing"]
                else:
                    found[name].append(result)
        self.tables[title] = found
        return found

    def describe(self) -> str:
        """The versions of those that took part, and the reasons of those that did not."""
        rounds = [(name, one) for found in self.tables.values() for name, each in found.items() for one in each]
        said = {name: one["versions"] for name, one in rounds if "versions" in one}
        lines = [
            f"- {name}: {', '.join(f'{package} {version}' for package, version in versions.items())}"
            for name, versions in said.items()
        ]
        lines += [f"- {name}: not installed ({reason})" for name, reason in self.missing.items()]
        return "\n".join(lines)


def run(bench: Bench) -> None:
    arguments = bench.arguments
    print(f"{arguments.mebibytes} MiB, {arguments.rounds} rounds, {os.cpu_count()} cores\n", flush=True)
    rounds = Rounds(arguments.contestants)

    def show(title: str, columns: dict[str, table.Column], found: dict[str, list[Round]]) -> None:
        print(table.render(title, columns, found), flush=True)

    if "times" in arguments.tables:
        found = rounds.take("times", arguments.rounds, lambda name: bench.pair("times", "restart", name))
        print(describe_limits([one for results in found.values() for one in results]))
        show("Saves", table.SAVES, found)
        show("Restores", table.RESTORES, found)
    if "memory" in arguments.tables:
        found = rounds.take("memory", 1, lambda name: bench.pair("saving", "restoring", name))
        show("Memory beside the state", table.MEMORY, found)
    if "changed" in arguments.tables:
        found = rounds.take("changed", 1, lambda name: bench.single("changed", name))
        show("A second save, one layer in a hundred changed", table.CHANGED, found)
    if "lake" in arguments.tables:
        found = rounds.take("lake", arguments.rounds, lambda name: bench.single("lake", name))
        show(f"Saves to {arguments.lake}", table.LAKE, found)
    print(rounds.describe())
    if arguments.json:
        arguments.json.write_text(json.dumps(rounds.tables, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="directory for data, on the disk to be measured")
    parser.add_argument("--mebibytes", type=int, default=1536, help="weights and moments together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contestants", nargs="+", choices=CLASSES, default=list(CLASSES))
    parser.add_argument("--tables", nargs="+", choices=("times", "memory", "changed", "lake"))
    parser.add_argument("--lake", help="s3://bucket/prefix for the table `lake`")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds a process may take")
    parser.add_argument("--json", type=Path, help="write every round's figures here")
    arguments = parser.parse_args()
    arguments.tables = arguments.tables or (["lake"] if arguments.lake else ["times", "memory", "changed"])
    if ("lake" in arguments.tables) != bool(arguments.lake):
        parser.error("the table `lake` and --lake s3://… belong together")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="checkpoints-", dir=arguments.work.resolve()) as folder:
        run(Bench(arguments, Path(folder)))


if __name__ == "__main__":
    main()
