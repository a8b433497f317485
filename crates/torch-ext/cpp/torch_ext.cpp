// What tch does not bind: c10d's ProcessGroupGloo, gradients that live in a given buffer, and a few
// process-wide switches. Gloo's own objects are only passed on as opaque pointers: its headers may be of another
// version than the Gloo inside libtorch.
#include "torch_ext.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

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

// The store on the other side of the C face, as c10d sees it: what a Gloo group uses to find its peers.
class ForeignStore : public c10d::Store {
 public:
  explicit ForeignStore(const te_gloo_options& options)
      : c10d::Store(std::chrono::milliseconds(options.timeout_ms)), options_(options) {}

  void set(const std::string& key, const std::vector<uint8_t>& value) override {
    std::string out;
    if (options_.set(options_.context, key.data(), key.size(), value.data(), value.size(), &out) != 0) {
      throw std::runtime_error(out);
    }
  }

  std::vector<uint8_t> get(const std::string& key) override {
    std::string out = fetch(key, timeout_);
    return std::vector<uint8_t>(out.begin(), out.end());
  }

  void wait(const std::vector<std::string>& keys) override {
    wait(keys, timeout_);
  }

  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& timeout) override {
    // Gloo also waits with c10d's default of minutes; the group's own timeout is the limit of all.
    auto deadline = std::chrono::steady_clock::now() + std::min(timeout, timeout_);
    for (const auto& key : keys) {
      auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      fetch(key, left);
    }
  }

  c10::intrusive_ptr<c10d::Store> clone() override {
    return c10::make_intrusive<ForeignStore>(options_);
  }
  std::vector<uint8_t> compareSet(const std::string&, const std::vector<uint8_t>&, const std::vector<uint8_t>&) override {
    return absent("compareSet");
  }
  int64_t add(const std::string&, int64_t) override {
    absent("add");
    return 0;
  }
  bool deleteKey(const std::string&) override {
    absent("deleteKey");
    return false;
  }
  bool check(const std::vector<std::string>&) override {
    absent("check");
    return false;
  }
  int64_t getNumKeys() override {
    absent("getNumKeys");
    return 0;
  }

 private:
  std::string fetch(const std::string& key, std::chrono::milliseconds timeout) {
    std::string out;
    if (options_.get(options_.context, key.data(), key.size(), timeout.count(), &out) != 0) {
      throw std::runtime_error(out);
    }
    return out;
  }

  std::vector<uint8_t> absent(const char* operation) {
    throw std::runtime_error(std::string("the store has no operation ") + operation);
  }

  te_gloo_options options_;
};

} // namespace

extern "C" {

void te_free(char* message) {
  free(message);
}

void te_bytes_append(void* bytes, const uint8_t* data, size_t len) {
  static_cast<std::string*>(bytes)->append(reinterpret_cast<const char*>(data), len);
}

char* te_gloo_new(const te_gloo_options* options, te_gloo** out) {
  return guarded([&] {
    auto group = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(options->timeout_ms));
    group->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(options->host));
    // Every call here waits for its own end, so there is never work for a second thread.
    group->threads = 1;
    auto store = c10::make_intrusive<ForeignStore>(*options);
    *out = new te_gloo{
        c10::make_intrusive<c10d::ProcessGroupGloo>(store, options->rank, options->world_size, group)};
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
