// Times MPI_Allreduce of floats, as a program in C would call it. Usage: mpiexec -n 2 mpi_allreduce BYTES...
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (int i = 1; i < argc; i++) {
        const long bytes = atol(argv[i]), rounds = 8 + 200000000 / (bytes + 100000);
        float *values = calloc(1, bytes);
        double *seconds = malloc(rounds * sizeof *seconds);
        for (long round = -rounds / 4; round < rounds; round++) {
            const double began = MPI_Wtime();
            MPI_Allreduce(MPI_IN_PLACE, values, bytes / sizeof *values, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
            if (round >= 0) seconds[round] = MPI_Wtime() - began;
        }
        qsort(seconds, rounds, sizeof *seconds, by_size);
        if (rank == 0) printf("%ld %.9f\n", bytes, seconds[rounds / 2]);
        free(values);
        free(seconds);
    }
    MPI_Finalize();
}
