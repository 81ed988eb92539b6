"""Runs every contestant on every workload and prints one Markdown table a workload, then one JSON line a result.

Contestants take turns, round after round, so that all of them meet the same noise, and each is held against the floor
of its own round. Every act is a child process (child.py) with its own interpreter, temporary directory, /dev/shm
(where the system lets us) and time limit; one that fails or hangs is a line in the table, not the end of the run. Everything is written under `--work`; converted
data is kept there and used again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import data
import table
import workloads as w
from contestants import ORDER

HERE = Path(__file__).resolve().parent
FLOOR = "floor"
WEBDATASET = "webdataset"
PREPARE_LIMIT_SECONDS = 3600.0
MEMORY_EVERY_SECONDS = 0.1
UNTIMED_AT_ONCE = 2
NAMESPACES = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


class Bench:
    """The directories, interpreters and limits of one run."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.root = arguments.work.resolve() / arguments.size
        self.source = self.root / "source"
        self.pythons = interpreters(arguments.python)
        self.cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.private = can_isolate()

    def target(self, contestant: str, workload: w.Workload) -> Path:
        return self.root / workload.name / contestant

    def chosen_cores(self, workload: w.Workload) -> list[int]:
        """The last cores: the first is where this process and the system's own work are likely to be."""
        return self.cores[-workload.cores:]

    def command(self, act: str, contestant: str, workload: w.Workload, output: Path, pinned: bool) -> list[str]:
        command = [self.pythons.get(contestant, sys.executable), str(HERE / "child.py"), act, contestant, workload.name]
        command += ["--samples", str(workload.samples), "--source", str(self.source), "--output", str(output)]
        command += ["--target", str(self.target(contestant, workload)), "--seconds", str(self.arguments.seconds)]
        command += ["--state", str(self.state_file(contestant, workload))]
        if pinned and self.cores:
            command += ["--cores", *map(str, self.chosen_cores(workload))]
        return command

    def state_file(self, contestant: str, workload: w.Workload) -> Path:
        return self.root / "states" / f"{workload.name}-{contestant}"

    def scratch(self, contestant: str) -> Path:
        directory = self.root / "scratch" / contestant
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def environment(self, contestant: str) -> dict[str, str]:
        """Caches and temporary files under our own directory, no network, one thread a math library."""
        scratch = str(self.scratch(contestant))
        return os.environ | {
            "TMPDIR": scratch,
            "HOME": scratch,
            "HF_HUB_OFFLINE": "1",
            "LITDATA_DISABLE_VERSION_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }

    def act(self, act: str, contestant: str, workload: w.Workload, memory: bool = False) -> dict:
        """Runs one act and returns its result, or {"error": …}."""
        output = self.root / "outputs" / f"{workload.name}-{contestant}-{act}.json"
        output.parent.mkdir(parents=True, exist_ok=True)
        self.state_file(contestant, workload).parent.mkdir(parents=True, exist_ok=True)
        output.unlink(missing_ok=True)
        pinned = act in ("resume", "measure")
        command = self.command(act, contestant, workload, output, pinned)
        limit = PREPARE_LIMIT_SECONDS if act == "prepare" else self.arguments.timeout
        return self.wait(isolated(command) if self.private else command, contestant, output, limit, memory)

    def wait(self, command, contestant: str, output: Path, limit: float, memory: bool) -> dict:
        log = output.with_suffix(".log")
        with open(log, "wb") as sink:
            process = subprocess.Popen(
                command, cwd=HERE, env=self.environment(contestant), stdout=sink, stderr=sink, start_new_session=True
            )
            deadline, peak = time.monotonic() + limit, 0
            try:
                while process.poll() is None:
                    if time.monotonic() > deadline:
                        return {"error": f"no end after {limit:.0f} s, see {log}"}
                    if memory:
                        peak = max(peak, tree_memory_bytes(process.pid))
                    time.sleep(MEMORY_EVERY_SECONDS if memory else 0.02)
            finally:
                # Also where this process is told to stop. Workers that outlived their parent are this run's own:
                # they are in the session that was started for it.
                kill_group(process.pid)
                process.wait()
        if not output.exists():
            return {"error": f"exit status {process.returncode}, see {log}"}
        result = json.loads(output.read_text())
        return result | {"memory_bytes": peak} if memory else result

    def kill(self, contestant: str, workload: w.Workload) -> dict:
        """What a SIGKILL in mid-epoch leaves."""
        output = self.root / "outputs" / f"{workload.name}-{contestant}-kill.json"
        ready = self.state_file(contestant, workload).with_suffix(".ready")
        for old in (output, ready):
            old.unlink(missing_ok=True)
        command = self.command("linger", contestant, workload, output.with_suffix(".unused"), pinned=True)
        command[command.index("--state") + 1] = str(ready)
        watch = [str(self.target(contestant, workload)), str(self.scratch(contestant))]
        supervisor = [sys.executable, str(HERE / "killed.py"), "--output", str(output), "--ready", str(ready)]
        supervisor += ["--private"] if self.private else []
        supervisor += ["--watch", *watch, "--", *command]
        return self.wait((NAMESPACES if self.private else []) + supervisor, contestant, output,
                         self.arguments.timeout, memory=False)


def interpreters(pairs: list[str]) -> dict[str, str]:
    """NAME=PATH options and RIVALS_PYTHON_<NAME> variables; the rest run under this interpreter."""
    found = {}
    for name in ORDER:
        path = os.environ.get(f"RIVALS_PYTHON_{name.upper()}")
        if path:
            found[name] = path
    for pair in pairs:
        name, _, path = pair.partition("=")
        if name not in ORDER or not path:
            raise SystemExit(f"--python {pair}: NAME=PATH is due, with a name of {', '.join(ORDER)}")
        found[name] = path
    return found


def isolated(command: list[str]) -> list[str]:
    """The command with a /dev/shm and process numbers of its own: whatever it leaves there ends with it."""
    return [*NAMESPACES, "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh", *command]


def can_isolate() -> bool:
    """Whether this system lets us have a /dev/shm and process numbers of our own."""
    if shutil.which("unshare") is None:
        return False
    probe = [*NAMESPACES, "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def tree_memory_bytes(pid: int) -> int:
    """Memory of a process tree that the kernel cannot drop: anonymous and shared memory, each page counted once.

    Mapped files are left out: they are the page cache, which every contestant shares. Without smaps_rollup (other
    systems than Linux) it is the resident size, which is more.
    """
    import psutil

    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in tree:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
        except FileNotFoundError:
            try:
                total += process.memory_info().rss if not sys.platform.startswith("linux") else 0
            except psutil.NoSuchProcess:
                continue
        except (PermissionError, ProcessLookupError):
            continue
    return total


def prepare(bench: Bench, contestant: str, workload: w.Workload) -> str | None:
    """Converts the data unless that is done already; the reason if it cannot be."""
    target = bench.target(contestant, workload)
    facts = target.with_name(f"{contestant}.prepared.json")
    if facts.exists() and w.read_facts(facts).get("samples") == workload.samples:
        return None
    facts.unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    result = bench.act("prepare", contestant, workload)
    if "error" in result:
        return result["error"]
    facts.write_text(json.dumps(result | {"samples": workload.samples}))
    return None


def run_workload(bench: Bench, workload: w.Workload, described: dict[str, dict]) -> list[dict]:
    """All contestants on one workload: correctness, memory, kills, resume, then the timed rounds on a warm page cache."""
    results = {}
    for name, facts in described.items():
        result = {"contestant": name, "workload": workload.name, "samples": workload.samples, "cores": workload.cores}
        results[name] = result | {"versions": facts.get("versions"), "settings": facts.get("settings", {}).get(workload.name)}
        if "error" in facts:
            results[name]["error"] = facts["error"]
        elif workload.name not in facts["settings"]:
            results[name]["error"] = "does not take part in this workload"
    able = [name for name in results if "error" not in results[name]]
    # Forebay reads the very tars of WebDataset, so those are made first.
    for name in sorted(able, key=lambda name: name == "forebay"):
        say(f"{workload.name}: {name} prepares")
        reason = prepare(bench, WEBDATASET, workload) if name == "forebay" and workload.name != w.TOKENS else None
        reason = reason or prepare(bench, name, workload)
        if reason:
            results[name]["error"] = f"prepare: {reason}"
            able.remove(name)
    # Nothing is timed here, so two may run at once.
    with ThreadPoolExecutor(UNTIMED_AT_ONCE) as pool:
        list(pool.map(lambda name: examine(bench, name, workload, results[name]), able))
    able = [name for name in able if "error" not in results[name]]
    for name in able:
        say(f"{workload.name}: {name} resumes")
        resume(bench, name, workload, described[name]["resume"], results[name])
    rounds = {name: [] for name in able}
    for number in range(bench.arguments.rounds):
        for name in able:
            say(f"{workload.name}: round {number + 1}, {name}")
            rounds[name].append(bench.act("measure", name, workload))
    floors = rounds.get(FLOOR, [])
    for name in able:
        summarize(results[name], rounds[name], floors)
    return list(results.values())


def examine(bench: Bench, name: str, workload: w.Workload, result: dict) -> None:
    """One checked epoch with its memory, and a kill."""
    say(f"{workload.name}: {name} delivers an epoch and is killed")
    result["check"] = bench.act("check", name, workload, memory=True)
    if "error" in result["check"]:
        result["error"] = f"check: {result['check']['error']}"
        return
    result["memory_bytes"] = result["check"].pop("memory_bytes")
    if not bench.arguments.skip_kill:
        result["kill"] = bench.kill(name, workload)


def resume(bench: Bench, name: str, workload: w.Workload, kind: str, result: dict) -> None:
    """From the state that the checked epoch took half way, in fresh processes."""
    following = result["check"].pop("following") or []
    result["resume"] = {"kind": kind}
    if result["check"]["state_error"]:
        result["resume"]["error"] = result["check"]["state_error"]
        return
    tries = [bench.act("resume", name, workload) for _ in range(bench.arguments.resumes)]
    bad = next((t["error"] for t in tries if "error" in t), None)
    if bad:
        result["resume"]["error"] = bad
        return
    result["resume"]["seconds"] = statistics.median(t["resume_seconds"] for t in tries)
    result["resume"]["right"] = all(sorted(t["first"]) == sorted(following) for t in tries)


def summarize(result: dict, rounds: list[dict], floors: list[dict]) -> None:
    """Medians over the rounds, and the median of each round's ratio to its own floor."""
    good = [r for r in rounds if "error" not in r]
    result["rounds"] = rounds
    if not good:
        result["error"] = f"measure: {rounds[0]['error'] if rounds else 'no rounds'}"
        return
    for key in ("samples_per_second", "cpu_milliseconds_per_1000", "first_seconds", "import_seconds"):
        result[key] = statistics.median(r[key] for r in good)
    ratios = [
        mine["samples_per_second"] / floor["samples_per_second"]
        for mine, floor in zip(rounds, floors)
        if "error" not in mine and "error" not in floor
    ]
    result["ratio_to_floor"] = statistics.median(ratios) if ratios else None


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def machine() -> dict:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    ) if Path("/proc/cpuinfo").exists() else platform.processor()
    return {"cores": os.cpu_count(), "processor": model, "kernel": platform.release(), "load": os.getloadavg()[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="directory for data; several GiB")
    parser.add_argument("--size", choices=w.SIZES, default="small")
    parser.add_argument("--workloads", nargs="+", choices=w.NAMES, default=list(w.NAMES))
    parser.add_argument("--contestants", nargs="+", choices=ORDER, default=list(ORDER))
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="a contestant's interpreter")
    parser.add_argument("--photos", type=Path, help="JPEGs to cut images from, instead of the npm package")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--resumes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time a round, after the warm-up")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds a child may take")
    parser.add_argument("--json", type=Path, help="write the JSON lines here instead of below the tables")
    parser.add_argument("--skip-kill", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    names = [n for n in ORDER if n in arguments.contestants or n == FLOOR]
    bench = Bench(arguments)
    data.make(bench.source, arguments.size, arguments.photos, arguments.workloads)
    first = w.Workload(w.TOKENS, w.SIZES[arguments.size][w.TOKENS])
    described = {name: bench.act("describe", name, first) for name in names}
    lines = [json.dumps({"machine": machine(), "size": arguments.size, "rounds": arguments.rounds})]
    for name in arguments.workloads:
        workload = w.Workload(name, w.SIZES[arguments.size][name])
        results = run_workload(bench, workload, described)
        print(table.render(workload, results), flush=True)
        lines += [json.dumps(result) for result in results]
    if arguments.json:
        arguments.json.write_text("\n".join(lines) + "\n")
    else:
        print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
