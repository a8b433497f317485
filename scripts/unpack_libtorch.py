#!/usr/bin/env python3
"""Unpack libtorch's CPU part out of Python wheels: unpack_libtorch.py WHEELS_FOLDER OUT_FOLDER

OUT_FOLDER gets lib/, include/, licenses/ and build-version, the layout that torch-sys and cc look for.
Standard library only.
"""

import pathlib
import shutil
import sys
import zipfile

VERSION = "2.11.0"
# libtorch_cpu needs the two NVIDIA libraries to load; nothing of CUDA is used on a machine without a GPU.
LIBRARIES = {
    f"torch-{VERSION}-*.whl": [
        "torch/lib/libtorch.so",
        "torch/lib/libtorch_cpu.so",
        "torch/lib/libc10.so",
        "torch/lib/libgomp.so.1",
    ],
    "nvidia_cuda_runtime-13.0.*.whl": ["nvidia/cu13/lib/libcudart.so.13"],
    "nvidia_cuda_cupti-13.0.*.whl": ["nvidia/cu13/lib/libcupti.so.13"],
}


def copy_member(wheel: zipfile.ZipFile, member: str, target: pathlib.Path) -> int:
    """Writes one file of the wheel; returns its size in bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with wheel.open(member) as source, open(target, "wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    return wheel.getinfo(member).file_size


def unpack(wheels: pathlib.Path, out: pathlib.Path) -> None:
    for pattern, libraries in LIBRARIES.items():
        found = sorted(wheels.glob(pattern))
        if len(found) != 1:
            sys.exit(f"unpack_libtorch: expected one {pattern} in {wheels}, found {len(found)}")
        with zipfile.ZipFile(found[0]) as wheel:
            for member in libraries:
                name = member.rsplit("/", 1)[1]
                size = copy_member(wheel, member, out / "lib" / name)
                print(f"  lib/{name}  {size / 1e6:.1f} MB", file=sys.stderr)
            headers = [m for m in wheel.namelist() if m.startswith("torch/include/") and not m.endswith("/")]
            size = sum(copy_member(wheel, m, out / m.removeprefix("torch/")) for m in headers)
            if headers:
                print(f"  include/  {len(headers)} files, {size / 1e6:.1f} MB", file=sys.stderr)
            for member in wheel.namelist():
                if ".dist-info/" in member and pathlib.PurePath(member).name.upper().startswith(("LICENSE", "NOTICE", "COPYING")):
                    folder = member.split("-", 1)[0]
                    copy_member(wheel, member, out / "licenses" / folder / pathlib.PurePath(member).name)
    (out / "build-version").write_text(VERSION + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    unpack(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
