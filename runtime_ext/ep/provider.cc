#include "ep/provider.h"

#include <algorithm>
#include <fstream>
#include <limits>

#include "ep/build.h"
#include "ep/executor.h"
#include "ep/select.h"
#include "ep/serialize.h"

namespace onnxprune::ep {
namespace {

using abi::check;
using abi::fn;
using abi::guarded;

// What onnxruntime holds for a fused node. Its `compute` may be called by several threads at once.
struct FusedNode : abi::NodeComputeInfo {
  std::unique_ptr<Executor> executor;
};

abi::NodeComputeInfo* make_fused(std::unique_ptr<Executor> executor) {
  auto node = std::make_unique<FusedNode>();
  node->version = static_cast<uint32_t>(fn().version);
  node->create_state = [](abi::NodeComputeInfo* self, abi::NodeComputeContext*, void** state) -> abi::Status* {
    *state = self;
    return nullptr;
  };
  node->compute = [](abi::NodeComputeInfo* self, void*, abi::KernelContext* context) -> abi::Status* {
    return guarded([&] { static_cast<FusedNode*>(self)->executor->run(context); });
  };
  node->release_state = [](abi::NodeComputeInfo*, void*) {};
  node->executor = std::move(executor);
  return node.release();
}

std::string trimmed(std::string text) {
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

bool is_our_context(const GraphNode& node) {
  return node.op == "EPContext" && node.domain == "com.microsoft" &&
         trimmed(attr_string(node, "source", "")) == kProviderName;
}

// Names of the inputs and outputs of a fused node, in its order.
std::vector<std::string> names_of(const abi::Node* node, bool inputs) {
  size_t count = 0;
  check(inputs ? fn().Node_GetNumInputs(node, &count) : fn().Node_GetNumOutputs(node, &count));
  std::vector<const abi::ValueInfo*> infos(count);
  if (count > 0) check(inputs ? fn().Node_GetInputs(node, infos.data(), count) : fn().Node_GetOutputs(node, infos.data(), count));
  std::vector<std::string> names;
  for (const abi::ValueInfo* info : infos) {
    const char* name = nullptr;
    if (info != nullptr) check(fn().GetValueInfoName(info, &name));
    names.emplace_back(name ? name : "");
  }
  return names;
}

}  // namespace

Provider::Provider(Options options) : abi::Ep{}, options_(std::move(options)), isa_(kernels::active_isa()) {
  if (!options_.isa.empty()) {
    if (!kernels::isa_from_name(options_.isa.c_str(), &isa_))
      throw abi::Error("onnxprune: option 'isa' is '" + options_.isa + "'; it accepts auto, avx512, avx2, scalar",
                       abi::kInvalidArgument);
    if (!kernels::isa_supported(isa_))
      throw abi::Error("onnxprune: option 'isa' asks for " + options_.isa + ", which this machine or build lacks",
                       abi::kInvalidArgument);
  }
  costs_.isa = isa_;
  log_ = session_log(options_.session_id);
  log_->note("isa", kernels::isa_name(isa_));
  version = static_cast<uint32_t>(fn().version);
  get_name = [](const abi::Ep*) { return kProviderName; };
  get_capability = [](abi::Ep* self, const abi::Graph* handle, abi::GraphSupport* support) -> abi::Status* {
    return guarded([&] { static_cast<Provider*>(self)->claim(Graph(handle), support); });
  };
  compile = [](abi::Ep* self, const abi::Graph** graphs, const abi::Node** fused, size_t count,
               abi::NodeComputeInfo** out, abi::Node** context_nodes) -> abi::Status* {
    for (size_t i = 0; i < count; ++i) out[i] = nullptr;
    return guarded([&] {
      auto* provider = static_cast<Provider*>(self);
      for (size_t i = 0; i < count; ++i)
        out[i] = provider->compile_one(graphs[i], fused[i], context_nodes ? &context_nodes[i] : nullptr);
      if (!provider->options_.log_file.empty()) std::ofstream(provider->options_.log_file) << provider->log_->json();
    });
  };
  release_compute_infos = [](abi::Ep*, abi::NodeComputeInfo** infos, size_t count) {
    for (size_t i = 0; i < count; ++i) delete static_cast<FusedNode*>(infos[i]);
  };
  preferred_layout = [](abi::Ep*, abi::DataLayout* out) -> abi::Status* {
    *out = abi::kLayoutNchw;
    return nullptr;
  };
  concurrent_run_supported = [](abi::Ep*, bool* out) -> abi::Status* {
    *out = true;
    return nullptr;
  };
}

void Provider::claim_context(const Graph& graph, int index, abi::GraphSupport* support) {
  const GraphNode& node = graph.node(index);
  abi::FusionOptions fusion{static_cast<uint32_t>(fn().version), false};
  check(fn().EpGraphSupportInfo_AddNodesToFuse(support, &node.handle, 1, &fusion));
  Decision decision;
  decision.node = graph.label(node);
  decision.op = node.op;
  decision.claimed = true;
  decision.reason = "compiled earlier by this provider";
  decision.group = log_->next_group();
  for (int v : node.out)
    if (v >= 0) group_of_value_[graph.value(v).name] = decision.group;
  log_->add(std::move(decision));
}

void Provider::claim(const Graph& graph, abi::GraphSupport* support) {
  const Lowering lowering = lower(graph, true);
  const Selection selection = select(graph, lowering, options_, costs_);
  std::vector<int> group_of(lowering.units.size(), -1);
  for (const Group& group : selection.groups) {
    std::vector<const abi::Node*> nodes;
    const int number = log_->next_group();
    for (int u : group.units) {
      const Unit& unit = lowering.units[static_cast<size_t>(u)];
      for (int n : unit.nodes) nodes.push_back(graph.node(n).handle);
      group_of[static_cast<size_t>(u)] = number;
      group_of_value_[graph.value(unit.op.out).name] = number;
    }
    abi::FusionOptions fusion{static_cast<uint32_t>(fn().version), true};
    check(fn().EpGraphSupportInfo_AddNodesToFuse(support, nodes.data(), nodes.size(), &fusion));
  }
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const GraphNode& node = graph.nodes()[n];
    if (is_our_context(node)) {
      claim_context(graph, static_cast<int>(n), support);
      continue;
    }
    const size_t u = static_cast<size_t>(lowering.unit_of[n]);
    const Unit& unit = lowering.units[u];
    Decision decision;
    decision.node = graph.label(node);
    decision.op = node.op;
    decision.group = group_of[u];
    decision.claimed = decision.group >= 0;
    decision.reason = decision.claimed ? "predicted faster" : selection.reasons[u];
    if (decision.claimed && options_.force) decision.reason = "forced";
    if (decision.claimed && unit.packed) decision.reason = "its weight is packed";
    if (unit.anchor) {
      decision.sparsity = unit.analysis.sparsity();
      decision.predicted_us = costs_.ours(graph, lowering, unit) / cycles_per_microsecond();
      decision.cpu_us = costs_.cpu(graph, lowering, unit) / cycles_per_microsecond();
    }
    log_->add(std::move(decision));
  }
}

abi::NodeComputeInfo* Provider::compile_one(const abi::Graph* handle, const abi::Node* fused, abi::Node** context_node) {
  const Graph graph(handle);
  const std::vector<std::string> inputs = names_of(fused, true), outputs = names_of(fused, false);
  ExecutorOptions options;
  options.isa = isa_;
  options.threads = options_.threads;
  options.profile = options_.profile;
  options.log = log_;
  for (const std::string& name : outputs)
    if (auto known = group_of_value_.find(name); known != group_of_value_.end()) options.group = known->second;

  Program program;
  const bool restored = graph.nodes().size() == 1 && is_our_context(graph.node(0));
  if (restored) {
    program = load_program(attr_string(graph.node(0), "ep_cache_context", ""));
    if (program.inputs.size() != inputs.size() || program.outputs.size() != outputs.size())
      throw abi::Error("onnxprune: the compiled node has other inputs or outputs than its contents");
  } else {
    const Lowering lowering = lower(graph, false);
    std::vector<int> chosen, in, out;
    uint8_t views = kAnyDomain;
    for (size_t u = 0; u < lowering.units.size(); ++u) {
      const Unit& unit = lowering.units[u];
      if (!unit.supported) throw abi::Error("onnxprune: cannot compile '" + unit.op.label + "': " + unit.reason);
      chosen.push_back(static_cast<int>(u));
      views &= unit.domains;
    }
    auto find = [&](const std::string& name) {
      for (size_t v = 0; v < graph.values().size(); ++v)
        if (graph.values()[v].name == name) return static_cast<int>(v);
      throw abi::Error("onnxprune: value '" + name + "' is not in the graph to compile");
    };
    for (const std::string& name : inputs) in.push_back(find(name));
    for (const std::string& name : outputs) out.push_back(find(name));
    const Domain domain = views & static_cast<uint8_t>(Domain::tokens)  ? Domain::tokens
                          : views & static_cast<uint8_t>(Domain::image) ? Domain::image
                                                                        : Domain::left;
    program = build_program(graph, lowering, chosen, domain, in, out);
  }
  if (options_.context_enable && context_node != nullptr && !restored)
    *context_node = make_context_node(fused, save_program(program, isa_));
  auto executor = std::make_unique<Executor>(std::move(program), std::move(options));
  executor->prepare();
  for (const auto& [node, kernel] : executor->kernels()) log_->set_kernel(executor->group(), node, kernel);
  return make_fused(std::move(executor));
}

abi::Node* Provider::make_context_node(const abi::Node* fused, const std::string& bytes) const {
  if (bytes.size() > static_cast<size_t>(std::numeric_limits<int>::max()))
    throw abi::Error("onnxprune: a compiled group is larger than 2 GB and cannot be saved in the model");
  const char* text = nullptr;
  check(fn().Node_GetName(fused, &text));
  const std::string name = text ? text : "";
  const std::vector<std::string> inputs = names_of(fused, true), outputs = names_of(fused, false);
  std::vector<const char*> in, out;
  for (const std::string& s : inputs) in.push_back(s.c_str());
  for (const std::string& s : outputs) out.push_back(s.c_str());
  const int64_t one = 1;
  const std::string source = kProviderName;
  struct Attr {
    const char* name;
    const void* data;
    int size;
    abi::AttrType type;
  } wanted[] = {{"ep_cache_context", bytes.data(), static_cast<int>(bytes.size()), abi::kAttrString},
                {"main_context", &one, 1, abi::kAttrInt},
                {"embed_mode", &one, 1, abi::kAttrInt},
                {"source", source.data(), static_cast<int>(source.size()), abi::kAttrString},
                {"partition_name", name.data(), static_cast<int>(name.size()), abi::kAttrString}};
  std::vector<abi::OpAttr*> attrs;
  abi::Node* node = nullptr;
  try {
    for (const Attr& a : wanted) {
      abi::OpAttr* attr = nullptr;
      check(fn().CreateOpAttr(a.name, a.data, a.size, a.type, &attr));
      attrs.push_back(attr);
    }
    check(fn().CreateNode("EPContext", "com.microsoft", name.c_str(), in.data(), in.size(), out.data(), out.size(),
                          attrs.data(), attrs.size(), &node));
  } catch (...) {
    for (abi::OpAttr* attr : attrs) fn().ReleaseOpAttr(attr);
    throw;
  }
  for (abi::OpAttr* attr : attrs) fn().ReleaseOpAttr(attr);
  return node;
}

}  // namespace onnxprune::ep
