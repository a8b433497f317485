// The C face of torch_ext.cpp. Every function that can fail returns nullptr on success, or a message on the C
// heap that the caller gives back to te_free. No exception crosses this line.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {
struct te_store;
struct te_gloo;

void te_free(char* message);

// listen_fd >= 0: serve on that bound socket, which is taken over; -1: connect to host:port.
char* te_store_new(const char* host, uint16_t port, int listen_fd, size_t world_size, int64_t timeout_ms, te_store** out);
void te_store_delete(te_store* store);

char* te_gloo_new(te_store* store, int rank, int world_size, const char* host, int64_t timeout_ms, te_gloo** out);
void te_gloo_delete(te_gloo* group);

// Tensors are at::Tensor*, borrowed; shapes, kinds and counts were checked by the caller.
char* te_gloo_all_reduce_sum(te_gloo* group, void* tensor);
char* te_gloo_all_to_all_v(te_gloo* group, void* send, const int64_t* send_counts, void* recv, const int64_t* recv_counts, size_t ranks);
char* te_gloo_all_gather(te_gloo* group, void* send, void* recv);
char* te_gloo_broadcast(te_gloo* group, void* tensor, int root);
char* te_gloo_barrier(te_gloo* group);

// Makes `parameter` a view of `value` and its .grad the tensor `gradient`.
char* te_adopt(void* parameter, void* value, void* gradient);

char* te_set_threads(int intra_op);
char* te_set_interop_threads(int threads);
int te_set_flush_denormal(int on);
const char* te_torch_version();
}
