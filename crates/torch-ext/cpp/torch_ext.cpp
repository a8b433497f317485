// What tch does not bind: c10d's ProcessGroupGloo, gradients that live in a given buffer and tell when they are complete, and a
// few process-wide switches. Gloo's own objects are only passed on as opaque pointers: its headers may be of another version
// than the Gloo inside libtorch. Scripted modules: script.cpp.
#include "torch_ext.h"

#include "guarded.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/version.h>

#include <dlfcn.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

struct te_gloo {
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group;
  std::chrono::milliseconds timeout;
  at::Tensor scratch;
};

namespace {

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

// What a message belongs to. Messages of unlike tags never meet: Gloo ends the process where one is longer than what is
// expected, so ranks that call unlike collectives must wait for each other until the timeout instead.
enum Tag : int { kCall, kSum, kGather, kCounts, kParts };

// Sends and receives between pairs of ranks, straight from and to the tensors' memory. Gloo's progress thread does
// them side by side; between two ranks those of one tag keep their order.
class Transfers {
 public:
  Transfers(te_gloo& group, Tag tag) : group_(group), tag_(tag) {}

  void send(const at::Tensor& part, int rank) {
    if (part.numel() > 0) {
      std::vector<at::Tensor> tensors{part};
      sends_.push_back(group_.group->send(tensors, rank, tag_));
    }
  }

  // Each rank begins with its right neighbour, so that not all send to rank 0 first.
  void send_to_all(const at::Tensor& part) {
    const int size = group_.group->getSize();
    for (int step = 1; step < size; ++step) {
      send(part, (group_.group->getRank() + step) % size);
    }
  }

  void receive(const at::Tensor& part, int rank) {
    c10::intrusive_ptr<c10d::Work> work;
    if (part.numel() > 0) {
      std::vector<at::Tensor> tensors{part};
      work = group_.group->recv(tensors, rank, tag_);
    }
    receives_.push_back(std::move(work));
  }

  // Waits for the oldest receive that was not waited for.
  void wait_one_receive() {
    auto work = std::move(receives_.front());
    receives_.pop_front();
    wait(work);
  }

  void wait_sends() {
    for (; !sends_.empty(); sends_.pop_front()) {
      wait(sends_.front());
    }
  }

  void wait_receives() {
    while (!receives_.empty()) {
      wait_one_receive();
    }
  }

  void wait() {
    wait_receives();
    wait_sends();
  }

 private:
  void wait(const c10::intrusive_ptr<c10d::Work>& work) {
    if (work && !work->wait(group_.timeout)) {
      throw std::runtime_error("the transfer was aborted");
    }
  }

  te_gloo& group_;
  Tag tag_;
  std::deque<c10::intrusive_ptr<c10d::Work>> sends_;
  std::deque<c10::intrusive_ptr<c10d::Work>> receives_;
};

enum Call : int64_t { kNativeSum, kRankOrderedSum, kBroadcast };

// Makes sure that all ranks are in the same call with equally many elements of one kind, and says how they differ if not: on
// every rank, before any of them sends data. Gloo takes too little of it for whole, and ends the process at too much.
void agree(te_gloo& group, Call call, const at::Tensor& tensor, int root = 0) {
  constexpr int kWords = 4;
  constexpr const char* kNames[kWords] = {"call", "root", "elements", "kind"};
  const int own = group.group->getRank();
  const int size = group.group->getSize();
  at::Tensor told = at::empty({size * kWords}, at::kLong);
  int64_t* words = told.data_ptr<int64_t>();
  const int64_t mine[kWords] = {call, root, tensor.numel(), static_cast<int64_t>(tensor.scalar_type())};
  std::copy(mine, mine + kWords, words + own * kWords);
  Transfers transfers(group, kCall);
  for (int rank = 0; rank < size; ++rank) {
    if (rank != own) {
      transfers.receive(told.narrow(0, rank * kWords, kWords), rank);
    }
  }
  transfers.send_to_all(told.narrow(0, own * kWords, kWords));
  transfers.wait();
  for (int rank = 0; rank < size; ++rank) {
    for (int word = 0; word < kWords; ++word) {
      const int64_t theirs = words[rank * kWords + word];
      if (theirs != mine[word]) {
        throw std::runtime_error("the ranks' calls differ: " + std::string(kNames[word]) + " " + std::to_string(theirs) +
                                 " on rank " + std::to_string(rank) + ", " + std::to_string(mine[word]) + " on rank " +
                                 std::to_string(own));
      }
    }
  }
}

// The sum over all ranks, each element added as ((rank 0 + rank 1) + rank 2) + …, whatever the number of elements.
// The tensor is cut into pieces, each piece into one range per rank. Every rank receives all contributions to its own
// range, adds them, and sends the sum to all. Pieces are small enough for their contributions to stay in the cache,
// and those of the next piece travel while this one is added up.
class RankOrderedSum {
 public:
  RankOrderedSum(te_gloo& group, at::Tensor& tensor)
      : group_(group),
        tensor_(tensor),
        own_(group.group->getRank()),
        size_(group.group->getSize()),
        range_(std::max<int64_t>(1024, kPieceBytes / tensor.element_size() / size_)),
        scratch_(scratch_of(group, 2 * (size_ - 1) * range_, tensor)) {}

  void run() {
    at::NoGradGuard no_grad;
    const int64_t pieces = (tensor_.numel() + range_ * size_ - 1) / (range_ * size_);
    start(0);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      if (piece + 1 < pieces) {
        start(piece + 1);
      }
      add(piece);
      spread(piece);
    }
    sums_.wait();
    contributions_.wait();
  }

 private:
  // Smaller pieces cost more wake-ups than the cache gives back; one piece for all overlaps nothing. Measured.
  static constexpr int64_t kPieceBytes = 4 << 20;

  // Kept with the group: fresh pages at each call would cost as much as the additions.
  static at::Tensor scratch_of(te_gloo& group, int64_t len, const at::Tensor& tensor) {
    at::Tensor& scratch = group.scratch;
    if (!scratch.defined() || scratch.scalar_type() != tensor.scalar_type() || scratch.numel() < len) {
      scratch = at::empty({len}, tensor.scalar_type());
    }
    return scratch;
  }

  // The part of a piece that a rank adds up; all of one length but in the last piece.
  at::Tensor range(int64_t piece, int rank) const {
    const int64_t piece_start = piece * range_ * size_;
    const int64_t len = std::min(range_ * size_, tensor_.numel() - piece_start);
    const int64_t each = (len + size_ - 1) / size_;
    const int64_t start = std::min(len, each * rank);
    return tensor_.narrow(0, piece_start + start, std::min(len - start, each));
  }

  // Where the contribution of another rank to this rank's range arrives; two pieces take turns.
  at::Tensor arrival(int64_t piece, int rank) const {
    const int64_t slot = (piece % 2) * (size_ - 1) + (rank < own_ ? rank : rank - 1);
    return scratch_.narrow(0, slot * range_, range(piece, own_).numel());
  }

  void start(int64_t piece) {
    for (int rank = 0; rank < size_; ++rank) {
      if (rank != own_) {
        contributions_.receive(arrival(piece, rank), rank);
      }
    }
    for (int step = 1; step < size_; ++step) {
      const int rank = (own_ + step) % size_;
      contributions_.send(range(piece, rank), rank);
    }
  }

  // The partial sum lies where rank 0's contribution lies, except that the last addition writes to the tensor.
  void add(int64_t piece) {
    at::Tensor own = range(piece, own_);
    at::Tensor sum;
    for (int rank = 0; rank < size_; ++rank) {
      if (rank != own_) {
        contributions_.wait_one_receive();
      }
      at::Tensor contribution = rank == own_ ? own : arrival(piece, rank);
      if (rank == 0) {
        sum = contribution;
      } else {
        at::add_out(rank + 1 == size_ ? own : sum, sum, contribution);
      }
    }
  }

  void spread(int64_t piece) {
    for (int rank = 0; rank < size_; ++rank) {
      if (rank != own_) {
        sums_.receive(range(piece, rank), rank);
      }
    }
    sums_.send_to_all(range(piece, own_));
  }

  te_gloo& group_;
  at::Tensor& tensor_;
  const int own_;
  const int size_;
  const int64_t range_;
  at::Tensor scratch_;
  Transfers contributions_{group_, kSum};
  Transfers sums_{group_, kSum};
};

// Tells the other side of the C face that a gradient has been added to.
class GradientReady final : public torch::autograd::PostAccumulateGradHook {
 public:
  GradientReady(void (*ready)(const void*, size_t), const void* context, size_t index)
      : ready_(ready), context_(context), index_(index) {}

  void operator()(const torch::autograd::Variable&) override {
    ready_(context_, index_);
  }

 private:
  void (*ready_)(const void*, size_t);
  const void* context_;
  size_t index_;
};

// libtorch's flight recorder notes every collective in one map of the whole process, which it changes without a lock:
// groups in several threads crash in it. Nobody reads it here, so it stays off unless the user asks for it.
void without_flight_recorder() {
  static std::once_flag once;
  std::call_once(once, [] { setenv("TORCH_FR_BUFFER_SIZE", "0", /*overwrite=*/0); });
}

// libtorch's memory without posix_memalign. glibc before 2.38 asks for more than it needs to align a block, and what it
// cuts off in front stays apart when the block is freed: the hole is then too small for the next block of the same size. A
// quarter of what a step allocates was such holes. Here a block is aligned within a plain one, which fits again.
class AlignedWithin final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t len) override {
    if (len == 0) {
      return {nullptr, nullptr, &give_back, c10::Device(c10::DeviceType::CPU)};
    }
    void* block = len > SIZE_MAX - kRoom ? nullptr : malloc(len + kRoom);
    if (block == nullptr) {
      throw std::runtime_error("no memory for a tensor of " + std::to_string(len) + " bytes");
    }
    const auto first = reinterpret_cast<uintptr_t>(block) + sizeof(void*);
    auto* data = reinterpret_cast<void**>((first + kAlignment - 1) / kAlignment * kAlignment);
    data[-1] = block;
    return {data, data, &give_back, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return &give_back;
  }

  void copy_data(void* target, const void* source, std::size_t len) const override {
    memcpy(target, source, len);
  }

 private:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kRoom = kAlignment + sizeof(void*);

  static void give_back(void* data) {
    if (data != nullptr) {
      free(static_cast<void**>(data)[-1]);
    }
  }
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
    without_flight_recorder();
    auto group = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(options->timeout_ms));
    group->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(options->host));
    // Every call here waits for its own end, so there is never work for a second thread.
    group->threads = 1;
    auto store = c10::make_intrusive<ForeignStore>(*options);
    auto made = c10::make_intrusive<c10d::ProcessGroupGloo>(store, options->rank, options->world_size, group);
    // A rank that had no use for the group and left at once would look dead to those that are still connecting.
    made->barrier()->wait();
    *out = new te_gloo{std::move(made), group->timeout, at::Tensor()};
  });
}

void te_gloo_delete(te_gloo* group) {
  // The destructor joins threads; whatever it might throw must not unwind into the caller.
  free(guarded([&] { delete group; }));
}

char* te_gloo_all_reduce_sum(te_gloo* group, void* tensor) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{tensor_of(tensor)};
    agree(*group, kNativeSum, tensors[0]);
    if (tensors[0].numel() > 0) {
      group->group->allreduce(tensors)->wait();
    }
  });
}

// Each rank first tells the others how much it sends: Gloo takes a message for whole that is shorter than expected.
char* te_gloo_all_to_all_v(te_gloo* group, void* send, const int64_t* send_counts, void* recv, const int64_t* recv_counts, size_t ranks) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const at::Tensor& source = tensor_of(send);
    at::Tensor& target = tensor_of(recv);
    const size_t own = group->group->getRank();
    std::vector<int64_t> send_starts(ranks, 0), recv_starts(ranks, 0);
    for (size_t rank = 1; rank < ranks; ++rank) {
      send_starts[rank] = send_starts[rank - 1] + send_counts[rank - 1];
      recv_starts[rank] = recv_starts[rank - 1] + recv_counts[rank - 1];
    }
    at::Tensor sent = at::empty({static_cast<int64_t>(ranks)}, at::kLong);
    at::Tensor told = at::empty({static_cast<int64_t>(ranks)}, at::kLong);
    std::copy(send_counts, send_counts + ranks, sent.data_ptr<int64_t>());
    Transfers counts(*group, kCounts);
    Transfers parts(*group, kParts);
    for (size_t step = 1; step < ranks; ++step) {
      const size_t peer = (own + step) % ranks;
      counts.send(sent.narrow(0, peer, 1), peer);
      parts.send(source.narrow(0, send_starts[peer], send_counts[peer]), peer);
      counts.receive(told.narrow(0, peer, 1), peer);
    }
    counts.wait_receives();
    for (size_t step = 1; step < ranks; ++step) {
      const size_t peer = (own + step) % ranks;
      const int64_t count = told.data_ptr<int64_t>()[peer];
      if (count != recv_counts[peer]) {
        throw std::runtime_error("rank " + std::to_string(peer) + " sends " + std::to_string(count) + " elements, but " +
                                 std::to_string(recv_counts[peer]) + " are expected of it");
      }
      parts.receive(target.narrow(0, recv_starts[peer], recv_counts[peer]), peer);
    }
    target.narrow(0, recv_starts[own], recv_counts[own]).copy_(source.narrow(0, send_starts[own], send_counts[own]));
    parts.wait();
    counts.wait();
  });
}

char* te_gloo_all_reduce_in_rank_order(te_gloo* group, void* tensor) {
  return guarded([&] {
    agree(*group, kRankOrderedSum, tensor_of(tensor));
    if (tensor_of(tensor).numel() > 0) {
      RankOrderedSum(*group, tensor_of(tensor)).run();
    }
  });
}

char* te_gloo_all_gather_v(te_gloo* group, void* send, void* recv, const int64_t* recv_counts, size_t ranks) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor& target = tensor_of(recv);
    const int own = group->group->getRank();
    Transfers transfers(*group, kGather);
    int64_t start = 0;
    for (size_t rank = 0; rank < ranks; ++rank) {
      at::Tensor part = target.narrow(0, start, recv_counts[rank]);
      start += recv_counts[rank];
      if (static_cast<int>(rank) == own) {
        part.copy_(tensor_of(send));
      } else {
        transfers.receive(part, rank);
      }
    }
    transfers.send_to_all(tensor_of(send));
    transfers.wait();
  });
}

char* te_gloo_broadcast(te_gloo* group, void* tensor, int root) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{tensor_of(tensor)};
    agree(*group, kBroadcast, tensors[0], root);
    if (tensors[0].numel() > 0) {
      c10d::BroadcastOptions options;
      options.rootRank = root;
      group->group->broadcast(tensors, options)->wait();
    }
  });
}

char* te_gloo_barrier(te_gloo* group) {
  return guarded([&] { group->group->barrier()->wait(); });
}

char* te_adopt(void* parameter, void* value, void* gradient) {
  return guarded([&] {
    at::Tensor& target = tensor_of(parameter);
    target.set_data(tensor_of(value));
    // Not as a view: torch's optimizers refuse to detach one.
    target.mutable_grad() = tensor_of(gradient).variable_data();
  });
}

char* te_after_gradient(void* parameter, void (*ready)(const void*, size_t), const void* context, size_t index) {
  return guarded([&] {
    std::unique_ptr<torch::autograd::PostAccumulateGradHook> hook;
    if (ready != nullptr) {
      hook = std::make_unique<GradientReady>(ready, context, index);
    }
    torch::autograd::impl::set_post_acc_grad_hooks(tensor_of(parameter), std::move(hook));
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

int te_keep_freed_memory() {
#ifdef __GLIBC__
  static AlignedWithin allocator;
  static std::once_flag once;
  std::call_once(once, [] { c10::SetAllocator(c10::DeviceType::CPU, &allocator, /*priority=*/1); });
  // glibc before 2.35 takes no threshold above 32 MiB for the first.
  const bool from_heap = mallopt(M_MMAP_THRESHOLD, INT_MAX) == 1 || mallopt(M_MMAP_THRESHOLD, 32 << 20) == 1;
  return from_heap && mallopt(M_TRIM_THRESHOLD, INT_MAX) == 1 ? 1 : 0;
#else
  return 0;
#endif
}

char* te_load_cuda() {
  return guarded([] {
    // Its symbols are for all: what it registers with libtorch's core is found by name. It is never unloaded.
    if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      const char* reason = dlerror();
      throw std::runtime_error(reason == nullptr ? "libtorch_cuda.so cannot be opened" : reason);
    }
  });
}

void te_release_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

const char* te_torch_version() {
  return TORCH_VERSION;
}
}
