"""Sums over MPI by two programs that print bytes and seconds, taking turns: `mpi.py C_PROGRAM ENGINE_PROGRAM`."""

import os
import statistics
import subprocess
import sys

SIZES = [1 << 10, 10 << 10, 100 << 10, 1 << 20, 10 << 20, 100 << 20]
ROUNDS = 5
# Open MPI as root, as in a container, and on few cores; MPICH does not read these.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
}


def measure(program):
    command = [os.environ.get("MPIEXEC", "mpiexec"), "-n", "2", program, *map(str, SIZES)]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | OPEN_MPI).stdout
    return {int(size): float(seconds) for size, seconds in (line.split() for line in text.splitlines())}


programs = sys.argv[1:3]
times = {program: [] for program in programs}
for _ in range(ROUNDS):
    for program in programs:
        times[program].append(measure(program))
for size in SIZES:
    plain, engine = (statistics.median(run[size] for run in times[program]) for program in programs)
    print(
        f"       {size / 1024:9.0f} KiB: MPI_Allreduce {plain * 1e6:10.1f} us, engine {engine * 1e6:10.1f} us, "
        f"ratio {engine / plain:.2f} (reported only)"
    )
