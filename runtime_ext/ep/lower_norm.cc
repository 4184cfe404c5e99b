// Normalisation over the features of each token: as one node, or spelled out as means, differences
// and a root.
#include <cmath>
#include <utility>

#include "ep/lower_internal.h"
#include "ep/trace.h"

namespace onnxprune::ep {
namespace {

// The constant vector over the last axis of `x` in input `i`.
std::vector<float> per_feature(const LowerContext& context, const GraphNode& node, size_t i, const Dims& x, const char* what) {
  const Constant c = context.weight(node, i, what);
  if (!x.back().known() || c.size() != x.back().value || c.desc.dims.empty() || c.desc.dims.back() != c.size())
    throw Unsupported(std::string(what) + " is not one number per feature");
  return {c.floats(), c.floats() + c.size()};
}

void set_norm(const LowerContext& context, std::vector<int> in, Unit* unit) {
  unit->op.kind = OpKind::norm;
  unit->op.in = std::move(in);
  unit->domains = bit(Domain::tokens);
  unit->dims = context.of(unit->op.in[0]);
  if (unit->dims.size() < 2 || !unit->dims.back().known() || unit->dims.back().value < 1)
    throw Unsupported("the number of features is not known");
}

// The sum that is normalised as a value by itself, made before: `sum` of the graph, of the operands and the bias.
int shown_sum(const LowerContext& context, int sum, const std::vector<int>& in, Unit* unit) {
  const auto add = [&](OpKind kind, std::vector<int> from) -> Op& {
    unit->before.emplace_back();
    Unit& before = unit->before.back();
    before.op.kind = kind;
    before.op.in = std::move(from);
    before.op.label = context.graph.value(sum).name;
    before.domains = bit(Domain::tokens);
    before.dims = context.of(in[0]);
    before.supported = true;
    return before.op;
  };
  Op& both = add(OpKind::binary, in);
  both.binary = kernels::Binary::add;
  if (!unit->op.bias.empty()) add(OpKind::affine, {kBefore}).shift = std::exchange(unit->op.bias, {});
  unit->before.back().op.out = sum;
  return sum;
}

// Walks a spelled-out normalisation from its end.
class Chain {
 public:
  Chain(const LowerContext& context, int last) : context_(context), graph_(context.graph), tracer_(context.graph, context.dims, context.alone), last_(last) {}

  bool run(Unit* unit) {
    const GraphNode* node = &graph_.node(last_);
    Op& op = unit->op;
    int scaled = node->out[0];
    if (node->op == "Add") {
      for (size_t i = 0; i < 2 && op.shift.empty(); ++i) {
        if (!vector(*node, i, &op.shift)) continue;
        scaled = node->in[1 - i];
      }
      if (op.shift.empty()) return false;
      tracer_.include(last_);
    }
    const GraphNode* gain = made_by(scaled, "Mul");
    int unit_value = scaled;
    if (gain != nullptr) {
      for (size_t i = 0; i < 2 && op.scale.empty(); ++i) {
        if (!vector(*gain, i, &op.scale)) continue;
        unit_value = gain->in[1 - i];
      }
    }
    if (gain != nullptr && !op.scale.empty()) include(scaled);
    if (!normalised(unit_value, &op)) return false;
    if (!op.shift.empty() && op.shift.size() != size_ && op.shift.size() != 1) return false;
    for (auto* list : {&op.scale, &op.shift}) {
      if (list->size() == 1) list->assign(size_, (*list)[0]);
      if (!list->empty() && list->size() != size_) return false;
    }
    if (!tracer_.isolated(last_)) return false;
    set_norm(context_, {x_}, unit);
    unit->op.out = graph_.node(last_).out[0];
    unit->op.label = graph_.label(graph_.node(last_));
    unit->nodes.assign(tracer_.nodes().begin(), tracer_.nodes().end());
    return true;
  }

 private:
  void include(int value) { tracer_.include(graph_.value(value).producer); }

  const GraphNode* made_by(int value, const char* op) const {
    if (value < 0 || graph_.value(value).producer < 0) return nullptr;
    const GraphNode& node = graph_.node(graph_.value(value).producer);
    return node.op == op && node.domain.empty() ? &node : nullptr;
  }

  // A constant operand that varies along the last axis only.
  bool vector(const GraphNode& node, size_t i, std::vector<float>* out) const {
    const int value = Graph::input(node, i);
    if (node.in.size() != 2 || !graph_.is_constant(value)) return false;
    const GraphValue& v = graph_.value(value);
    if (!v.ranked || v.desc.type != abi::kFloat) return false;
    const Constant c = constant(v);
    if (c.size() < 1 || (!c.desc.dims.empty() && c.desc.dims.back() != c.size())) return false;
    out->assign(c.floats(), c.floats() + c.size());
    return true;
  }

  // `value` = mean of `*of` over its last axis, kept as an axis of size 1.
  bool mean(int value, int* of) {
    const GraphNode* node = made_by(value, "ReduceMean");
    if (node == nullptr || attr_int(*node, "keepdims", 1) == 0) return false;
    const GraphValue& in = graph_.value(node->in[0]);
    if (!in.ranked) return false;
    std::vector<int64_t> axes = attr_ints(*node, "axes");
    if (Graph::input(*node, 1) >= 0) {
      const auto listed = constant_ints(graph_, node->in[1]);
      if (!listed) return false;
      axes = *listed;
    }
    if (axes.size() != 1 || (axes[0] != -1 && axes[0] != static_cast<int64_t>(in.desc.dims.size()) - 1)) return false;
    include(value);
    *of = node->in[0];
    return true;
  }

  // `value` = the square of `*of`.
  bool square(int value, int* of) {
    if (const GraphNode* mul = made_by(value, "Mul"); mul != nullptr && mul->in.size() == 2 && mul->in[0] == mul->in[1]) {
      *of = mul->in[0];
    } else if (const GraphNode* pow = made_by(value, "Pow"); pow != nullptr) {
      float exponent = 0;
      if (!scalar_constant(graph_, Graph::input(*pow, 1), &exponent) || exponent != 2.0f) return false;
      *of = pow->in[0];
    } else {
      return false;
    }
    include(value);
    return true;
  }

  // `value` = sqrt(mean(d^2) + epsilon); gives d.
  bool deviation(int value, int* d, float* epsilon) {
    const GraphNode* root = made_by(value, "Sqrt");
    if (root == nullptr) {
      root = made_by(value, "Pow");
      float half = 0;
      if (root == nullptr || !scalar_constant(graph_, Graph::input(*root, 1), &half) || half != 0.5f) return false;
    }
    const GraphNode* add = made_by(root->in[0], "Add");
    if (add == nullptr) return false;
    int variance = -1;
    for (size_t i = 0; i < 2 && variance < 0; ++i)
      if (scalar_constant(graph_, add->in[i], epsilon)) variance = add->in[1 - i];
    int squared = -1;
    if (!(*epsilon >= 0) || !mean(variance, &squared) || !square(squared, d)) return false;
    include(value);
    include(root->in[0]);
    return true;
  }

  // `value` = 1 / sqrt(mean(d^2) + epsilon).
  bool inverse_deviation(int value, int* d, float* epsilon) {
    int root = -1;
    if (const GraphNode* reciprocal = made_by(value, "Reciprocal")) {
      root = reciprocal->in[0];
    } else if (const GraphNode* div = made_by(value, "Div")) {
      float one = 0;
      if (!scalar_constant(graph_, div->in[0], &one) || one != 1.0f) return false;
      root = div->in[1];
    }
    if (root < 0 || !deviation(root, d, epsilon)) return false;
    include(value);
    return true;
  }

  // `value` = (x - mean x) / deviation, or x / root of its mean square.
  bool normalised(int value, Op* op) {
    int top = -1, d = -1;
    if (const GraphNode* div = made_by(value, "Div"); div != nullptr && deviation(div->in[1], &d, &op->epsilon)) {
      top = div->in[0];
    } else if (const GraphNode* mul = made_by(value, "Mul")) {
      for (size_t i = 0; i < 2 && top < 0; ++i)
        if (inverse_deviation(mul->in[1 - i], &d, &op->epsilon)) top = mul->in[i];
    }
    if (top < 0) return false;
    include(value);
    int x = -1;
    if (difference(top, &x)) {
      int again = -1;  // some exporters compute the difference twice
      if (top != d && !(difference(d, &again) && again == x)) return false;
      op->centred = true;
    } else if (top == d) {
      x = top;
      op->centred = false;
    } else {
      return false;
    }
    const GraphValue& v = graph_.value(x);
    if (v.constant || !v.ranked || v.desc.type != abi::kFloat) return false;
    const Dims& dims = context_.of(x);
    if (dims.size() < 2 || !dims.back().known()) return false;
    // Constants of more axes would make a result of more axes.
    if (graph_.value(graph_.node(last_).out[0]).desc.dims.size() != dims.size()) return false;
    x_ = x;
    size_ = static_cast<size_t>(dims.back().value);
    return true;
  }

  // `value` = x - mean(x)
  bool difference(int value, int* x) {
    const GraphNode* sub = made_by(value, "Sub");
    int of = -1;
    if (sub == nullptr || !mean(sub->in[1], &of) || of != sub->in[0]) return false;
    include(value);
    *x = of;
    return true;
  }

  const LowerContext& context_;
  const Graph& graph_;
  Tracer tracer_;
  int last_;
  int x_ = -1;
  size_t size_ = 0;
};

}  // namespace

bool lower_norm_chain(const LowerContext& context, int last, Unit* unit) {
  const GraphNode& node = context.graph.node(last);
  if (!node.domain.empty() || node.out.size() != 1 || node.out[0] < 0) return false;
  if (node.op != "Add" && node.op != "Mul" && node.op != "Div") return false;
  const GraphValue& out = context.graph.value(node.out[0]);
  if (!out.ranked || out.desc.type != abi::kFloat) return false;
  try {
    return Chain(context, last).run(unit);
  } catch (const Unsupported&) {
    return false;
  }
}

void lower_norm(const LowerContext& context, const GraphNode& node, Unit* unit) {
  const bool skip = node.op.rfind("Skip", 0) == 0;
  const bool root = node.op.find("Simplified") != std::string::npos || node.op == "RMSNormalization";
  const int x = context.activation(node, 0);
  const Dims& dims = context.of(x);
  if (dims.size() < 2) throw Unsupported("the input has no features axis");
  const int64_t axis = attr_int(node, "axis", -1);
  if (axis != -1 && axis != static_cast<int64_t>(dims.size()) - 1)
    throw Unsupported("a normalisation over more than the last axis");
  if (attr_int(node, "stash_type", 1) != 1) throw Unsupported("a normalisation in another type than float32");
  Op& op = unit->op;
  std::vector<int> in = {x};
  if (skip) {
    in.push_back(context.activation(node, 1));
    const Dims& other = context.of(in[1]);
    bool same = other.size() == dims.size();
    for (size_t i = 0; same && i < dims.size(); ++i) same = dims[i] == other[i];
    if (!same) throw Unsupported("operands whose shapes differ or are not known to be equal");
  }
  const size_t gain = skip ? 2 : 1;
  op.scale = per_feature(context, node, gain, dims, "the gain");
  if (!(skip && root) && Graph::input(node, gain + 1) >= 0) op.shift = per_feature(context, node, gain + 1, dims, "the shift");
  if (const size_t bias = root ? 3 : 4; skip && Graph::input(node, bias) >= 0)
    op.bias = per_feature(context, node, bias, dims, "the bias");
  op.epsilon = attr_float(node, "epsilon", skip ? 1e-12f : 1e-5f);
  op.centred = !root;
  if (skip && node.out.size() > 3 && is_read(context.graph, node.out[3])) in = {shown_sum(context, node.out[3], in, unit)};
  set_norm(context, std::move(in), unit);
  unit->dims = dims;
}

}  // namespace onnxprune::ep
