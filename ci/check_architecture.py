#!/usr/bin/env python3
"""Keeps the arrows between crates and the invariants of absence that ARCHITECTURE.md states.

Reads the workspace's manifests and sources, nothing else. Prints every breach; exits 1 if any.
"""

import re
import sys
import tomllib
from pathlib import Path

# The house: each crate, and the crates of ours it may name. Order is dependency order.
ARROWS: dict[str, set[str]] = {
    "types": set(),
    "runtime": {"types"},
    "dialect": {"types"},
    "image": {"types"},
    "format": {"types"},
    "lake": {"types", "runtime"},
    "local": {"types", "runtime"},
    "transfer": {"types", "runtime", "format", "lake", "local"},
    "prepare": {"types", "runtime", "format", "lake", "local", "transfer"},
    "index": {"types", "runtime", "format", "dialect", "lake", "local", "transfer"},
    "feed": {"types", "runtime", "format", "dialect", "image", "lake", "local", "transfer"},
    "checkpoint": {"types", "runtime", "format", "lake", "local", "transfer"},
    "journal": {"types", "runtime", "format", "lake"},
    "evaluate": {
        "types", "runtime", "format", "lake", "local", "transfer", "feed", "checkpoint", "journal",
    },
    "archive": {"types", "runtime", "format", "lake", "local", "transfer", "journal"},
    "forebay": {
        "types", "runtime", "format", "lake", "local", "transfer", "prepare", "index", "feed",
        "checkpoint", "journal", "evaluate", "archive",
    },
    "trainer": {"forebay"},
    "cli": {"forebay", "trainer"},
    "python": {"forebay"},
    "testing": {"types", "runtime", "format", "lake", "local", "transfer"},
    "bench": {
        "types", "runtime", "format", "dialect", "image", "lake", "local", "transfer", "prepare",
        "index", "feed", "checkpoint", "forebay", "testing",
    },
}  # fmt: skip

# What a crate's own code (tests apart) must not mention, and why.
ABSENT: list[tuple[str, str, str]] = [
    ("format", r"\bstd::(fs|net|thread|time)\b", "format does no I/O, starts no thread, knows no clock"),
    ("format", r"\basync\b", "format is not asynchronous"),
    ("dialect", r"\bstd::(fs|net|thread|time)\b", "dialects are read from memory: no I/O, no clock"),
    ("image", r"\bstd::(fs|net|thread|time)\b", "images are made from memory: no I/O, no clock"),
    ("types", r"\bstd::(fs|net|thread|time|process)\b", "types are plain values"),
    ("lake", r"\bforebay_local\b", "lake and local tier never name each other"),
    ("local", r"\bforebay_lake\b", "lake and local tier never name each other"),
]

# Nobody stores executable objects.
ABSENT_EVERYWHERE: list[tuple[str, str]] = [
    (r"\bserde_pickle\b|\bpickle::", "no pickle, ever"),
]


def crate_of(dependency: str) -> str | None:
    if dependency == "forebay":
        return "forebay"
    return dependency.removeprefix("forebay-") if dependency.startswith("forebay-") else None


def code_of(text: str) -> str:
    """The source without comments and without its test module."""
    text = re.split(r"^#\[cfg\(test\)\]\nmod ", text, maxsplit=1, flags=re.MULTILINE)[0]
    return re.sub(r"//.*", "", text)


def breaches_of_manifest(crate: str, manifest: dict) -> list[str]:
    found = []
    allowed = ARROWS[crate]
    for dependency in manifest.get("dependencies", {}):
        name = crate_of(dependency)
        if name is not None and name not in allowed:
            found.append(f"crates/{crate} must not depend on crates/{name}")
    for dependency in manifest.get("dev-dependencies", {}):
        name = crate_of(dependency)
        outsider = crate in ("trainer", "cli")
        if name is not None and name not in allowed | {"testing", crate} and outsider:
            found.append(f"the tests of crates/{crate} must not depend on crates/{name}")
    return found


def breaches_of_source(crate: str, path: str, text: str) -> list[str]:
    code = code_of(text)
    rules = [(pattern, why) for name, pattern, why in ABSENT if name == crate]
    return [
        f"{path}: `{match.group()}`: {why}"
        for pattern, why in rules + ABSENT_EVERYWHERE
        if (match := re.search(pattern, code))
    ]


def check(root: Path) -> list[str]:
    workspace = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]
    members = [Path(member).name for member in workspace["members"]]
    found = [f"crates/{name} has no place in the house" for name in members if name not in ARROWS]
    seen: set[str] = set()
    for crate in (name for name in members if name in ARROWS):
        folder = root / "crates" / crate
        manifest = tomllib.loads((folder / "Cargo.toml").read_text())
        found += breaches_of_manifest(crate, manifest)
        for dependency in manifest.get("dependencies", {}):
            name = crate_of(dependency)
            if name in ARROWS and name not in seen:
                found.append(f"crates/{crate} is listed before crates/{name}, which it depends on")
        seen.add(crate)
        for source in sorted((folder / "src").rglob("*.rs")):
            found += breaches_of_source(crate, str(source.relative_to(root)), source.read_text())
    return found


def self_test() -> None:
    """A check that cannot fail is a defect: show that each rule catches its breach."""
    assert breaches_of_manifest("lake", {"dependencies": {"forebay-local": {}}})
    assert breaches_of_manifest("feed", {"dependencies": {"forebay-checkpoint": {}}})
    assert breaches_of_manifest("cli", {"dependencies": {"forebay-lake": {}}})
    assert breaches_of_manifest("trainer", {"dev-dependencies": {"forebay-lake": {}}})
    assert not breaches_of_manifest("feed", {"dev-dependencies": {"forebay-testing": {}}})
    assert breaches_of_source("format", "x.rs", "use std::fs;")
    assert not breaches_of_source("format", "x.rs", "// std::fs\n#[cfg(test)]\nmod t { use std::fs; }")
    assert breaches_of_source("cli", "x.rs", "serde_pickle::to_vec")


def main() -> int:
    if "--self-test" in sys.argv:
        self_test()
        return 0
    found = check(Path(__file__).resolve().parent.parent)
    for breach in found:
        print(breach, file=sys.stderr)
    if not found:
        print("the arrows hold")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
