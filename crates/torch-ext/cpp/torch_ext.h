// The C face of torch_ext.cpp. Every function that can fail returns nullptr on success, or a message on the C
// heap that the caller gives back to te_free. No exception crosses this line.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {
struct te_gloo;

void te_free(char* message);

// Where the ranks meet: set and get (which waits) of a store that lives on the other side. They return 0 and append
// the value to `out` with te_bytes_append, or another number and append the error's text. Must outlive the group.
struct te_gloo_options {
  const void* context;
  int (*set)(const void* context, const char* key, size_t key_len, const uint8_t* value, size_t value_len, void* out);
  int (*get)(const void* context, const char* key, size_t key_len, int64_t timeout_ms, void* out);
  const char* host;
  int64_t timeout_ms;
  int rank;
  int world_size;
};

void te_bytes_append(void* bytes, const uint8_t* data, size_t len);

char* te_gloo_new(const te_gloo_options* options, te_gloo** out);
void te_gloo_delete(te_gloo* group);

// Tensors are at::Tensor*, borrowed; shapes, kinds and counts were checked by the caller.
char* te_gloo_all_reduce_sum(te_gloo* group, void* tensor);
char* te_gloo_all_to_all_v(te_gloo* group, void* send, const int64_t* send_counts, void* recv, const int64_t* recv_counts, size_t ranks);
char* te_gloo_all_reduce_in_rank_order(te_gloo* group, void* tensor);
char* te_gloo_all_gather_v(te_gloo* group, void* send, void* recv, const int64_t* recv_counts, size_t ranks);
char* te_gloo_broadcast(te_gloo* group, void* tensor, int root);
char* te_gloo_barrier(te_gloo* group);

// Makes `parameter` a view of `value` and its .grad the tensor `gradient`.
char* te_adopt(void* parameter, void* value, void* gradient);

// Lets `ready` be called, with `context` and `index`, by each backward pass that has added to the gradient of `parameter`, on
// the thread that did; it must not throw. One call per parameter: a later one replaces it, nullptr removes it. No backward
// may run meanwhile, and `context` must outlive all that run until then.
char* te_after_gradient(void* parameter, void (*ready)(const void* context, size_t index), const void* context, size_t index);

// What the forward pass of a scripted module (the bytes of its file) does beside computing, one finding a line: what it
// is, a space, its name. `traced`: torch.jit.trace has recorded (some of) its operations; `random`: an operation that
// draws; `statistics`: one over the samples of a batch; `assigns`: an attribute that it sets; `changes`: a tensor of the
// module that differs after a pass over zeros of `shape` in training mode (none if that pass fails). On success `findings` belongs to the caller until te_free.
char* te_inspect_script(const char* file, size_t len, const int64_t* shape, size_t dimensions, char** findings);

char* te_set_threads(int intra_op);
char* te_set_interop_threads(int threads);
int te_set_flush_denormal(int on);
int te_keep_freed_memory();

// Loads libtorch's part for CUDA into the process, once, so that tensors on GPUs can be made.
char* te_load_cuda();
void te_release_freed_memory();
const char* te_torch_version();
}
