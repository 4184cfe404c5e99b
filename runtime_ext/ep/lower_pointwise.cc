// Activations, spelled as one node or as several.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ep/lower_internal.h"

namespace onnxprune::ep {
namespace {

using kernels::Activation;

void set(const LowerContext& context, int input, Activation activation, float alpha, float beta, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::pointwise;
  op.in = {input};
  op.epilogue.activation = activation;
  op.epilogue.alpha = alpha;
  op.epilogue.beta = beta;
  unit->domains = kAnyDomain;
  unit->dims = context.of(input);
}

// Bound of a Clip: constant input from opset 11, attribute before.
float bound(const LowerContext& context, const GraphNode& node, size_t input, const char* name, float fallback) {
  if (node.since < 11) return attr_float(node, name, fallback);
  int value = Graph::input(node, input);
  if (value < 0) return fallback;
  float out = 0;
  if (!scalar_constant(context.graph, value, &out)) throw Unsupported("a bound that is not constant");
  return out;
}

bool near(float value, double expected) { return std::abs(value - expected) <= 1e-6 * std::abs(expected); }

// Walks from a result back to its operands. Every step checks that the value is read only inside.
class Matcher {
 public:
  Matcher(const LowerContext& context, int last) : context_(context), nodes_{last} {}

  // The node of type `op` that makes `value`, if only `readers` uses exist; null otherwise.
  const GraphNode* step(int value, const char* op, size_t readers = 1) {
    if (value < 0) return nullptr;
    const GraphValue& v = context_.graph.value(value);
    if (v.producer < 0 || v.graph_output || v.consumers.size() != readers || v.uses != readers) return nullptr;
    const GraphNode& node = context_.graph.node(v.producer);
    if (node.op != op || !node.domain.empty()) return nullptr;
    nodes_.push_back(v.producer);
    return &node;
  }
  // The operand of a two-operand node that is not the scalar constant `expected`; -1 if there is none.
  int beside_scalar(const GraphNode& node, double expected, bool commutes) const {
    for (size_t i = 0; i < 2; ++i) {
      float c = 0;
      if (i == 0 && !commutes) continue;
      if (node.in.size() == 2 && scalar_constant(context_.graph, node.in[i], &c) && near(c, expected))
        return node.in[1 - i];
    }
    return -1;
  }
  // x * s or x / (1 / s).
  int unscaled(const GraphNode& node, double factor) const {
    if (node.op == "Mul") return beside_scalar(node, factor, true);
    if (node.op == "Div") return beside_scalar(node, 1.0 / factor, false);
    return -1;
  }
  bool scalar(int value, float* out) const { return scalar_constant(context_.graph, value, out); }
  // In the order of the graph, each once.
  std::vector<int> nodes() const {
    std::vector<int> out(nodes_);
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
  }
  size_t mark() const { return nodes_.size(); }
  void reset(size_t mark) { nodes_.resize(mark); }

 private:
  const LowerContext& context_;
  std::vector<int> nodes_;
};

// x * Sigmoid(x), x * HardSigmoid(x; 1/6, 1/2)
bool match_gated(const LowerContext& context, const GraphNode& mul, Matcher* m, int* x, Activation* what) {
  if (mul.op != "Mul" || mul.in.size() != 2) return false;
  for (size_t i = 0; i < 2; ++i) {
    const size_t mark = m->mark();
    if (const GraphNode* gate = m->step(mul.in[1 - i], "Sigmoid"); gate && gate->in[0] == mul.in[i]) {
      *x = mul.in[i];
      *what = Activation::silu;
      return true;
    }
    m->reset(mark);
    if (const GraphNode* gate = m->step(mul.in[1 - i], "HardSigmoid"); gate && gate->in[0] == mul.in[i]) {
      if (near(attr_float(*gate, "alpha", 0.2f), 1.0 / 6) && near(attr_float(*gate, "beta", 0.5f), 0.5)) {
        *x = mul.in[i];
        *what = Activation::hard_swish;
        return true;
      }
    }
    m->reset(mark);
  }
  (void)context;
  return false;
}

// min(max(x + 3, 0), 6), reached from `value`; returns x or -1.
int match_relu6(const LowerContext& context, Matcher* m, int value) {
  const GraphNode* clip = m->step(value, "Clip");
  if (!clip) return -1;
  try {
    if (bound(context, *clip, 1, "min", -1) != 0.0f || bound(context, *clip, 2, "max", -1) != 6.0f) return -1;
  } catch (const Unsupported&) {
    return -1;
  }
  const GraphNode* add = m->step(clip->in[0], "Add");
  return add ? m->beside_scalar(*add, 3.0, true) : -1;
}

// x * relu6(x + 3) / 6 or relu6(x + 3) / 6, the sixth anywhere in the product.
bool match_hard(const LowerContext& context, const GraphNode& last, Matcher* m, int* x, Activation* what) {
  const size_t start = m->mark();
  if (const int sixfold = m->unscaled(last, 1.0 / 6); sixfold >= 0) {
    *what = Activation::hard_sigmoid;
    if ((*x = match_relu6(context, m, sixfold)) >= 0) return true;
    m->reset(start);
    *what = Activation::hard_swish;
    if (const GraphNode* mul = m->step(sixfold, "Mul"); mul && mul->in.size() == 2) {
      const size_t mark = m->mark();
      for (size_t i = 0; i < 2; ++i) {
        m->reset(mark);
        *x = match_relu6(context, m, mul->in[1 - i]);
        if (*x >= 0 && *x == mul->in[i]) return true;
      }
    }
    m->reset(start);
  }
  *what = Activation::hard_swish;
  for (size_t i = 0; last.op == "Mul" && last.in.size() == 2 && i < 2; ++i) {
    for (const char* op : {"Div", "Mul"}) {
      m->reset(start);
      const GraphNode* gate = m->step(last.in[1 - i], op);
      *x = gate ? match_relu6(context, m, m->unscaled(*gate, 1.0 / 6)) : -1;
      if (*x >= 0 && *x == last.in[i]) return true;
    }
  }
  m->reset(start);
  return false;
}

// Erf(x / sqrt 2) + 1, reached from `value`; returns x or -1.
int match_erf(Matcher* m, int value) {
  const GraphNode* add = m->step(value, "Add");
  if (!add) return -1;
  const GraphNode* erf = m->step(m->beside_scalar(*add, 1.0, true), "Erf");
  if (!erf) return -1;
  const size_t mark = m->mark();
  for (const char* op : {"Div", "Mul"}) {
    m->reset(mark);
    if (const GraphNode* scaled = m->step(erf->in[0], op)) return m->unscaled(*scaled, std::sqrt(0.5));
  }
  return -1;
}

// x^3 as `value`, with the number `factor` somewhere in the product; returns x or -1.
int match_cube(Matcher* m, int value, double factor) {
  const size_t start = m->mark();
  const GraphNode* mul = m->step(value, "Mul");
  if (!mul) return -1;
  if (const GraphNode* pow = m->step(m->beside_scalar(*mul, factor, true), "Pow")) {
    float exponent = 0;
    if (m->scalar(pow->in[1], &exponent) && exponent == 3.0f) return pow->in[0];
  }
  // ((factor x) x) x and its like: three of the factors are the same value.
  m->reset(start);
  std::vector<int> open = {value}, leaves;
  bool scaled = false;
  while (!open.empty() && leaves.size() <= 3) {
    const int next = open.back();
    open.pop_back();
    float c = 0;
    if (m->scalar(next, &c)) {
      if (scaled || !near(c, factor)) break;
      scaled = true;
    } else if (const GraphNode* product = leaves.empty() || next != leaves[0] ? m->step(next, "Mul") : nullptr) {
      open.insert(open.end(), product->in.begin(), product->in.end());
    } else {
      leaves.push_back(next);
    }
  }
  if (open.empty() && scaled && leaves.size() == 3 && leaves[0] == leaves[1] && leaves[1] == leaves[2]) return leaves[0];
  m->reset(start);
  return -1;
}

// tanh(sqrt(2 / pi) (x + 0.044715 x^3)) + 1, reached from `value`; returns x or -1.
int match_tanh(Matcher* m, int value) {
  const GraphNode* add = m->step(value, "Add");
  if (!add) return -1;
  const GraphNode* tanh = m->step(m->beside_scalar(*add, 1.0, true), "Tanh");
  if (!tanh) return -1;
  const GraphNode* scaled = m->step(tanh->in[0], "Mul");
  if (!scaled) return -1;
  const GraphNode* sum = m->step(m->beside_scalar(*scaled, std::sqrt(2.0 / std::acos(-1.0)), true), "Add");
  if (!sum || sum->in.size() != 2) return -1;
  const size_t mark = m->mark();
  for (size_t i = 0; i < 2; ++i) {
    m->reset(mark);
    const int x = match_cube(m, sum->in[1 - i], 0.044715);
    if (x >= 0 && x == sum->in[i]) return x;
  }
  return -1;
}

// x / 2 * (1 + erf(x / sqrt 2)), or with the approximation by tanh (`match_erf` is then match_tanh), the
// half anywhere in the product.
bool match_gelu(const GraphNode& last, Matcher* m, int* x, int (*match_erf)(Matcher*, int)) {
  if (last.op != "Mul" || last.in.size() != 2) return false;
  const size_t start = m->mark();
  // (x * (erf + 1)) * 0.5
  if (int product = m->unscaled(last, 0.5); product >= 0) {
    if (const GraphNode* mul = m->step(product, "Mul")) {
      const size_t mark = m->mark();
      for (size_t i = 0; i < 2; ++i) {
        m->reset(mark);
        int found = match_erf(m, mul->in[1 - i]);
        if (found >= 0 && found == mul->in[i]) {
          *x = found;
          return true;
        }
      }
    }
  }
  // (0.5 * x) * (erf + 1), or x * (0.5 * (erf + 1))
  for (size_t i = 0; i < 2; ++i) {
    m->reset(start);
    int found = match_erf(m, last.in[1 - i]);
    if (found >= 0) {
      const GraphNode* half = m->step(last.in[i], "Mul");
      if (half && m->unscaled(*half, 0.5) == found) {
        *x = found;
        return true;
      }
    }
    m->reset(start);
    const GraphNode* half = m->step(last.in[1 - i], "Mul");
    if (half) {
      int found_erf = match_erf(m, m->unscaled(*half, 0.5));
      if (found_erf >= 0 && found_erf == last.in[i]) {
        *x = found_erf;
        return true;
      }
    }
  }
  m->reset(start);
  return false;
}

// A constant added to the features first.
void add_bias(const LowerContext& context, const GraphNode& node, Unit* unit) {
  const Constant bias = context.weight(node, 1, "the bias");
  if (unit->dims.empty() || !(unit->dims.back() == Dim::of(bias.size())) || bias.desc.dims.size() != 1)
    throw Unsupported("a bias that is not one number per feature");
  unit->op.kind = OpKind::affine;
  unit->op.shift.assign(bias.floats(), bias.floats() + bias.size());
  unit->domains = bit(Domain::tokens);
}

// f(alpha x) / alpha.
void scale_inside(const LowerContext& context, float alpha, Unit* unit) {
  if (alpha == 1.0f) return;
  if (!(alpha > 0)) throw Unsupported("a factor that is not above zero");
  unit->before.emplace_back();
  Unit& inside = unit->before.back();
  inside.op = unit->op;
  inside.op.kind = OpKind::affine;
  inside.op.scale = {alpha};
  inside.domains = unit->domains;
  inside.dims = context.of(unit->op.in[0]);
  inside.supported = true;
  unit->op.kind = OpKind::affine;
  unit->op.in = {kBefore};
  unit->op.epilogue = {};
  unit->op.scale = {1.0f / alpha};
}

}  // namespace

bool lower_composite(const LowerContext& context, int last, Unit* unit) {
  const GraphNode& node = context.graph.node(last);
  if ((node.op != "Mul" && node.op != "Div") || !node.domain.empty() || node.out.size() != 1 || node.out[0] < 0) return false;
  const GraphValue& out = context.graph.value(node.out[0]);
  if (!out.ranked || out.desc.type != abi::kFloat) return false;
  Matcher m(context, last);
  int x = -1;
  Activation what = Activation::none;
  float alpha = 0, beta = 0;
  if (match_hard(context, node, &m, &x, &what)) {
    if (what == Activation::hard_sigmoid) alpha = 1.0f / 6, beta = 0.5f;
  } else if (!match_gated(context, node, &m, &x, &what)) {
    if (match_gelu(node, &m, &x, match_erf)) {
      what = Activation::gelu_erf;
    } else if (match_gelu(node, &m, &x, match_tanh)) {
      what = Activation::gelu_tanh;
    } else {
      return false;
    }
  }
  if (context.graph.is_constant(x)) return false;
  const GraphValue& value = context.graph.value(x);
  if (!value.ranked || value.desc.type != abi::kFloat) return false;
  set(context, x, what, alpha, beta, unit);
  unit->nodes = m.nodes();
  unit->op.out = node.out[0];
  unit->op.label = context.graph.label(node);
  return true;
}

bool lower_activation(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Activation what = Activation::none;
  float alpha = 0, beta = 0;
  const bool standard = node.domain.empty();
  if (standard && node.op == "Relu") {
    what = Activation::relu;
  } else if (standard && node.op == "LeakyRelu") {
    what = Activation::leaky_relu;
    alpha = attr_float(node, "alpha", 0.01f);
  } else if (standard && node.op == "Clip") {
    what = Activation::clip;
    alpha = bound(context, node, 1, "min", std::numeric_limits<float>::lowest());
    beta = bound(context, node, 2, "max", std::numeric_limits<float>::max());
    if (!(alpha <= beta)) throw Unsupported("a Clip whose bounds are out of order");
  } else if (standard && node.op == "HardSwish") {
    what = Activation::hard_swish;
  } else if (standard && node.op == "HardSigmoid") {
    what = Activation::hard_sigmoid;
    alpha = attr_float(node, "alpha", 0.2f);
    beta = attr_float(node, "beta", 0.5f);
  } else if (standard && node.op == "Sigmoid") {
    what = Activation::sigmoid;
  } else if (standard && node.op == "Tanh") {
    what = Activation::tanh;
  } else if ((node.op == "FastGelu" || node.op == "BiasGelu") && node.domain == "com.microsoft") {
    what = node.op == "FastGelu" ? Activation::gelu_tanh : Activation::gelu_erf;
    set(context, context.activation(node, 0), what, alpha, beta, unit);
    if (Graph::input(node, 1) >= 0) add_bias(context, node, unit);
    return true;
  } else if ((node.op == "QuickGelu" && node.domain == "com.microsoft") || (standard && node.op == "Swish")) {
    set(context, context.activation(node, 0), Activation::silu, alpha, beta, unit);
    scale_inside(context, attr_float(node, "alpha", standard ? 1.0f : 1.702f), unit);
    return true;
  } else if (node.op == "Gelu") {
    std::string mode = attr_string(node, "approximate", "none");
    while (!mode.empty() && mode.back() == '\0') mode.pop_back();
    what = mode == "tanh" ? Activation::gelu_tanh : Activation::gelu_erf;
  } else {
    return false;
  }
  set(context, context.activation(node, 0), what, alpha, beta, unit);
  return true;
}

}  // namespace onnxprune::ep
