#include "ep/infer.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <set>

#include "ep/computed.h"

namespace onnxprune::ep {
namespace {

using Names = std::set<std::string>;

// A size is better known when it is a number, or a name that others can share.
bool nameless(const Dim& dim) { return !dim.known() && (dim.symbol.empty() || dim.symbol[0] == '?'); }

class Propagation {
 public:
  Propagation(const Graph& graph, std::vector<Dims>* dims) : graph_(graph), dims_(*dims) {}

  void run() {
    for (const GraphNode& node : graph_.nodes()) {
      if (Graph::input(node, 0) < 0) continue;
      for (size_t k = 0; k < (node.op == "Split" ? node.out.size() : std::min<size_t>(1, node.out.size())); ++k) {
        if (node.out[k] < 0 || !graph_.value(node.out[k]).ranked) continue;
        const Dims found = result(node, k);
        Dims& own = dims_[static_cast<size_t>(node.out[k])];
        if (found.size() != own.size()) continue;
        for (size_t i = 0; i < own.size(); ++i)
          if (nameless(own[i]) && (found[i].known() || !found[i].symbol.empty())) own[i] = found[i];
      }
    }
  }

 private:
  const Dims& in(const GraphNode& node, size_t i) const {
    static const Dims none;
    const int value = Graph::input(node, i);
    return value >= 0 && graph_.value(value).ranked ? dims_[static_cast<size_t>(value)] : none;
  }

  // Of operands broadcast against each other. An axis of 1 gives way; of two open sizes nothing is
  // known, since either may be 1.
  static Dims broadcast(const Dims& a, const Dims& b) {
    Dims out(std::max(a.size(), b.size()));
    for (size_t back = 1; back <= out.size(); ++back) {
      const Dim one = Dim::of(1);
      const Dim x = back <= a.size() ? a[a.size() - back] : one, y = back <= b.size() ? b[b.size() - back] : one;
      Dim& z = out[out.size() - back];
      if (x == y || y.value == 1) z = x;
      else if (x.value == 1) z = y;
      else if (x.known()) z = x;
      else if (y.known()) z = y;
    }
    return out;
  }

  static int64_t positive(int64_t axis, size_t rank) { return axis < 0 ? axis + static_cast<int64_t>(rank) : axis; }

  // Axes named by an attribute or an input; nothing when they are not known or do not exist.
  std::optional<std::vector<size_t>> axes_of(const GraphNode& node, size_t input, size_t rank) const {
    std::vector<int64_t> listed = attr_ints(node, "axes");
    if (Graph::input(node, input) >= 0) {
      const auto ints = constant_ints(graph_, node.in[input]);
      if (!ints) return std::nullopt;
      listed = *ints;
    }
    std::vector<size_t> out;
    for (int64_t axis : listed) {
      axis = positive(axis, rank);
      if (axis < 0 || axis >= static_cast<int64_t>(rank)) return std::nullopt;
      out.push_back(static_cast<size_t>(axis));
    }
    return out;
  }

  // Scores that are masked before a softmax: a mask is broadcast to them, not the other way round. (Whoever
  // computes them together checks that.)
  const Dims* masked_scores(const GraphNode& node) const {
    const GraphValue& out = graph_.value(node.out[0]);
    if (out.consumers.empty() || graph_.node(out.consumers[0]).op != "Softmax") return nullptr;
    for (size_t i = 0; i < node.in.size(); ++i) {
      int maker = graph_.value(node.in[i]).producer;
      if (maker >= 0 && (graph_.node(maker).op == "Mul" || graph_.node(maker).op == "Div")) maker = graph_.value(graph_.node(maker).in[0]).producer;
      if (maker < 0 || graph_.node(maker).op != "MatMul") continue;
      const Dims& scores = in(node, i);
      return scores.size() == out.desc.dims.size() ? &scores : nullptr;
    }
    return nullptr;
  }

  // Tensors that are moved, cut and put together.
  Dims moved(const GraphNode& node, size_t output) const {
    const Dims& x = in(node, 0);
    const Computed computed(graph_, dims_);
    if (node.op == "Unsqueeze") {
      const Dims& own = dims_[static_cast<size_t>(node.out[0])];
      const auto axes = axes_of(node, 1, own.size());
      if (!axes || x.size() + axes->size() != own.size()) return {};
      std::vector<bool> fresh(own.size(), false);
      for (size_t axis : *axes) fresh[axis] = true;
      Dims out;
      for (size_t i = 0, k = 0; i < own.size(); ++i) {
        if (!fresh[i] && k == x.size()) return {};
        out.push_back(fresh[i] ? Dim::of(1) : x[k++]);
      }
      return out;
    }
    if (node.op == "Squeeze") {
      const auto axes = axes_of(node, 1, x.size());
      if (!axes || axes->empty()) return {};
      Dims out;
      for (size_t i = 0; i < x.size(); ++i)
        if (std::find(axes->begin(), axes->end(), i) == axes->end()) out.push_back(x[i]);
      return out;
    }
    if (node.op == "Expand" || node.op == "Tile") {
      const auto list = computed.sizes(Graph::input(node, 1));
      if (!list) return {};
      if (node.op == "Expand") return broadcast(x, *list);
      Dims out(x.size());
      for (size_t i = 0; i < x.size() && list->size() == x.size(); ++i)
        if ((*list)[i].value == 1) out[i] = x[i];
        else if (x[i].value == 1) out[i] = (*list)[i];
      return out;
    }
    if (node.op == "Split" || node.op == "Concat") {
      const int64_t axis = positive(attr_int(node, "axis", 0), x.size());
      if (axis < 0 || axis >= static_cast<int64_t>(x.size())) return {};
      Dims out = x;
      Dim& along = out[static_cast<size_t>(axis)];
      if (node.op == "Split") {
        std::vector<int64_t> parts = attr_ints(node, "split");
        if (const auto listed = constant_ints(graph_, Graph::input(node, 1))) parts = *listed;
        const int64_t count = static_cast<int64_t>(node.out.size());
        if (parts.empty() && along.known() && along.value % count == 0) parts.assign(node.out.size(), along.value / count);
        along = output < parts.size() ? Dim::of(parts[output]) : Dim{};
        return out;
      }
      for (size_t k = 1; k < node.in.size(); ++k) {
        const Dims& other = in(node, k);
        if (other.size() != x.size()) return {};
        const Dim& more = other[static_cast<size_t>(axis)];
        along = along.known() && more.known() ? Dim::of(along.value + more.value) : Dim{};
        for (size_t i = 0; i < x.size(); ++i)
          if (static_cast<int64_t>(i) != axis && (nameless(out[i]) || other[i].known())) out[i] = other[i];
      }
      return out;
    }
    // Slice: up to a size means that much of the axis; where there is less, operators that go on with it fail.
    const auto starts = computed.sizes(Graph::input(node, 1)), stops = computed.sizes(Graph::input(node, 2));
    const auto axes = axes_of(node, 3, x.size());
    if (node.since < 10 || !starts || !stops || !axes || starts->size() != stops->size()) return {};
    if (Graph::input(node, 4) >= 0) {
      const auto steps = constant_ints(graph_, node.in[4]);
      if (!steps || std::any_of(steps->begin(), steps->end(), [](int64_t s) { return s != 1; })) return {};
    }
    if (!axes->empty() && axes->size() != starts->size()) return {};
    Dims out = x;
    for (size_t i = 0; i < starts->size(); ++i) {
      const size_t axis = axes->empty() ? i : (*axes)[i];
      if (axis >= out.size()) return {};
      const Dim start = (*starts)[i], stop = (*stops)[i];
      const bool all = stop.symbol.empty() && stop.value >= std::numeric_limits<int32_t>::max();
      const bool zero = start.symbol.empty() && start.value == 0;
      if (zero && all) continue;
      if (zero && !stop.symbol.empty()) out[axis] = stop;
      else if (x[axis].known() && start.symbol.empty() && stop.symbol.empty()) {
        const auto place = [&](int64_t at) { return std::clamp<int64_t>(positive(at, static_cast<size_t>(x[axis].value)), 0, x[axis].value); };
        out[axis] = Dim::of(std::max<int64_t>(0, place(stop.value) - place(start.value)));
      } else {
        out[axis] = Dim{};
      }
    }
    return out;
  }

  Dims result(const GraphNode& node, size_t output) const {
    static const Names same = {"Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Gelu", "Erf",
                               "Exp", "Sqrt", "Neg", "Abs", "Reciprocal", "Cast", "Sin", "Cos", "Identity", "Softmax", "LayerNormalization",
                               "SimplifiedLayerNormalization", "RMSNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "Dropout", "RotaryEmbedding", "Swish", "IsNaN",
                               "FastGelu", "BiasGelu", "QuickGelu", "SkipLayerNormalization",
                               "SkipSimplifiedLayerNormalization"};
    static const Names pairs = {"Add", "Sub", "Mul", "Div", "Pow"};
    if (!node.domain.empty() && node.domain != "com.microsoft") return {};
    static const Names moves = {"Unsqueeze", "Squeeze", "Expand", "Tile", "Split", "Concat", "Slice"};
    const Dims& x = in(node, 0);
    if (same.count(node.op) != 0) return x;
    if (moves.count(node.op) != 0) return moved(node, output);
    if (node.op == "Add" || node.op == "Where")
      if (const Dims* scores = masked_scores(node)) return *scores;
    if (pairs.count(node.op) != 0) return broadcast(x, in(node, 1));
    if (node.op == "Range") {
      // 0, 1, 2 ... up to a size.
      const Computed computed(graph_, dims_);
      const auto start = computed.sizes(Graph::input(node, 0)), stop = computed.sizes(Graph::input(node, 1)), by = computed.sizes(Graph::input(node, 2));
      for (const auto* list : {&start, &stop, &by})
        if (!*list || (*list)->size() != 1) return {};
      if ((*start)[0].value != 0 || (*by)[0].value != 1 || !(*start)[0].symbol.empty()) return {};
      return {(*stop)[0]};
    }
    if (node.op == "Where") return broadcast(broadcast(x, in(node, 1)), in(node, 2));
    if (node.op == "MatMul") {
      const Dims& y = in(node, 1);
      if (x.size() < 2 || y.size() < 2) return {};
      Dims out = broadcast(Dims(x.begin(), x.end() - 2), Dims(y.begin(), y.end() - 2));
      out.push_back(x[x.size() - 2]);
      out.push_back(y.back());
      return out;
    }
    if (node.op == "Gemm") {
      const Dims& y = in(node, 1);
      if (x.size() != 2 || y.size() != 2) return {};
      return {x[attr_int(node, "transA", 0) != 0 ? 1 : 0], y[attr_int(node, "transB", 0) != 0 ? 0 : 1]};
    }
    if (node.op == "Transpose") {
      Dims out;
      const auto perm = attr_ints(node, "perm");
      if (perm.empty()) return Dims(x.rbegin(), x.rend());
      for (int64_t p : perm) {
        if (p < 0 || p >= static_cast<int64_t>(x.size())) return {};
        out.push_back(x[static_cast<size_t>(p)]);
      }
      return out;
    }
    if (node.op == "Reshape") return Computed(graph_, dims_).dims_of(node.out[0]);
    if (node.op == "ReduceMean") {
      Dims out = dims_[static_cast<size_t>(node.out[0])];
      if (out.size() == x.size())
        for (size_t i = 0; i < out.size(); ++i)
          if (out[i].value != 1) out[i] = x[i];
      return out;
    }
    if (node.op == "Gather") {
      const int64_t stated = attr_int(node, "axis", 0);
      const int64_t axis = stated < 0 ? stated + static_cast<int64_t>(x.size()) : stated;
      const int index = Graph::input(node, 1);
      if (axis < 0 || axis >= static_cast<int64_t>(x.size()) || index < 0 || !graph_.value(index).ranked) return {};
      Dims out(x.begin(), x.begin() + axis);
      const Dims& picked = in(node, 1);
      out.insert(out.end(), picked.begin(), picked.end());
      out.insert(out.end(), x.begin() + axis + 1, x.end());
      return out;
    }
    return {};
  }

  const Graph& graph_;
  std::vector<Dims>& dims_;
};

}  // namespace

void propagate_dims(const Graph& graph, std::vector<Dims>* dims) { Propagation(graph, dims).run(); }

}  // namespace onnxprune::ep
