// Sizes of resized images that the graph computes from the shapes of others.
#include <algorithm>
#include <set>

#include "ep/computed.h"
#include "ep/lower_internal.h"

namespace onnxprune::ep {
namespace {

// Nodes between sizes and the shapes that they are computed from, of which nothing but resizing reads the results.
class SizeNodes {
 public:
  explicit SizeNodes(const Graph& graph) : graph_(graph) {}

  void behind(int value, std::vector<int>* nodes) const {
    const int maker = value < 0 ? -1 : graph_.value(value).producer;
    if (maker < 0 || std::find(nodes->begin(), nodes->end(), maker) != nodes->end()) return;
    if (!only_for_sizes(maker, 0)) return;
    nodes->push_back(maker);
    if (graph_.node(maker).op == "Shape") return;
    for (int in : graph_.node(maker).in) behind(in, nodes);
  }

 private:
  bool only_for_sizes(int node, int depth) const {
    constexpr int kDeepest = 20;
    static const std::set<std::string> computes = {"Slice", "Gather", "Concat", "Unsqueeze", "Squeeze", "Cast",
                                                   "Mul",   "Floor",  "Ceil",   "Identity"};
    for (int out : graph_.node(node).out) {
      if (out < 0) continue;
      const GraphValue& value = graph_.value(out);
      if (value.graph_output || value.uses != value.consumers.size() || depth > kDeepest) return false;
      for (int reader : value.consumers) {
        const GraphNode& next = graph_.node(reader);
        const bool last = next.op == "Resize" && Graph::input(next, 3) == out;
        if (!last && (computes.count(next.op) == 0 || !only_for_sizes(reader, depth + 1))) return false;
      }
    }
    return true;
  }

  const Graph& graph_;
};

}  // namespace

std::vector<ResizeSpec::Axis> computed_sizes(const LowerContext& context, const GraphNode& node, const Shape& axes, Unit* unit) {
  const std::string reason = "sizes that are neither constant nor those of one other image";
  const int x = unit->op.in[0];
  // Under a name of its own each size tells whose it is.
  std::vector<Dims> named = context.dims;
  for (size_t v = 0; v < named.size(); ++v)
    for (size_t i = 0; i < named[v].size(); ++i)
      if (!named[v][i].known()) named[v][i] = Dim::named("@" + std::to_string(v) + "." + std::to_string(i));
  const Computed computed(context.graph, named, context.alone);
  const auto sizes = computed.sizes(node.in[3]);
  if (!sizes || sizes->size() != axes.size()) throw Unsupported(reason);
  const auto dims_of = [&](int value) -> const Dims& { return named[static_cast<size_t>(value)]; };
  const size_t rank = dims_of(x).size();
  std::vector<ResizeSpec::Axis> out;
  int like = -1;
  for (size_t i = 0; i < axes.size(); ++i) {
    const Dim& size = (*sizes)[i];
    const size_t axis = static_cast<size_t>(axes[i]);
    if (size.symbol.empty()) {
      if (size.value < 1) throw Unsupported(reason);
      out.push_back({0, size.value});
      continue;
    }
    const Dim& own = dims_of(x)[axis];
    const ResizeSpec::Axis times{static_cast<float>(assume(size, [](const std::string&) { return 1; })), -1};
    if (size == resized(times, own)) {
      out.push_back(times);
      continue;
    }
    int other = -1;
    for (int v = 0; v < static_cast<int>(named.size()) && other < 0; ++v)
      if (dims_of(v).size() == rank && dims_of(v)[axis] == size) other = v;
    if (other < 0) throw Unsupported(reason);
    if (context.of(other)[axis] == context.of(x)[axis]) {
      out.push_back({1, -1});
      continue;
    }
    const GraphValue& image = context.graph.value(other);
    const bool fits = axis >= 2 && image.desc.type == abi::kFloat && !image.constant && image.ranked && context.of(other)[0] == context.of(x)[0];
    if (!fits || (like >= 0 && like != other)) throw Unsupported(reason);
    like = other;
    out.push_back({0, 0});
  }
  std::vector<int> nodes = unit->nodes;
  SizeNodes(context.graph).behind(node.in[3], &nodes);
  std::sort(nodes.begin(), nodes.end());
  const auto reads_it = [&](int n) { return context.graph.node(n).op == "Shape" && context.graph.node(n).in[0] == like; };
  // Otherwise the fused node might not have it among its inputs.
  if (like >= 0 && std::none_of(nodes.begin(), nodes.end(), reads_it))
    throw Unsupported("sizes of another image that others read too");
  if (like >= 0) unit->op.in.push_back(like);
  unit->nodes = std::move(nodes);
  return out;
}

void take_nodes(Unit* unit, Lowering* lowering) {
  std::vector<int> own;
  for (int n : unit->nodes) {
    int& of = lowering->unit_of[static_cast<size_t>(n)];
    Unit* const before = of < 0 ? nullptr : &lowering->units[static_cast<size_t>(of)];
    if (before != nullptr && before->supported && before->op.kind == OpKind::resize) continue;
    if (before != nullptr) {
      before->nodes.erase(std::find(before->nodes.begin(), before->nodes.end(), n));
      before->supported = false;
      before->reason = "it computes sizes for another node";
    }
    of = static_cast<int>(lowering->units.size());
    own.push_back(n);
  }
  unit->nodes = std::move(own);
}

void link_resized(const Graph& graph, Lowering* lowering) {
  std::vector<Unit>& units = lowering->units;
  for (size_t u = 0; u < units.size(); ++u) {
    if (!units[u].supported || units[u].op.kind != OpKind::resize) continue;
    for (int n : units[u].nodes) {
      for (int v : graph.node(n).out) {
        if (v < 0 || v == units[u].op.out) continue;
        for (int reader : graph.value(v).consumers) {
          const int other = lowering->unit_of[static_cast<size_t>(reader)];
          if (other == static_cast<int>(u)) continue;
          units[u].together.push_back(other);
          units[static_cast<size_t>(other)].together.push_back(static_cast<int>(u));
        }
      }
    }
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (Unit& unit : units) {
      const bool alone = std::any_of(unit.together.begin(), unit.together.end(),
                                     [&](int other) { return !units[static_cast<size_t>(other)].supported; });
      if (!unit.supported || !alone) continue;
      unit.supported = false;
      unit.reason = "sizes of another image that others read too";
      changed = true;
    }
  }
}

}  // namespace onnxprune::ep
