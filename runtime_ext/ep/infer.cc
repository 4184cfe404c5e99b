#include "ep/infer.h"

#include <set>

#include "ep/trace.h"

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
      if (node.out.empty() || node.out[0] < 0 || Graph::input(node, 0) < 0) continue;
      if (!graph_.value(node.out[0]).ranked) continue;
      const Dims found = result(node);
      Dims& own = dims_[static_cast<size_t>(node.out[0])];
      if (found.size() != own.size()) continue;
      for (size_t i = 0; i < own.size(); ++i)
        if (nameless(own[i]) && (found[i].known() || !found[i].symbol.empty())) own[i] = found[i];
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

  Dims result(const GraphNode& node) const {
    static const Names same = {"Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Gelu", "Erf",
                               "Exp", "Sqrt", "Neg", "Abs", "Reciprocal", "Cast", "Identity", "Softmax", "LayerNormalization",
                               "SimplifiedLayerNormalization", "RMSNormalization", "BatchNormalization", "Dropout",
                               "FastGelu", "BiasGelu", "QuickGelu", "SkipLayerNormalization",
                               "SkipSimplifiedLayerNormalization"};
    static const Names pairs = {"Add", "Sub", "Mul", "Div", "Pow"};
    if (!node.domain.empty() && node.domain != "com.microsoft") return {};
    const Dims& x = in(node, 0);
    if (same.count(node.op) != 0) return x;
    if (pairs.count(node.op) != 0) return broadcast(x, in(node, 1));
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
    if (node.op == "Reshape") return Tracer(graph_, dims_).dims_of(node.out[0]);
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
