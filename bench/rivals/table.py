"""The Markdown table of one workload. What is missing is a dash, what went wrong is said in words."""

from __future__ import annotations

import workloads as w

COLUMNS = (
    "contestant", "samples/s a core", "of the floor", "CPU ms a 1000", "first batch", "import", "resume at 50 %",
    "memory", "exactly once", "shuffle", "after SIGKILL",
)
MIB = 1 << 20


def render(workload: w.Workload, results: list[dict]) -> str:
    """Table, then the settings of each contestant and the reasons of those that are not in it."""
    lines = [f"### {workload.name}: {workload.samples} samples, {workload.cores} core(s), "
             f"{workload.workers} worker(s)", "", row(COLUMNS), row(["---"] * len(COLUMNS))]
    shown = [result for result in results if "error" not in result]
    shown.sort(key=lambda result: -result["samples_per_second"])
    lines += [row(cells(result)) for result in shown]
    lines.append("")
    lines += [f"- {result['contestant']} ({versions(result)}): {result['settings']}" for result in shown]
    lines += [f"- {r['contestant']}: skipped, {r['error']}" for r in results if "error" in r]
    return "\n".join(lines) + "\n"


def row(values) -> str:
    return "| " + " | ".join(values) + " |"


def cells(result: dict) -> list[str]:
    ratio, memory = result.get("ratio_to_floor"), result.get("memory_bytes")
    return [
        result["contestant"],
        number(result["samples_per_second"] / result["cores"]),
        "-" if ratio is None else f"{ratio:.3g}",
        number(result["cpu_milliseconds_per_1000"]),
        seconds(result["first_seconds"]),
        seconds(result["import_seconds"]),
        resume(result["resume"]),
        "-" if not memory else f"{memory / MIB:.0f} MiB",
        once(result["check"]),
        f"{result['check']['shuffle']:.2f}",
        leftovers(result.get("kill")),
    ]


def number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.2f} s"


def versions(result: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in (result["versions"] or {}).items())


def resume(result: dict) -> str:
    if "error" in result:
        return f"fails: {result['error'][:60]}"
    words = f"{seconds(result['seconds'])} ({result['kind']})"
    return words if result["right"] else f"{words}, wrong batch"


def once(check: dict) -> str:
    faults = [f"{check[key]} {key}" for key in ("missing", "repeated", "foreign") if check[key]]
    return ", ".join(faults) if faults else "yes"


def leftovers(kill: dict | None) -> str:
    if kill is None:
        return "-"
    if "error" in kill:
        return kill["error"]
    left = []
    if kill["processes"]:
        left.append(f"{kill['processes']} of {kill['processes_before'] - 1} workers")
    if kill["shared_memory"]:
        left.append(f"{kill['shared_memory']} in /dev/shm ({kill['shared_memory_bytes'] / MIB:.1f} MiB)")
    if kill["files"]:
        left.append(f"{len(kill['files'])} files ({', '.join(kill['files'][:3])})")
    return "; ".join(left) if left else "nothing"
