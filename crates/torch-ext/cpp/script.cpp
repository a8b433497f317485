// A look into scripted modules, which tch runs without telling what they do.
#include "torch_ext.h"

#include "guarded.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstring>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

// Whether torch.jit.trace has recorded a node. Its origin, which files keep, is then a stack of Python with that function
// in it; that of a scripted node is the module's source.
bool is_traced(const torch::jit::Node& node) {
  auto origin = node.sourceRange().findSourceRangeThatGenerated();
  return origin && origin->source()->text_str().str().find("torch/jit/_trace.py") != std::string::npos;
}

// What a block of a graph, and those inside of it, do beside computing; see te_inspect_script.
void inspect_block(torch::jit::Block& block, std::set<std::string>& found) {
  for (torch::jit::Node* node : block.nodes()) {
    std::string kind = node->kind().toQualString();
    if (found.count("traced forward") == 0 && is_traced(*node)) {
      found.insert("traced forward");
    }
    if (kind.find("batch_norm") != std::string::npos) {
      found.insert("statistics " + kind);
    } else if (node->kind() == c10::prim::SetAttr) {
      found.insert("assigns " + node->s(c10::attr::name));
    } else if (node->isNondeterministic()) {
      found.insert("random " + kind);
    }
    for (torch::jit::Block* inner : node->blocks()) {
      inspect_block(*inner, found);
    }
  }
}

// The tensors of the module that are others after a forward pass.
void find_changes(torch::jit::Module& module, const at::Tensor& input, std::set<std::string>& found) {
  struct Seen {
    std::string name;
    at::Tensor tensor;
    at::Tensor before;
  };
  std::vector<Seen> seen;
  for (const auto& buffer : module.named_buffers()) {
    seen.push_back({buffer.name, buffer.value, buffer.value.detach().clone()});
  }
  for (const auto& parameter : module.named_parameters()) {
    seen.push_back({parameter.name, parameter.value, parameter.value.detach().clone()});
  }
  try {
    module.train();
    module.forward({input});
  } catch (const std::exception&) {
    // The caller tries the pass itself and says what is wrong.
    return;
  }
  for (const auto& [name, tensor, before] : seen) {
    if (!at::equal(before, tensor)) {
      found.insert("changes " + name);
    }
  }
}

}  // namespace

extern "C" {

char* te_inspect_script(const char* file, size_t len, const int64_t* shape, size_t dimensions, char** findings) {
  return guarded([&] {
    std::istringstream stream(std::string(file, len));
    torch::jit::Module module = torch::jit::load(stream, at::kCPU);
    auto graph = module.get_method("forward").graph()->copy();
    torch::jit::Inline(*graph);
    std::set<std::string> found;
    inspect_block(*graph->block(), found);
    find_changes(module, at::zeros(at::IntArrayRef(shape, dimensions)), found);
    std::string text;
    for (const std::string& finding : found) {
      text += finding + "\n";
    }
    *findings = strdup(text.c_str());
  });
}
}
