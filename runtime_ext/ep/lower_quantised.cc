// Quantised layers: 8-bit numbers q that stand for scale * (q - zero). Spelled as the float operator between
// DequantizeLinear and QuantizeLinear nodes, computed as onnxruntime computes what it fuses of them: with
// integers. Values are held as q - zero in floats, in which padding is zero, and sums of products are exact
// below 2^24.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ep/lower_internal.h"

namespace onnxprune::ep {
namespace {

constexpr float kExact = 1 << 24;

struct Range {
  float low = 0, high = 0;
};

Range range_of(abi::ElementType type) {
  if (type == abi::kUint8) return {0, 255};
  if (type == abi::kInt8) return {-128, 127};
  throw Unsupported("it is quantised to another type than 8-bit integers");
}

// Of a QuantizeLinear or DequantizeLinear node.
struct Quantisation {
  std::vector<float> scale;
  std::vector<int32_t> zero;  // as many, or one
  abi::ElementType type = abi::kUndefined;
  int64_t axis = 1;

  bool per_tensor() const { return scale.size() == 1; }
  int32_t zero_at(size_t i) const { return zero[zero.size() == 1 ? 0 : i]; }
  float scale_at(size_t i) const { return scale[scale.size() == 1 ? 0 : i]; }
  friend bool operator==(const Quantisation& a, const Quantisation& b) {
    return a.scale == b.scale && a.zero == b.zero && a.type == b.type;
  }
};

std::vector<int32_t> integers(const Constant& c) {
  const auto size = static_cast<size_t>(c.size());
  if (c.desc.type == abi::kUint8) {
    const auto* p = static_cast<const uint8_t*>(c.data);
    return {p, p + size};
  }
  if (c.desc.type == abi::kInt8) {
    const auto* p = static_cast<const int8_t*>(c.data);
    return {p, p + size};
  }
  if (c.desc.type == abi::kInt32) {
    const auto* p = static_cast<const int32_t*>(c.data);
    return {p, p + size};
  }
  throw Unsupported("it is quantised to another type than 8-bit integers");
}

Quantisation quantisation_of(const LowerContext& context, const GraphNode& node) {
  Quantisation q;
  q.type = context.graph.value(node.op == "QuantizeLinear" ? node.out[0] : node.in[0]).desc.type;
  q.axis = attr_int(node, "axis", 1);
  if (attr_int(node, "block_size", 0) != 0) throw Unsupported("it is quantised in blocks");
  const Constant scale = context.weight(node, 1, "the scale");
  q.scale.assign(scale.floats(), scale.floats() + scale.size());
  for (float s : q.scale)
    if (!std::isfinite(s) || s <= 0) throw Unsupported("a scale that is not positive");
  q.zero = {0};
  if (const int zero = Graph::input(node, 2); zero >= 0) {
    if (!context.graph.is_constant(zero)) throw Unsupported("the zero point is not constant");
    q.zero = integers(constant(context.graph.value(zero)));
  }
  if (q.scale.empty() || (q.zero.size() != 1 && q.zero.size() != q.scale.size()))
    throw Unsupported("scale and zero point do not fit each other");
  return q;
}

// Of an activation: one scale for all of it.
Quantisation tensor_quantisation(const LowerContext& context, const GraphNode& node) {
  Quantisation q = quantisation_of(context, node);
  range_of(q.type);
  if (!q.per_tensor() || q.zero.size() != 1) throw Unsupported("an activation with more than one scale");
  return q;
}

// The node that makes `value`, if it is a DequantizeLinear that nobody else reads; -1 otherwise.
int private_dequantise(const Graph& graph, int value) {
  if (value < 0) return -1;
  const GraphValue& v = graph.value(value);
  if (v.producer < 0 || v.graph_output || v.consumers.size() != 1 || v.uses != 1) return -1;
  const GraphNode& node = graph.node(v.producer);
  const bool dequantises = node.op == "DequantizeLinear" && node.domain.empty() && node.in.size() >= 2 && node.in[0] >= 0;
  return dequantises ? v.producer : -1;
}

// Whether onnxruntime turns a signed quantised value into an unsigned one before it fuses: where it sees the
// node that makes it and the only one that reads it.
bool becomes_unsigned(const Graph& graph, int value) {
  const GraphValue& v = graph.value(value);
  if (v.desc.type != abi::kInt8) return v.desc.type == abi::kUint8;
  return v.producer >= 0 && graph.node(v.producer).op == "QuantizeLinear" && !v.graph_output && v.consumers.size() == 1 &&
         v.uses == 1 && graph.node(v.consumers[0]).op == "DequantizeLinear";
}

bool is_weighted(const GraphNode& node) {
  return node.domain.empty() && (node.op == "Conv" || node.op == "Gemm" || node.op == "MatMul");
}
bool moves_only(const GraphNode& node) {
  return node.op == "MaxPool" || node.op == "Concat" || node.op == "Flatten" || node.op == "Reshape" ||
         node.op == "Squeeze" || node.op == "Unsqueeze";
}

// Inputs of `core` that are tensors of numbers, not lists of sizes.
size_t number_operands(const GraphNode& core) {
  return core.op == "Reshape" || core.op == "Squeeze" || core.op == "Unsqueeze" ? 1 : core.in.size();
}

// A constant of dequantised numbers as whole numbers: q - zero. `axis`: along which scales may vary.
Constant whole_numbers(const LowerContext& context, const GraphNode& dequantise, const Quantisation& q, int64_t axis,
                       std::vector<float>* out) {
  const Constant c = constant(context.graph.value(dequantise.in[0]));
  const Shape& dims = c.desc.dims;
  const int64_t rank = static_cast<int64_t>(dims.size());
  int64_t inner = 1, size = 1;
  if (q.scale.size() > 1) {
    const int64_t stated = q.axis < 0 ? q.axis + rank : q.axis;
    if (stated != axis || axis >= rank || dims[static_cast<size_t>(axis)] != static_cast<int64_t>(q.scale.size()))
      throw Unsupported("scales that vary along another axis than the outputs");
    size = dims[static_cast<size_t>(axis)];
    for (int64_t i = axis + 1; i < rank; ++i) inner *= dims[static_cast<size_t>(i)];
  }
  const std::vector<int32_t> values = integers(c);
  out->resize(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const auto at = static_cast<size_t>(static_cast<int64_t>(i) / inner % size);
    (*out)[i] = static_cast<float>(values[i] - q.zero_at(at));
  }
  Constant whole;
  whole.data = out->data();
  whole.desc.type = abi::kFloat;
  whole.desc.dims = dims;
  return whole;
}

// Sums must be exact whatever the inputs: in any order, with the bias.
void check_exact(const Op& op, float largest_input) {
  const WeightSource& source = *op.source;
  const int64_t columns = op.geometry.columns();
  for (int32_t r = 0; r < op.geometry.out_channels; ++r) {
    double sum = 0;
    const float* row = source.dense.data + r * source.dense.row_stride;
    for (int64_t c = 0; c < columns; ++c) sum += std::fabs(row[c * source.dense.column_stride]);
    sum *= largest_input;
    if (!source.bias.empty()) sum += std::fabs(source.bias[static_cast<size_t>(r)]);
    if (sum >= kExact) throw Unsupported("sums of its integers may exceed 2^24, up to which floats are exact");
  }
}

class QuantisedLayer {
 public:
  QuantisedLayer(const LowerContext& context, const QuantisedChain& chain, Unit* unit)
      : context_(context), chain_(chain), core_(context.graph.node(chain.core)), unit_(unit) {}

  void lower() {
    Op& op = unit_->op;
    for (size_t i = 0; i < number_operands(core_); ++i) {
      const int dequantise = private_dequantise(context_.graph, Graph::input(core_, i));
      if (dequantise < 0) continue;
      const GraphNode& node = context_.graph.node(dequantise);
      if (context_.graph.is_constant(node.in[0])) continue;
      inputs_.push_back(tensor_quantisation(context_, node));
      context_.has_zero(node.in[0], inputs_.back().zero[0]);
      stand_ins_.activations[core_.in[i]] = node.in[0];
    }
    if (chain_.quantise >= 0) {
      const GraphNode& node = context_.graph.node(chain_.quantise);
      output_ = tensor_quantisation(context_, node);
      op.out = node.out[0];
    } else {
      op.out = core_.out[0];
    }
    stand_in_context_.stand_ins = &stand_ins_;
    if (is_weighted(core_)) {
      weighted();
    } else if (core_.op == "Add") {
      sum();
    } else if (core_.op == "GlobalAveragePool") {
      mean();
    } else {
      move();
    }
    if (chain_.quantise >= 0) context_.has_zero(op.out, output_.zero[0]);
    unit_->quantised = fused();
  }

 private:
  // Whether onnxruntime computes with integers here (x86-64): all of its values must be unsigned in the end.
  bool fused() const {
    bool all = chain_.quantise >= 0 && becomes_unsigned(context_.graph, unit_->op.out);
    for (int v : unit_->op.in) all = all && becomes_unsigned(context_.graph, v);
    return all || moves_only(core_);
  }

  // What the result is clamped to: activations between the operator and its quantisation are.
  Range limits() const {
    const float zero = static_cast<float>(output_.zero[0]), step = output_.scale[0];
    Range limits{-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()};
    const auto clamp = [&](float low, float high) {
      limits.low = std::min(std::max(limits.low, low), high);
      limits.high = std::min(std::max(limits.high, low), high);
    };
    for (int n : chain_.clips) {
      Unit clip;
      lower_activation(stand_in_context_, context_.graph.node(n), &clip);
      const kernels::Epilogue& e = clip.op.epilogue;
      const bool relu = e.activation == kernels::Activation::relu;
      const float infinity = std::numeric_limits<float>::infinity();
      clamp(relu ? 0 : std::nearbyint(e.alpha / step), relu ? infinity : std::nearbyint(e.beta / step));
    }
    const Range type = range_of(output_.type);
    clamp(type.low - zero, type.high - zero);
    return limits;
  }

  void round_result() {
    const Range range = limits();
    kernels::Epilogue& e = unit_->op.epilogue;
    e.activation = kernels::Activation::round;
    e.alpha = range.low;
    e.beta = range.high;
  }

  void weighted() {
    Op& op = unit_->op;
    if (inputs_.size() != 1 || !stand_ins_.activations.count(core_.in[0])) throw Unsupported("not one quantised input and a constant weight");
    if (attr_float(core_, "alpha", 1.0f) != 1.0f || attr_float(core_, "beta", 1.0f) != 1.0f || attr_int(core_, "transA", 0) != 0)
      throw Unsupported("a Gemm with factors or a transposed input, quantised");
    const int64_t axis = core_.op == "Conv" || attr_int(core_, "transB", 0) != 0 ? 0 : 1;
    const GraphNode& from = context_.graph.node(private_dequantise(context_.graph, core_.in[1]));
    const Quantisation q = quantisation_of(context_, from);
    range_of(q.type);
    auto weight = std::make_shared<std::vector<float>>();
    stand_ins_.constants[core_.in[1]] = whole_numbers(context_, from, q, axis, weight.get());
    std::vector<float> bias;
    if (Graph::input(core_, 2) >= 0) {
      const int dequantise = private_dequantise(context_.graph, core_.in[2]);
      if (dequantise < 0) throw Unsupported("its bias is not quantised");
      stand_ins_.constants[core_.in[2]] = whole_bias(context_.graph.node(dequantise), q, &bias);
    }
    if (core_.op == "Conv") {
      lower_conv(stand_in_context_, core_, unit_);
    } else if (core_.op == "Gemm") {
      lower_gemm(stand_in_context_, core_, unit_);
    } else {
      lower_matmul(stand_in_context_, core_, unit_);
    }
    op.source->held = std::move(weight);
    unit_->has_sign = q.type == abi::kInt8;
    const Quantisation& x = inputs_[0];
    const Range range = range_of(x.type);
    const float zero = static_cast<float>(x.zero[0]);
    check_exact(op, std::max(std::fabs(range.low - zero), std::fabs(range.high - zero)));
    for (size_t r = 0; r < static_cast<size_t>(op.geometry.out_channels); ++r) {
      const float product = x.scale[0] * q.scale_at(r);
      op.scale.push_back(chain_.quantise >= 0 ? product / output_.scale[0] : product);
    }
    if (chain_.quantise >= 0) round_result();
  }

  // Whole numbers whose scale is that of the products.
  Constant whole_bias(const GraphNode& dequantise, const Quantisation& weight, std::vector<float>* bias) const {
    const Quantisation q = quantisation_of(context_, dequantise);
    if (q.type != abi::kInt32) throw Unsupported("its bias is not quantised to int32");
    for (int32_t zero : q.zero)
      if (zero != 0) throw Unsupported("its bias has a zero point");
    const Constant whole = whole_numbers(context_, dequantise, q, 0, bias);
    const size_t scales = std::max(q.scale.size(), weight.scale.size());
    for (size_t i = 0; i < scales; ++i) {
      if (q.scale.size() > 1 && weight.scale.size() > 1 && q.scale.size() != weight.scale.size())
        throw Unsupported("the scales of bias and weight do not fit each other");
      const float product = inputs_[0].scale[0] * weight.scale_at(i);
      if (std::fabs(q.scale_at(i) - product) > 1e-5f * product) throw Unsupported("its bias has another scale than its products");
    }
    return whole;
  }

  void sum() {
    Op& op = unit_->op;
    if (inputs_.size() != 2) throw Unsupported("a sum of which one term is not quantised");
    lower_binary(stand_in_context_, core_, unit_);
    if (op.fit != Fit::same) throw Unsupported("operands whose shapes differ or are not known to be equal");
    op.kind = OpKind::quantised_sum;
    round_result();
    const float a = inputs_[0].scale[0], b = inputs_[1].scale[0], step = output_.scale[0];
    if (!fused()) {
      op.scale = {a, b, step};
      return;
    }
    // In the order, and with the roundings, of onnxruntime's kernel for numbers as they are stored, unsigned.
    const auto stored = [](const Quantisation& q) { return static_cast<float>(q.zero[0] + (q.type == abi::kInt8 ? 128 : 0)); };
    const float a_zero = stored(inputs_[0]), b_zero = stored(inputs_[1]), zero = stored(output_);
    op.scale = {a / step, b / step};
    op.shift = {a_zero, b_zero, zero - std::fma(op.scale[0], a_zero, op.scale[1] * b_zero), zero};
  }

  void mean() {
    Op& op = unit_->op;
    if (inputs_.size() != 1 || !chain_.clips.empty()) throw Unsupported("a mean of something not quantised");
    lower_global_pool(stand_in_context_, core_, unit_);
    const Dims& x = context_.of(op.in[0]);
    int64_t pixels = 1;
    for (size_t i = 2; i < x.size(); ++i) {
      if (!x[i].known()) throw Unsupported("a quantised mean over open sizes");
      pixels *= x[i].value;
    }
    if (pixels < 1 || pixels > (1 << 16)) throw Unsupported("sums of its integers may exceed 2^24, up to which floats are exact");
    op.scale = {inputs_[0].scale[0] / (output_.scale[0] * static_cast<float>(pixels))};
    round_result();
  }

  // The integers themselves, if they stand for the same before and after.
  void move() {
    if (chain_.quantise < 0 || !chain_.clips.empty()) throw Unsupported("an activation of moved integers");
    for (const Quantisation& q : inputs_)
      if (!(q == output_)) throw Unsupported("it is quantised in another way than its input");
    if (inputs_.size() != number_operands(core_)) throw Unsupported("an operand that is not quantised");
    if (core_.op == "MaxPool") {
      lower_pool(stand_in_context_, core_, unit_);
    } else if (core_.op == "Concat") {
      lower_concat(stand_in_context_, core_, unit_);
    } else {
      lower_reshape(stand_in_context_, core_, unit_);
    }
  }

  const LowerContext& context_;
  const QuantisedChain& chain_;
  const GraphNode& core_;
  Unit* unit_;
  StandIns stand_ins_;
  LowerContext stand_in_context_ = context_;
  std::vector<Quantisation> inputs_;
  Quantisation output_;
};

}  // namespace

bool match_quantised(const Graph& graph, int last, QuantisedChain* chain) {
  *chain = {};
  chain->core = last;
  std::vector<int>& nodes = chain->nodes;
  if (graph.node(last).op == "QuantizeLinear" && graph.node(last).domain.empty()) {
    chain->quantise = last;
    nodes.push_back(last);
    for (int value = Graph::input(graph.node(last), 0);;) {
      if (value < 0) return false;
      const GraphValue& v = graph.value(value);
      if (v.producer < 0 || v.graph_output || v.consumers.size() != 1 || v.uses != 1) return false;
      chain->core = v.producer;
      const GraphNode& node = graph.node(v.producer);
      if (!node.domain.empty() || (node.op != "Relu" && node.op != "Clip")) break;
      chain->clips.insert(chain->clips.begin(), v.producer);
      nodes.push_back(v.producer);
      value = Graph::input(node, 0);
    }
  }
  const GraphNode& core = graph.node(chain->core);
  const bool weighted = is_weighted(core);
  if (!core.domain.empty() || core.out.size() != 1 || core.in.empty()) return false;
  if (!weighted && (chain->quantise < 0 || !(core.op == "Add" || core.op == "GlobalAveragePool" || moves_only(core)))) return false;
  nodes.push_back(chain->core);
  for (size_t i = 0; i < number_operands(core); ++i) {
    const int dequantise = private_dequantise(graph, core.in[i]);
    if (dequantise >= 0) nodes.push_back(dequantise);
    const bool constant = dequantise >= 0 && graph.is_constant(graph.node(dequantise).in[0]);
    // A bias may be something else; then the layer is no quantised one that could be computed.
    if (weighted ? i < 2 && (dequantise < 0 || constant != (i == 1)) : dequantise < 0 || constant) return false;
  }
  std::sort(nodes.begin(), nodes.end());
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
  return true;
}

void lower_quantised(const LowerContext& context, const QuantisedChain& chain, Unit* unit) {
  unit->nodes = chain.nodes;
  unit->op.label = context.graph.label(context.graph.node(chain.core));
  QuantisedLayer(context, chain, unit).lower();
}

void lower_quantise(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::pointwise;
  op.in = {context.activation(node, 0)};
  const Quantisation q = tensor_quantisation(context, node);
  const Range range = range_of(q.type);
  const auto zero = static_cast<float>(q.zero[0]);
  op.epilogue.activation = kernels::Activation::quantise;
  op.epilogue.alpha = range.low - zero;
  op.epilogue.beta = range.high - zero;
  op.epilogue.step = q.scale[0];
  context.has_zero(op.out, q.zero[0]);
  unit->domains = kAnyDomain;
  unit->dims = context.of(op.in[0]);
}

void lower_dequantise(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  const int x = Graph::input(node, 0);
  if (x < 0 || context.graph.is_constant(x)) throw Unsupported("input 0 is a constant");
  if (!context.graph.value(x).ranked) throw Unsupported("the rank of the input is not known");
  const Quantisation q = tensor_quantisation(context, node);
  context.has_zero(x, q.zero[0]);
  op.kind = OpKind::affine;
  op.in = {x};
  op.scale = q.scale;
  unit->domains = kAnyDomain;
  unit->dims = context.of(x);
}

}  // namespace onnxprune::ep
