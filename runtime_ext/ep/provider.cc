#include "ep/provider.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <fstream>
#include <limits>
#include <mutex>

#include "ep/build.h"
#include "ep/decide.h"
#include "ep/machine.h"
#include "ep/serialize.h"

namespace onnxprune::ep {
namespace {

using abi::check;
using abi::fn;
using abi::guarded;

// Time that a session may spend on choosing kernels by timing.
constexpr double kTuneSeconds = 0.01;
// What onnxruntime holds for a fused node. Its `compute` may be called by several threads at once.
struct FusedNode : abi::NodeComputeInfo {
  std::unique_ptr<Executor> executor;
  std::shared_ptr<std::once_flag> first_run;  // of the session; null where memory stays
};

// Reading a model and packing it let go of about as much as is kept, in pieces that the allocator would hold
// on to: give them back, so that a session holds what its weights need. But pages that come back take time (a
// tenth of what making the session of a ResNet-50 takes): where a model is loaded again it will be once more,
// and the memory stays for that. onnxruntime lets go of the model itself after all else, when nobody is asked
// any more, so this comes once more after the first run.
void return_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

abi::NodeComputeInfo* make_fused(std::unique_ptr<Executor> executor, std::shared_ptr<std::once_flag> first_run) {
  auto node = std::make_unique<FusedNode>();
  node->version = static_cast<uint32_t>(fn().version);
  node->create_state = [](abi::NodeComputeInfo* self, abi::NodeComputeContext*, void** state) -> abi::Status* {
    *state = self;
    return nullptr;
  };
  node->compute = [](abi::NodeComputeInfo* self, void*, abi::KernelContext* context) -> abi::Status* {
    return guarded([&] {
      auto* fused = static_cast<FusedNode*>(self);
      fused->executor->run(context);
      if (fused->first_run) std::call_once(*fused->first_run, return_memory);
    });
  };
  node->release_state = [](abi::NodeComputeInfo*, void*) {};
  node->executor = std::move(executor);
  node->first_run = std::move(first_run);
  return node.release();
}

// Whether the process is asked about this for the first time.
bool is_new(const Digest& digest) {
  constexpr size_t kMost = 4096;
  static std::mutex mutex;
  static std::vector<Digest> seen;
  const std::lock_guard<std::mutex> lock(mutex);
  if (std::find(seen.begin(), seen.end(), digest) != seen.end()) return false;
  if (seen.size() == kMost) seen.clear();
  seen.push_back(digest);
  return true;
}

Shared<const Verdict>& verdicts() {
  static Shared<const Verdict> held;
  return held;
}

std::string trimmed(std::string text) {
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

bool is_our_context(const GraphNode& node) {
  return node.op == "EPContext" && node.domain == "com.microsoft" &&
         trimmed(attr_string(node, "source", "")) == kProviderName;
}

// Where `names` are in `order`; false when one is missing. There may be others: lists of sizes that the
// claimed nodes read and we do not.
bool positions(const std::vector<std::string>& names, const std::vector<std::string>& order, std::vector<size_t>* out) {
  for (const std::string& name : names) {
    auto where = std::find(order.begin(), order.end(), name);
    if (where == order.end()) return false;
    out->push_back(static_cast<size_t>(where - order.begin()));
  }
  return true;
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
  if (options_.timing) tuner_ = std::make_shared<kernels::Tuner>(kTuneSeconds);
  log_ = session_log(options_.session_id);
  log_->note("isa", kernels::isa_name(isa_));
  version = static_cast<uint32_t>(fn().version);
  get_name = [](const abi::Ep*) { return kProviderName; };
  get_capability = [](abi::Ep* self, const abi::Graph* handle, abi::GraphSupport* support) -> abi::Status* {
    return guarded([&] { static_cast<Provider*>(self)->claim(Graph(handle, Graph::Extent::whole), support); });
  };
  compile = [](abi::Ep* self, const abi::Graph** graphs, const abi::Node** fused, size_t count,
               abi::NodeComputeInfo** out, abi::Node** context_nodes) -> abi::Status* {
    for (size_t i = 0; i < count; ++i) out[i] = nullptr;
    return guarded([&] {
      auto* provider = static_cast<Provider*>(self);
      for (size_t i = 0; i < count; ++i)
        out[i] = provider->compile_one(graphs[i], fused[i], context_nodes ? &context_nodes[i] : nullptr);
      provider->prepared_.clear();
      if (provider->first_run_) return_memory();
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

ExecutorOptions Provider::executor_options(int group) const {
  ExecutorOptions options;
  options.isa = isa_;
  options.threads = options_.threads;
  options.profile = options_.profile;
  options.tuner = tuner_;
  options.log = log_;
  options.group = group;
  return options;
}

// onnxruntime 1.23 gives fused nodes of different graphs (bodies of If, Loop, Scan) the same name and then
// refuses the model, so there only one graph of a session may have any.
bool Provider::must_leave_alone(const Graph& graph) {
  if (fn().version >= 24) return false;
  bool nested = false;
  for (const GraphValue& value : graph.values()) {
    bool outer = false;
    check(fn().ValueInfo_IsFromOuterScope(value.handle, &outer));
    nested |= outer;
  }
  return nested || claimed_elsewhere_;
}

void Provider::claim(const Graph& graph, abi::GraphSupport* support) {
  if (must_leave_alone(graph)) {
    for (const GraphNode& node : graph.nodes()) {
      Decision decision;
      decision.node = graph.label(node);
      decision.op = node.op;
      decision.reason = "onnxruntime 1.23 takes fused nodes in one graph only; newer ones in bodies of If and Loop too";
      log_->add(std::move(decision));
    }
    return;
  }
  Lowering lowering = lower(graph, options_.context_enable);
  const Digest digest = verdict_digest(graph, lowering, options_, isa_);
  if (is_new(digest) && !first_run_) first_run_ = std::make_shared<std::once_flag>();
  std::shared_ptr<const Verdict> verdict = verdicts().find(digest);
  const ExecutorOptions execution = executor_options(0);
  if (!verdict) {
    Decider decider(options_, costs_, execution, graph, &lowering, &prepared_);
    verdict = verdicts().keep(digest, std::make_unique<const Verdict>(decider.decide()));
  }
  lately().use(verdict, sizeof *verdict + verdict->estimates.size() * sizeof verdict->estimates.front());
  verdicts_.push_back(verdict);
  Selection selection = verdict->selection;
  if (!options_.context_enable) prepared_.build(graph, lowering, execution, &selection);
  const bool packed = prepared_.keep(graph, lowering, selection.groups);
  if (packed && prepared_.empty() && first_run_) return_memory();  // where nothing is claimed, `compile` never comes
  std::vector<int> group_of(lowering.units.size(), -1);
  for (const Group& group : selection.groups) {
    std::vector<const abi::Node*> nodes;
    const int number = log_->next_group();
    for (int u : group.units) {
      const Unit& unit = lowering.units[static_cast<size_t>(u)];
      for (int n : unit.nodes) nodes.push_back(graph.node(n).handle);
      group_of[static_cast<size_t>(u)] = number;
      for (int v : results(unit)) group_of_value_[graph.value(v).name] = number;
    }
    abi::FusionOptions fusion{static_cast<uint32_t>(fn().version), true};
    check(fn().EpGraphSupportInfo_AddNodesToFuse(support, nodes.data(), nodes.size(), &fusion));
    claimed_elsewhere_ = true;
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
      const Verdict::Estimate& estimate = verdict->estimates[u];
      decision.sparsity = estimate.sparsity;
      decision.predicted_us = estimate.ours / cycles_per_microsecond();
      decision.cpu_us = estimate.cpu / cycles_per_microsecond();
    }
    log_->add(std::move(decision));
  }
}

abi::NodeComputeInfo* Provider::compile_one(const abi::Graph* handle, const abi::Node* fused, abi::Node** context_node) {
  const Graph graph(handle, Graph::Extent::part);
  const std::vector<std::string> inputs = names_of(fused, true), outputs = names_of(fused, false);
  int group = 0;
  for (const std::string& name : outputs)
    if (auto known = group_of_value_.find(name); known != group_of_value_.end()) group = known->second;
  std::vector<std::string> made;
  for (const GraphNode& node : graph.nodes())
    for (int v : node.out)
      if (v >= 0) made.push_back(graph.value(v).name);
  if (PreparedGroups::Entry prepared = prepared_.take(std::move(made)); prepared.executor) {
    std::vector<size_t> in, out;
    if (positions(prepared.inputs, inputs, &in) && positions(prepared.outputs, outputs, &out)) {
      prepared.executor->bind(std::move(in), std::move(out));
      prepared.executor->set_group(group);
      return finish(std::move(prepared.executor));
    }
  }

  Program program;
  const bool restored = graph.nodes().size() == 1 && is_our_context(graph.node(0));
  if (restored) {
    program = load_program(attr_string(graph.node(0), "ep_cache_context", ""));
    if (program.slots.empty() ? program.inputs.size() != inputs.size()
                              : std::any_of(program.slots.begin(), program.slots.end(), [&](int slot) {
                                  return slot < 0 || slot >= static_cast<int>(inputs.size());
                                }))
      throw abi::Error("onnxprune: the compiled node has other inputs than its contents");
    if (program.outputs.size() != outputs.size())
      throw abi::Error("onnxprune: the compiled node has other inputs or outputs than its contents");
  } else {
    Lowering lowering = lower(graph, true);
    look_at_weights(2.0, &lowering);
    std::vector<int> chosen, in, out, slots;
    uint8_t views = kAnyDomain;
    for (size_t u = 0; u < lowering.units.size(); ++u) {
      const Unit& unit = lowering.units[u];
      if (!unit.supported) throw abi::Error("onnxprune: cannot compile '" + unit.op.label + "': " + unit.reason);
      chosen.push_back(static_cast<int>(u));
      views &= unit.domains;
    }
    if (views == 0) throw abi::Error("onnxprune: cannot compile operations that see their operands in different ways");
    auto find = [&](const std::string& name) {
      for (size_t v = 0; v < graph.values().size(); ++v)
        if (graph.values()[v].name == name) return static_cast<int>(v);
      throw abi::Error("onnxprune: value '" + name + "' is not in the graph to compile");
    };
    for (size_t i = 0; i < inputs.size(); ++i) {
      const int value = find(inputs[i]);
      const bool read = std::any_of(lowering.units.begin(), lowering.units.end(), [&](const Unit& unit) {
        const std::vector<int> read = values_read(unit);
        return std::find(read.begin(), read.end(), value) != read.end();
      });
      if (!read) continue;
      in.push_back(value);
      slots.push_back(static_cast<int>(i));
    }
    for (const std::string& name : outputs) out.push_back(find(name));
    const Domain domain = views & static_cast<uint8_t>(Domain::tokens)  ? Domain::tokens
                          : views & static_cast<uint8_t>(Domain::image) ? Domain::image
                                                                        : Domain::left;
    program = build_program(graph, lowering, chosen, domain, in, out);
    pack_weights(&program);
    program.slots = std::move(slots);
  }
  if (options_.context_enable && context_node != nullptr && !restored)
    *context_node = make_context_node(fused, save_program(program, isa_));
  return finish(std::make_unique<Executor>(std::move(program), executor_options(group)));
}

abi::NodeComputeInfo* Provider::finish(std::unique_ptr<Executor> executor) {
  executor->prepare();
  for (const NodeKernel& kernel : executor->kernels()) log_->set_kernel(executor->group(), kernel);
  return make_fused(std::move(executor), first_run_);
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
