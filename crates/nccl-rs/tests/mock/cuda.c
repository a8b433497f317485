/* CUDA's runtime for tests, compiled behind nccl.c, on whose streams it works. A GPU's memory is host memory that only copies
 * of the right kind may touch, and that must be freed once. Copies are carried out at once: nothing here runs on a stream but
 * NCCL's operations.
 */
#ifndef NCCL_HEADER /* which brings CUDA's own declarations */
#include <unistd.h>

#define GPUS 4

enum { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidDevice = 101, cudaErrorNotReady = 600,
       cudaErrorLaunchFailure = 719 };

struct allocation {
    struct allocation *next;
    char *start;
    size_t bytes;
};

static struct allocation *allocations;

const char *cudaGetErrorString(int error) {
    return error == 100 ? "mock: no CUDA-capable device is detected" : "mock: some error";
}

int cudaGetDeviceCount(int *count) {
    *count = GPUS;
    return fails("cudaGetDeviceCount") ? fail_result : cudaSuccess;
}

int cudaSetDevice(int device) {
    note("cudaSetDevice %d", device);
    return device >= 0 && device < GPUS ? cudaSuccess : cudaErrorInvalidDevice;
}

int cudaMalloc(void **address, size_t bytes) {
    note("cudaMalloc %zu", bytes);
    if (fails("cudaMalloc")) return fail_result;
    struct allocation *new = malloc(sizeof *new);
    if (posix_memalign((void **)&new->start, 256, bytes) != 0) abort();
    new->bytes = bytes;
    pthread_mutex_lock(&lock);
    new->next = allocations;
    allocations = new;
    pthread_mutex_unlock(&lock);
    *address = new->start;
    return cudaSuccess;
}

int cudaFree(void *address) {
    if (!address) return cudaSuccess;
    pthread_mutex_lock(&lock);
    struct allocation **link = &allocations;
    while (*link && (*link)->start != address) link = &(*link)->next;
    if (!*link) abort();
    struct allocation *old = *link;
    *link = old->next;
    pthread_mutex_unlock(&lock);
    free(old->start);
    free(old);
    return cudaSuccess;
}

/* Whether all of these bytes are the GPU's. */
static int on_gpu(const void *start, size_t bytes) {
    const char *first = start;
    pthread_mutex_lock(&lock);
    struct allocation *known = allocations;
    while (known && !(first >= known->start && first + bytes <= known->start + known->bytes)) known = known->next;
    pthread_mutex_unlock(&lock);
    return known != NULL;
}

int cudaMemset(void *address, int value, size_t bytes) {
    if (!on_gpu(address, bytes)) return cudaErrorInvalidValue;
    memset(address, value, bytes);
    return cudaSuccess;
}

int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    note("cudaMemcpyAsync bytes=%zu kind=%d stream=%llx", bytes, kind, ADDRESS(stream));
    if (fails("cudaMemcpyAsync")) return fail_result;
    int to_gpu = kind == 1, from_gpu = kind == 2;
    if (on_gpu(to, bytes) != to_gpu || on_gpu(from, bytes) != from_gpu) return cudaErrorInvalidValue;
    memcpy(to, from, bytes);
    return cudaSuccess;
}

int cudaStreamCreateWithFlags(void **stream, unsigned int flags) {
    note("cudaStreamCreateWithFlags %u", flags);
    *stream = calloc(1, sizeof(struct stream));
    return fails("cudaStreamCreateWithFlags") ? fail_result : cudaSuccess;
}

int cudaStreamDestroy(void *stream) {
    free(stream);
    return cudaSuccess;
}

/* No function of this file calls another one by a name that a process with the real runtime has too. */
static int state_of(void *stream) {
    pthread_mutex_lock(&lock);
    struct stream *own = stream_of(stream);
    int state = own->broken ? cudaErrorLaunchFailure : own->pending ? cudaErrorNotReady : cudaSuccess;
    pthread_mutex_unlock(&lock);
    return state;
}

int cudaStreamQuery(void *stream) { return state_of(stream); }

int cudaStreamSynchronize(void *stream) {
    int state = state_of(stream);
    for (; state == cudaErrorNotReady; state = state_of(stream)) usleep(100);
    return state;
}
#endif
