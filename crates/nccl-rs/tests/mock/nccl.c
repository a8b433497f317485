/* A libnccl.so.2 for tests: communicators between threads of one process, collectives in host memory, and calls that fail,
 * linger or hang when a test says so. Compiled by tests/common/mod.rs; with NCCL_HEADER defined against NVIDIA's header,
 * so that the compiler compares every declaration.
 *
 * As in NCCL an operation is enqueued and carried out later: when the last rank has enqueued its part. A stream counts
 * the operations that it has not passed yet. One mutex guards everything.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef NCCL_HEADER
#include "nccl.h"
#define RESULT ncclResult_t
#define TYPE ncclDataType_t
#define OPERATOR ncclRedOp_t
#define RESIDENCE ncclScalarResidence_t
#define STREAM cudaStream_t
#else
typedef struct ncclComm *ncclComm_t;
typedef struct {
    char internal[128];
} ncclUniqueId;
/* As far as 2.18 has it; later versions only append. */
typedef struct {
    size_t size;
    unsigned int magic;
    unsigned int version;
    int blocking;
    int cgaClusterSize;
    int minCTAs;
    int maxCTAs;
    const char *netName;
    int splitShare;
} ncclConfig_t;
#define RESULT int
#define TYPE int
#define OPERATOR int
#define RESIDENCE int
#define STREAM void *
enum { ncclSuccess, ncclUnhandledCudaError, ncclSystemError, ncclInternalError, ncclInvalidArgument, ncclInvalidUsage,
       ncclRemoteError, ncclInProgress };
#endif

#ifndef MOCK_VERSION
#define MOCK_VERSION 22809
#endif

#define MAX_RANKS 16
#define MAX_OPERATORS 8
#define FIRST_OPERATOR 5

enum kind { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, BROADCAST, SPLIT, FINALIZE, SEND, RECV };

/* A stream of the mock; a null stream is one of these too. */
struct stream {
    int pending;
    int broken;
};

struct op {
    struct op *next;
    enum kind kind;
    const void *send;
    void *recv;
    size_t count;
    int type;
    int operator;
    int peer; /* or root, or color */
    int key;
    ncclComm_t *slot;
    struct stream *stream;
};

struct clique {
    struct clique *next;
    ncclUniqueId id;
    int ranks;
    int joined;
    int gone; /* 1 + the rank that was aborted first, 0 if none was */
    ncclComm_t members[MAX_RANKS];
};

struct ncclComm {
    struct ncclComm *next; /* of all live communicators */
    struct clique *clique;
    int rank;
    int lingering; /* looks until what goes on in the background is through; negative: never */
    int ready;     /* all ranks have come */
    int waiting;   /* for a split or finalize */
    int finalized;
    double factors[MAX_OPERATORS];
    int used[MAX_OPERATORS];
    struct op *collectives;
    struct op *messages;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct clique *cliques;
static struct ncclComm *live;
static struct stream default_stream;
static unsigned long next_id;

/* What a test asks of the calls of its thread, and what its last failure said. */
static _Thread_local char last_error[256];
static _Thread_local char fail_function[64];
static _Thread_local int fail_result;
static _Thread_local int linger;
static _Thread_local int group_depth;
static _Thread_local struct op *group_ops;
static _Thread_local ncclComm_t group_comms[256];
static _Thread_local int group_len;
/* The calls of the thread, a line each; those that nobody asks for are forgotten when there is no room for more. */
static _Thread_local char calls[1 << 16];
static _Thread_local size_t calls_len;

static void note(const char *format, ...) {
    enum { LONGEST_LINE = 512 };
    if (sizeof calls - calls_len < LONGEST_LINE) calls_len = 0;
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(calls + calls_len, LONGEST_LINE, format, arguments);
    va_end(arguments);
    if (len < 0 || len + 2 > LONGEST_LINE) abort();
    calls_len += (size_t)len;
    calls[calls_len++] = '\n';
    calls[calls_len] = 0;
}

#define ADDRESS(pointer) ((unsigned long long)(uintptr_t)(pointer))

/* Whether the test wants this call to fail; only once. */
static int fails(const char *function) {
    if (strcmp(fail_function, function) != 0) return 0;
    fail_function[0] = 0;
    snprintf(last_error, sizeof last_error, "the test made %s fail", function);
    return 1;
}

/* A communicator that was freed is a bug that no test may survive. */
static void must_live(ncclComm_t comm) {
    for (ncclComm_t known = live; known; known = known->next)
        if (known == comm) return;
    fprintf(stderr, "mock: a communicator was used after its end\n");
    abort();
}

static size_t size_of(int type) {
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    if (type < 0 || type > 9) abort();
    return sizes[type];
}

static double load(const void *values, size_t i, int type) {
    switch (type) {
    case 0: return ((const int8_t *)values)[i];
    case 1: return ((const uint8_t *)values)[i];
    case 2: return ((const int32_t *)values)[i];
    case 3: return ((const uint32_t *)values)[i];
    case 4: return (double)((const int64_t *)values)[i];
    case 5: return (double)((const uint64_t *)values)[i];
    case 7: return ((const float *)values)[i];
    case 8: return ((const double *)values)[i];
    default: abort();
    }
}

static void store(void *values, size_t i, int type, double value) {
    switch (type) {
    case 0: ((int8_t *)values)[i] = (int8_t)value; break;
    case 1: ((uint8_t *)values)[i] = (uint8_t)value; break;
    case 2: ((int32_t *)values)[i] = (int32_t)value; break;
    case 3: ((uint32_t *)values)[i] = (uint32_t)value; break;
    case 4: ((int64_t *)values)[i] = (int64_t)value; break;
    case 5: ((uint64_t *)values)[i] = (uint64_t)value; break;
    case 7: ((float *)values)[i] = (float)value; break;
    case 8: ((double *)values)[i] = value; break;
    default: abort();
    }
}

static double combine(int operator, double a, double b) {
    switch (operator) {
    case 1: return a * b;
    case 2: return a > b ? a : b;
    case 3: return a < b ? a : b;
    default: return a + b;
    }
}

/* Element i of the reduction over all members' present operation, in rank order. */
static double reduced(struct clique *clique, size_t i) {
    double sum = 0;
    for (int rank = 0; rank < clique->ranks; rank++) {
        ncclComm_t comm = clique->members[rank];
        struct op *op = comm->collectives;
        double value = load(op->send, i, op->type);
        if (op->operator >= FIRST_OPERATOR) value *= comm->factors[op->operator - FIRST_OPERATOR];
        sum = rank == 0 ? value : combine(op->operator, sum, value);
    }
    return clique->members[0]->collectives->operator == 4 ? sum / clique->ranks : sum;
}

static ncclComm_t new_comm(struct clique *clique, int rank) {
    ncclComm_t comm = calloc(1, sizeof *comm);
    comm->clique = clique;
    comm->rank = rank;
    comm->next = live;
    live = comm;
    clique->members[rank] = comm;
    clique->joined++;
    return comm;
}

static struct clique *new_clique(ncclUniqueId id, int ranks) {
    struct clique *clique = calloc(1, sizeof *clique);
    clique->id = id;
    clique->ranks = ranks;
    clique->next = cliques;
    cliques = clique;
    return clique;
}

static ncclUniqueId new_id(void) {
    ncclUniqueId id;
    memset(&id, 0, sizeof id);
    snprintf(id.internal, sizeof id.internal, "mock-%lu", ++next_id);
    /* The last byte too must reach the other ranks. */
    id.internal[127] = (char)0xA5;
    return id;
}

static void split(struct clique *clique) {
    for (int first = 0; first < clique->ranks; first++) {
        int color = clique->members[first]->collectives->peer, seen = 0;
        for (int rank = 0; rank < first; rank++) seen |= clique->members[rank]->collectives->peer == color;
        if (color < 0 || seen) continue;
        int ranks = 0, order[MAX_RANKS];
        for (int rank = first; rank < clique->ranks; rank++) {
            if (clique->members[rank]->collectives->peer != color) continue;
            int key = clique->members[rank]->collectives->key, at = ranks++;
            while (at > 0 && clique->members[order[at - 1]]->collectives->key > key) {
                order[at] = order[at - 1];
                at--;
            }
            order[at] = rank;
        }
        struct clique *child = new_clique(new_id(), ranks);
        for (int rank = 0; rank < ranks; rank++) {
            ncclComm_t comm = new_comm(child, rank);
            comm->ready = 1;
            *clique->members[order[rank]]->collectives->slot = comm;
        }
    }
}

static void passed(struct op *op) {
    if (op->stream) op->stream->pending--;
    free(op);
}

/* Carries out the collective that all members have at the head, if there is one. */
static int collective(struct clique *clique) {
    struct op *first = NULL;
    for (int rank = 0; rank < clique->ranks; rank++) {
        ncclComm_t comm = clique->members[rank];
        if (!comm || !comm->collectives || comm->lingering < 0) return 0;
        struct op *op = comm->collectives;
        if (!first) first = op;
        if (op->kind != first->kind || op->count != first->count || op->type != first->type) return 0;
    }
    size_t size = first->kind < SPLIT ? size_of(first->type) : 0, bytes = first->count * size;
    int ranks = clique->ranks;
    size_t values = first->kind == REDUCE_SCATTER ? first->count * (size_t)ranks : first->count;
    double *sums = first->kind == ALL_REDUCE || first->kind == REDUCE_SCATTER ? malloc((values + 1) * sizeof *sums) : NULL;
    if (sums)
        for (size_t i = 0; i < values; i++) sums[i] = reduced(clique, i);
    char *all = first->kind == ALL_GATHER ? malloc(bytes * (size_t)ranks) : NULL;
    if (all)
        for (int rank = 0; rank < ranks; rank++)
            memcpy(all + (size_t)rank * bytes, clique->members[rank]->collectives->send, bytes);
    if (first->kind == SPLIT) split(clique);
    for (int rank = 0; rank < ranks; rank++) {
        ncclComm_t comm = clique->members[rank];
        struct op *op = comm->collectives;
        size_t start = op->kind == REDUCE_SCATTER ? (size_t)rank * op->count : 0;
        if (sums)
            for (size_t i = 0; i < op->count; i++) store(op->recv, i, op->type, sums[start + i]);
        if (all) memcpy(op->recv, all, bytes * (size_t)ranks);
        if (op->kind == BROADCAST) {
            const void *source = clique->members[op->peer]->collectives->send;
            if (source != op->recv) memcpy(op->recv, source, bytes);
        }
        if (op->kind == FINALIZE) comm->finalized = 1;
        if (op->kind >= SPLIT) comm->waiting = 0;
    }
    for (int rank = 0; rank < ranks; rank++) {
        struct op *op = clique->members[rank]->collectives;
        clique->members[rank]->collectives = op->next;
        passed(op);
    }
    free(sums);
    free(all);
    return 1;
}

static struct op **find(ncclComm_t comm, enum kind kind, int peer) {
    struct op **link = &comm->messages;
    while (*link && ((*link)->kind != kind || (*link)->peer != peer)) link = &(*link)->next;
    return link;
}

/* Carries out one pair of a send and the receive that it meets, if there is one. */
static int message(struct clique *clique) {
    for (int from = 0; from < clique->ranks; from++) {
        for (int to = 0; to < clique->ranks; to++) {
            ncclComm_t sender = clique->members[from], receiver = clique->members[to];
            if (!sender || !receiver || sender->lingering < 0 || receiver->lingering < 0) continue;
            struct op **send = find(sender, SEND, to), **recv = find(receiver, RECV, from);
            if (!*send || !*recv || (*send)->count != (*recv)->count || (*send)->type != (*recv)->type) continue;
            struct op *sent = *send;
            memcpy((*recv)->recv, sent->send, sent->count * size_of(sent->type));
            *send = sent->next;
            recv = find(receiver, RECV, from); /* the link may have been in what was just unlinked */
            struct op *received = *recv;
            *recv = received->next;
            passed(sent);
            passed(received);
            return 1;
        }
    }
    return 0;
}

static void progress(struct clique *clique) {
    if (clique->joined < clique->ranks) return;
    while (collective(clique) || message(clique)) {
    }
}

static void append(struct op **queue, struct op *op) {
    while (*queue) queue = &(*queue)->next;
    op->next = NULL;
    *queue = op;
}

/* Takes what the test has asked of this thread's next operation. */
static int takes_its_time(ncclComm_t comm) {
    comm->lingering = linger;
    linger = 0;
    return comm->lingering != 0 || comm->waiting || !comm->ready;
}

static RESULT enqueue(ncclComm_t comm, struct op op) {
    pthread_mutex_lock(&lock);
    must_live(comm);
    struct op *own = malloc(sizeof *own);
    *own = op;
    if (own->stream) own->stream->pending++;
    if (op.kind == SPLIT || op.kind == FINALIZE) comm->waiting = 1;
    if (group_depth > 0) {
        group_comms[group_len++] = comm;
        append(&group_ops, own);
        pthread_mutex_unlock(&lock);
        return ncclSuccess;
    }
    int later = takes_its_time(comm);
    append(op.kind < SEND ? &comm->collectives : &comm->messages, own);
    progress(comm->clique);
    pthread_mutex_unlock(&lock);
    return later ? ncclInProgress : ncclSuccess;
}

static struct stream *stream_of(const void *stream) {
    return stream ? (struct stream *)(uintptr_t)stream : &default_stream;
}

/* ---- the C interface of NCCL ---- */

RESULT ncclGetVersion(int *version) {
    *version = MOCK_VERSION;
    return ncclSuccess;
}

#ifndef MOCK_VERSION_ONLY

RESULT ncclGetUniqueId(ncclUniqueId *id) {
    if (fails("ncclGetUniqueId")) return fail_result;
    pthread_mutex_lock(&lock);
    *id = new_id();
    pthread_mutex_unlock(&lock);
    return ncclSuccess;
}

const char *ncclGetErrorString(RESULT result) {
    return result == ncclInvalidUsage ? "mock: invalid usage" : "mock: some failure";
}

const char *ncclGetLastError(ncclComm_t comm) {
    (void)comm;
    return last_error;
}

RESULT ncclCommInitRankConfig(ncclComm_t *slot, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config) {
    note("ncclCommInitRankConfig ranks=%d id=%.32s last=%02x rank=%d size=%zu magic=%x version=%u blocking=%d cga=%d "
         "min=%d max=%d net=%d share=%d",
         ranks, id.internal, (unsigned char)id.internal[127], rank, config->size, config->magic, config->version,
         config->blocking, config->cgaClusterSize, config->minCTAs, config->maxCTAs, config->netName != NULL,
         config->splitShare);
    if (fails("ncclCommInitRankConfig")) return fail_result;
    pthread_mutex_lock(&lock);
    struct clique *clique = cliques;
    while (clique && memcmp(&clique->id, &id, sizeof id) != 0) clique = clique->next;
    if (!clique) clique = new_clique(id, ranks);
    ncclComm_t comm = new_comm(clique, rank);
    comm->lingering = linger;
    linger = 0;
    *slot = comm;
    if (clique->joined == clique->ranks)
        for (int member = 0; member < clique->ranks; member++) clique->members[member]->ready = 1;
    pthread_mutex_unlock(&lock);
    return ncclInProgress;
}

RESULT ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *slot, ncclConfig_t *config) {
    note("ncclCommSplit color=%d key=%d blocking=%d", color, key, config->blocking);
    if (fails("ncclCommSplit")) return fail_result;
    struct op op = {.kind = SPLIT, .peer = color, .key = key, .slot = slot};
    return enqueue(comm, op);
}

RESULT ncclCommFinalize(ncclComm_t comm) {
    note("ncclCommFinalize");
    if (fails("ncclCommFinalize")) return fail_result;
    struct op op = {.kind = FINALIZE};
    return enqueue(comm, op);
}

static void forget(ncclComm_t comm) {
    ncclComm_t *link = &live;
    while (*link != comm) link = &(*link)->next;
    *link = comm->next;
    comm->clique->members[comm->rank] = NULL;
    for (struct op *op = comm->collectives, *next; op; op = next) {
        next = op->next;
        passed(op);
    }
    for (struct op *op = comm->messages, *next; op; op = next) {
        next = op->next;
        passed(op);
    }
    free(comm);
}

RESULT ncclCommDestroy(ncclComm_t comm) {
    note("ncclCommDestroy");
    pthread_mutex_lock(&lock);
    must_live(comm);
    if (!comm->finalized) abort();
    forget(comm);
    pthread_mutex_unlock(&lock);
    return fails("ncclCommDestroy") ? fail_result : ncclSuccess;
}

RESULT ncclCommAbort(ncclComm_t comm) {
    note("ncclCommAbort");
    pthread_mutex_lock(&lock);
    must_live(comm);
    struct clique *clique = comm->clique;
    int rank = comm->rank, finalized = comm->finalized;
    forget(comm);
    if (!finalized && !clique->gone) clique->gone = 1 + rank;
    pthread_mutex_unlock(&lock);
    return fails("ncclCommAbort") ? fail_result : ncclSuccess;
}

RESULT ncclCommGetAsyncError(ncclComm_t comm, RESULT *error) {
    if (fails("ncclCommGetAsyncError")) return fail_result;
    pthread_mutex_lock(&lock);
    must_live(comm);
    if (comm->lingering > 0) comm->lingering--;
    /* A rank that is gone is missed by those that have something with it. */
    if (comm->clique->gone && (comm->collectives || comm->messages || !comm->ready)) {
        snprintf(last_error, sizeof last_error, "rank %d is gone", comm->clique->gone - 1);
        *error = ncclRemoteError;
    } else {
        *error = comm->lingering != 0 || comm->waiting || !comm->ready ? ncclInProgress : ncclSuccess;
    }
    pthread_mutex_unlock(&lock);
    return ncclSuccess;
}

RESULT ncclCommCount(const ncclComm_t comm, int *count) {
    *count = comm->clique->ranks;
    return ncclSuccess;
}

RESULT ncclCommUserRank(const ncclComm_t comm, int *rank) {
    *rank = comm->rank;
    return ncclSuccess;
}

RESULT ncclAllReduce(const void *send, void *recv, size_t count, TYPE type, OPERATOR operator, ncclComm_t comm,
                     STREAM stream) {
    note("ncclAllReduce send=%llx recv=%llx count=%zu type=%d op=%d stream=%llx", ADDRESS(send), ADDRESS(recv), count,
         (int)type, (int)operator, ADDRESS(stream));
    if (fails("ncclAllReduce")) return fail_result;
    struct op op = {.kind = ALL_REDUCE, .send = send, .recv = recv, .count = count, .type = (int)type,
                    .operator = (int)operator, .stream = stream_of(stream)};
    return enqueue(comm, op);
}

RESULT ncclAllGather(const void *send, void *recv, size_t count, TYPE type, ncclComm_t comm, STREAM stream) {
    note("ncclAllGather send=%llx recv=%llx count=%zu type=%d stream=%llx", ADDRESS(send), ADDRESS(recv), count, (int)type,
         ADDRESS(stream));
    if (fails("ncclAllGather")) return fail_result;
    struct op op = {.kind = ALL_GATHER, .send = send, .recv = recv, .count = count, .type = (int)type,
                    .stream = stream_of(stream)};
    return enqueue(comm, op);
}

RESULT ncclReduceScatter(const void *send, void *recv, size_t count, TYPE type, OPERATOR operator, ncclComm_t comm,
                         STREAM stream) {
    note("ncclReduceScatter send=%llx recv=%llx count=%zu type=%d op=%d stream=%llx", ADDRESS(send), ADDRESS(recv), count,
         (int)type, (int)operator, ADDRESS(stream));
    if (fails("ncclReduceScatter")) return fail_result;
    struct op op = {.kind = REDUCE_SCATTER, .send = send, .recv = recv, .count = count, .type = (int)type,
                    .operator = (int)operator, .stream = stream_of(stream)};
    return enqueue(comm, op);
}

RESULT ncclBroadcast(const void *send, void *recv, size_t count, TYPE type, int root, ncclComm_t comm, STREAM stream) {
    note("ncclBroadcast send=%llx recv=%llx count=%zu type=%d root=%d stream=%llx", ADDRESS(send), ADDRESS(recv), count,
         (int)type, root, ADDRESS(stream));
    if (fails("ncclBroadcast")) return fail_result;
    struct op op = {.kind = BROADCAST, .send = send, .recv = recv, .count = count, .type = (int)type, .peer = root,
                    .stream = stream_of(stream)};
    return enqueue(comm, op);
}

RESULT ncclSend(const void *send, size_t count, TYPE type, int peer, ncclComm_t comm, STREAM stream) {
    note("ncclSend send=%llx count=%zu type=%d peer=%d stream=%llx", ADDRESS(send), count, (int)type, peer, ADDRESS(stream));
    if (fails("ncclSend")) return fail_result;
    struct op op = {.kind = SEND, .send = send, .count = count, .type = (int)type, .peer = peer,
                    .stream = stream_of(stream)};
    return enqueue(comm, op);
}

RESULT ncclRecv(void *recv, size_t count, TYPE type, int peer, ncclComm_t comm, STREAM stream) {
    note("ncclRecv recv=%llx count=%zu type=%d peer=%d stream=%llx", ADDRESS(recv), count, (int)type, peer, ADDRESS(stream));
    if (fails("ncclRecv")) return fail_result;
    struct op op = {.kind = RECV, .recv = recv, .count = count, .type = (int)type, .peer = peer,
                    .stream = stream_of(stream)};
    return enqueue(comm, op);
}

RESULT ncclGroupStart(void) {
    note("ncclGroupStart");
    if (fails("ncclGroupStart")) return fail_result;
    group_depth++;
    return ncclSuccess;
}

RESULT ncclGroupEnd(void) {
    note("ncclGroupEnd");
    if (--group_depth < 0) abort();
    int failed = fails("ncclGroupEnd"), later = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < group_len; i++) {
        ncclComm_t comm = group_comms[i];
        must_live(comm);
        struct op *op = group_ops;
        group_ops = op->next;
        if (failed) {
            passed(op);
            continue;
        }
        if (linger) later |= takes_its_time(comm);
        append(op->kind < SEND ? &comm->collectives : &comm->messages, op);
    }
    for (int i = 0; i < group_len; i++) progress(group_comms[i]->clique);
    group_len = 0;
    pthread_mutex_unlock(&lock);
    return failed ? fail_result : later ? ncclInProgress : ncclSuccess;
}

RESULT ncclRedOpCreatePreMulSum(OPERATOR *operator, void *scalar, TYPE type, RESIDENCE residence, ncclComm_t comm) {
    double factor = load(scalar, 0, (int)type);
    note("ncclRedOpCreatePreMulSum factor=%g type=%d residence=%d", factor, (int)type, (int)residence);
    if (fails("ncclRedOpCreatePreMulSum")) return fail_result;
    pthread_mutex_lock(&lock);
    must_live(comm);
    int own = 0;
    while (own < MAX_OPERATORS && comm->used[own]) own++;
    if (own == MAX_OPERATORS) abort();
    comm->used[own] = 1;
    comm->factors[own] = factor;
    *operator = (OPERATOR)(FIRST_OPERATOR + own);
    pthread_mutex_unlock(&lock);
    return ncclSuccess;
}

RESULT ncclRedOpDestroy(OPERATOR operator, ncclComm_t comm) {
    note("ncclRedOpDestroy op=%d", (int)operator);
    pthread_mutex_lock(&lock);
    must_live(comm);
    comm->used[(int)operator - FIRST_OPERATOR] = 0;
    pthread_mutex_unlock(&lock);
    return fails("ncclRedOpDestroy") ? fail_result : ncclSuccess;
}

#endif

/* ---- what only tests call ---- */

/* The thread's next call of `function` fails with `result`. */
void mock_fail(const char *function, int result) {
    snprintf(fail_function, sizeof fail_function, "%s", function);
    fail_result = result;
}

/* The thread's next operation is in progress for so many looks; for ever, and never carried out, if negative. */
void mock_linger(int looks) { linger = looks; }

/* The thread's calls since it last asked. */
const char *mock_calls(void) {
    static _Thread_local char taken[sizeof calls];
    memcpy(taken, calls, calls_len + 1);
    calls_len = 0;
    calls[0] = 0;
    return taken;
}

void *mock_stream_new(void) { return calloc(1, sizeof(struct stream)); }

/* Operations that the stream has not passed; negative once it has broken. */
int mock_stream_pending(void *stream) {
    pthread_mutex_lock(&lock);
    int pending = ((struct stream *)stream)->broken ? -1 : ((struct stream *)stream)->pending;
    pthread_mutex_unlock(&lock);
    return pending;
}

void mock_stream_break(void *stream) {
    pthread_mutex_lock(&lock);
    ((struct stream *)stream)->broken = 1;
    pthread_mutex_unlock(&lock);
}
