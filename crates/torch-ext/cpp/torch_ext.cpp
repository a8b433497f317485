// What tch does not bind: c10d's TCPStore and ProcessGroupGloo, gradients that live in a given buffer, and a few
// process-wide switches. Gloo's own objects are only passed on as opaque pointers: its headers may be of another
// version than the Gloo inside libtorch.
#include "torch_ext.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/version.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

struct te_store {
  c10::intrusive_ptr<c10d::TCPStore> store;
  // Groups made over this store so far: each gets keys of its own.
  uint64_t groups = 0;
};

struct te_gloo {
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group;
};

namespace {

template <typename F>
char* guarded(F&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception of unknown type");
  }
}

at::Tensor& tensor_of(void* pointer) {
  return *static_cast<at::Tensor*>(pointer);
}

} // namespace

extern "C" {

void te_free(char* message) {
  free(message);
}

char* te_store_new(const char* host, uint16_t port, int listen_fd, size_t world_size, int64_t timeout_ms, te_store** out) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = listen_fd >= 0;
    if (listen_fd >= 0) {
      options.masterListenFd = listen_fd;
    }
    options.numWorkers = world_size;
    // The ranks meet when the group forms; the server must not wait for them here.
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    *out = new te_store{c10::make_intrusive<c10d::TCPStore>(std::string(host), options)};
  });
}

void te_store_delete(te_store* store) {
  delete store;
}

char* te_gloo_new(te_store* store, int rank, int world_size, const char* host, int64_t timeout_ms, te_gloo** out) {
  return guarded([&] {
    auto timeout = std::chrono::milliseconds(timeout_ms);
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(host));
    // Every call here waits for its own end, so there is never work for a second thread.
    options->threads = 1;
    auto keys = c10::make_intrusive<c10d::PrefixStore>("group" + std::to_string(store->groups++), store->store);
    *out = new te_gloo{c10::make_intrusive<c10d::ProcessGroupGloo>(keys, rank, world_size, options)};
  });
}

void te_gloo_delete(te_gloo* group) {
  // The destructor joins threads; whatever it might throw must not unwind into the caller.
  free(guarded([&] { delete group; }));
}

char* te_gloo_all_reduce_sum(te_gloo* group, void* tensor) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{tensor_of(tensor)};
    group->group->allreduce(tensors)->wait();
  });
}

char* te_gloo_all_to_all_v(te_gloo* group, void* send, const int64_t* send_counts, void* recv, const int64_t* recv_counts, size_t ranks) {
  return guarded([&] {
    std::vector<int64_t> out_counts(recv_counts, recv_counts + ranks);
    std::vector<int64_t> in_counts(send_counts, send_counts + ranks);
    group->group->alltoall_base(tensor_of(recv), tensor_of(send), out_counts, in_counts)->wait();
  });
}

char* te_gloo_all_gather(te_gloo* group, void* send, void* recv) {
  return guarded([&] { group->group->_allgather_base(tensor_of(recv), tensor_of(send))->wait(); });
}

char* te_gloo_broadcast(te_gloo* group, void* tensor, int root) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{tensor_of(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    group->group->broadcast(tensors, options)->wait();
  });
}

char* te_gloo_barrier(te_gloo* group) {
  return guarded([&] { group->group->barrier()->wait(); });
}

char* te_adopt(void* parameter, void* value, void* gradient) {
  return guarded([&] {
    at::Tensor& target = tensor_of(parameter);
    target.set_data(tensor_of(value));
    target.mutable_grad() = tensor_of(gradient);
  });
}

char* te_set_threads(int intra_op) {
  return guarded([&] { at::set_num_threads(intra_op); });
}

char* te_set_interop_threads(int threads) {
  return guarded([&] {
    if (static_cast<int>(at::get_num_interop_threads()) != threads) {
      at::set_num_interop_threads(threads);
    }
  });
}

int te_set_flush_denormal(int on) {
  return at::globalContext().setFlushDenormal(on != 0) ? 1 : 0;
}

const char* te_torch_version() {
  return TORCH_VERSION;
}
}
