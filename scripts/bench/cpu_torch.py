"""Make the torch of this Python importable without CUDA: cpu_torch.py

The package registry carries only a build for CUDA on Linux, whose import loads three gigabytes of NVIDIA's libraries. They
would count in PyTorch's memory and start, and compute nothing here. What libtorch_python wants of them is replaced by
stand-ins that are never called, so that PyTorch is what its own build for CPUs is: libtorch_cpu stays as it came. Needs
g++ and nm.
"""

import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile

# Of this size, and only for GPUs.
UNUSED = ["libtorch_cuda.so", "libtorch_cuda_linalg.so", "libtorch_nvshmem.so"]
# Stand-ins, and the names that go into each; the last one takes the rest.
LIBRARIES = [("libcudnn.so.9", r"cudnn"), ("libcufile.so.0", r"cuFile"), ("libtorch_cuda.so", r"_Z")]


def symbols(library: pathlib.Path, which: str) -> set:
    """Dynamic symbols; weak ones that are undefined may stay so."""
    lines = subprocess.run(["nm", "-D", which, library], check=True, capture_output=True, text=True).stdout.splitlines()
    fields = [line.split()[-2:] for line in lines]
    return {name.split("@")[0] for kind, name in fields if kind not in "wv"}


def stand_in(names: list) -> str:
    """Assembler: functions that return the address of zeros, types without a base, tables of such functions."""
    text = [".text", "nothing: lea zeros(%rip), %rax", "ret"]
    data = ['.section .data.rel.ro,"aw"', ".balign 16"]
    for name in names:
        text.append(f".globl {name}")
        if name.startswith("_ZTI"):
            data += [f'.section .rodata\nname_of{name}: .asciz "{name[4:]}"', '.section .data.rel.ro,"aw"']
            data.append(f"{name}: .quad _ZTVN10__cxxabiv117__class_type_infoE + 16, name_of{name}")
        elif name.startswith("_ZTV"):
            data += [f"{name}: .quad 0, 0", ".rept 64", ".quad nothing", ".endr"]
        else:
            text += [f".type {name}, @function", f".set {name}, nothing"]
    # Whole pages: the low byte of their address is 0, which a caller may take for `false`.
    zeros = [".bss", ".balign 4096", "zeros: .skip 4096", '.section .note.GNU-stack,"",@progbits', ""]
    return "\n".join(text + data + zeros)


def link(folder: pathlib.Path, library: str, names: list) -> None:
    with tempfile.TemporaryDirectory() as work:
        source, versions = pathlib.Path(work, "stand_in.s"), pathlib.Path(work, "versions")
        source.write_text(stand_in(names), encoding="ascii")
        # NVIDIA's libraries carry one version, named like the file.
        versions.write_text(f"{library} {{ global: *; }};\n", encoding="ascii")
        versioned = [] if library.startswith("libtorch") else [f"-Wl,--version-script={versions}"]
        command = ["g++", "-shared", "-nostartfiles", f"-Wl,-soname,{library}", *versioned]
        subprocess.run([*command, "-o", folder / library, source, "-lstdc++"], check=True)


def main() -> None:
    folder = pathlib.Path(importlib.util.find_spec("torch").origin).parent / "lib"
    wanted = symbols(folder / "libtorch_python.so", "--undefined-only")
    own = ["libtorch_cpu.so", "libc10.so", "libc10_cuda.so", "libshm.so", "libtorch.so"]
    system = subprocess.run(["ldd", folder / "libc10.so"], check=True, capture_output=True, text=True).stdout
    system = [pathlib.Path(path) for path in re.findall(r"(/\S+\.so\S*) \(", system)]
    for library in [folder / name for name in own] + system:
        wanted -= symbols(library, "--defined-only")
    for name in UNUSED:
        (folder / name).unlink(missing_ok=True)
    for library, pattern in LIBRARIES:
        names = sorted(name for name in wanted if re.match(pattern, name))
        link(folder, library, names)
        print(f"cpu_torch: {library} stands in with {len(names)} names", file=sys.stderr)


if __name__ == "__main__":
    main()
