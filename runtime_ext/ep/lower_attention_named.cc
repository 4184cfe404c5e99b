// Attention by name: Attention of ONNX, and MultiHeadAttention and Attention of onnxruntime.
#include <cmath>
#include <limits>

#include "ep/lower_attention.h"

namespace onnxprune::ep {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kMostHeads = 1 << 16;

// Masks of onnxruntime's own operators: whole numbers, [batch, keys] or [batch, queries, keys], of which those
// above zero show a key; or numbers to be added.
void read_masks(const LowerContext& context, const GraphNode& node, size_t padding, size_t added, StatedAttention* out) {
  out->spec.fill = -kInfinity;
  const int shown = Graph::input(node, padding);
  out->mask = Graph::input(node, added);
  if (shown < 0) {
    if (out->mask < 0) return;
    const GraphValue& v = context.graph.value(out->mask);
    if (v.constant || !v.ranked || v.desc.type != abi::kFloat || v.desc.dims.size() != 4)
      throw Unsupported("numbers added to the scores that are constant or no float32 tensor of four axes");
    return;
  }
  if (out->mask >= 0) throw Unsupported("two masks");
  const GraphValue& v = context.graph.value(shown);
  const size_t rank = v.desc.dims.size();
  if (v.constant || !v.ranked || v.desc.type != abi::kInt32 || (rank != 2 && rank != 3))
    throw Unsupported("a mask that is constant, or neither [batch, keys] nor [batch, queries, keys]");
  out->mask = shown;
  out->spec.mask_of = AttentionSpec::MaskOf::shown_ints;
  out->spec.denied = attr_float(node, "mask_filter_value", -10000.0f);
  out->spec.mask_gap = rank == 2 ? 2 : 1;
}

class Named {
 public:
  Named(const LowerContext& context, Tracer* tracer, Weaver* weaver, int index, StatedAttention* out)
      : context_(context), graph_(context.graph), tracer_(*tracer), weaver_(*weaver), node_(context.graph.node(index)), out_(*out) {
    tracer_.include(index);
    out_.spec.fill = -kInfinity;
  }

  void read() { node_.domain.empty() ? standard() : microsoft(); }

 private:
  int input(size_t i) const { return Graph::input(node_, i); }
  bool used(size_t output) const { return output < node_.out.size() && is_read(graph_, node_.out[output]); }
  void absent(size_t i, const char* what) const {
    if (input(i) >= 0) throw Unsupported(what);
  }

  // Of ONNX, from opset 23.
  void standard() {
    if (attr_float(node_, "softcap", 0) != 0) throw Unsupported("its scores are capped");
    const int64_t precision = attr_int(node_, "softmax_precision", 0);
    if (precision != 0 && precision != abi::kFloat) throw Unsupported("a softmax in another type than float32");
    if (used(3)) throw Unsupported("its scores are read");
    absent(6, "lengths of what is not padding");
    operands(attr_int(node_, "q_num_heads", 0), attr_int(node_, "kv_num_heads", 0));
    caches(4, 1);
    scale("scale");
    out_.mask = input(3);
    if (out_.mask >= 0 && graph_.value(out_.mask).desc.type == abi::kBool) out_.spec.mask_of = AttentionSpec::MaskOf::shown_bytes;
    out_.spec.denied = -kInfinity;
    out_.spec.empty = AttentionSpec::Empty::zero_masked;
    if (attr_int(node_, "is_causal", 0) != 0) causal();
    finish();
  }

  // MultiHeadAttention.
  void microsoft() {
    if (used(3)) throw Unsupported("its scores are read");
    absent(8, "keys of before in a buffer for all");
    absent(9, "keys of before of several beams");
    if (input(1) < 0 || input(2) < 0) throw Unsupported("queries, keys and values in one tensor");
    const int64_t heads = attr_int(node_, "num_heads", 0);
    operands(heads, heads);
    biases();
    caches(6, 1);
    scale("scale");
    read_masks(context_, node_, 4, 5, &out_);
    if (attr_int(node_, "unidirectional", 0) != 0) causal();
    finish();
  }
  Woven woven(int value) {
    auto w = value < 0 || graph_.is_constant(value) ? std::nullopt : weaver_.weave(value);
    if (!w || graph_.is_constant(w->traced.source)) throw Unsupported("an operand is constant or no tensor of floats");
    const GraphValue& source = graph_.value(w->traced.source);
    if (!source.ranked || source.desc.type != abi::kFloat || w->feature_axis() < 1)
      throw Unsupported("an operand is not known to be a float32 tensor");
    return *w;
  }

  // [batch, tokens, heads x features] as [batch, heads, tokens, features].
  static Woven by_heads(Woven w, int64_t heads) {
    auto& axes = w.traced.axes;
    if (axes.size() == 4) return w;
    int64_t size = 1;
    for (const Atom& atom : axes[2]) size = atom.size.known() ? size * atom.size.value : 0;
    if (heads < 1 || heads > kMostHeads || size < 1 || size % heads != 0) throw Unsupported("its heads do not divide the features");
    auto cut = cut_atoms(axes[2], {Dim::of(heads), Dim::of(size / heads)});
    if (!cut) throw Unsupported("its heads do not divide the features");
    axes = {axes[0], (*cut)[0], axes[1], (*cut)[1]};
    return w;
  }
  // Sizes of the operand by heads.
  Dims sizes(int value, int64_t heads) const {
    Dims dims = tracer_.dims_of(value);
    if (!dims.back().known() || dims.back().value < 1) throw Unsupported("the number of features is not known");
    if (dims.size() == 4) return dims;
    if (heads < 1 || dims.back().value % heads != 0) throw Unsupported("its heads do not divide the features");
    return {dims[0], Dim::of(heads), dims[1], Dim::of(dims.back().value / heads)};
  }

  void operands(int64_t q_heads, int64_t k_heads) {
    const size_t rank = tracer_.dims_of(input(0)).size();
    out_.joined = rank == 3;
    for (size_t i = 0; i < 3; ++i) {
      const size_t own = input(i) < 0 ? 0 : tracer_.dims_of(input(i)).size();
      if ((rank != 3 && rank != 4) || (own != 4 && own != 3) || (own == 3 && rank == 4))
        throw Unsupported("operands that have neither three axes nor four");
      if (own == 4 && rank == 3 && node_.domain.empty()) throw Unsupported("operands of different rank");
    }
    q_ = sizes(input(0), q_heads);
    k_ = sizes(input(1), k_heads);
    v_ = sizes(input(2), k_heads);
    for (const Dims* dims : {&q_, &k_, &v_})
      if (!(*dims)[1].known() || (*dims)[1].value < 1) throw Unsupported("the number of heads is not known");
    if (!(q_[3] == k_[3]) || !(k_[1] == v_[1]) || q_[1].value % k_[1].value != 0) throw Unsupported("its heads do not fit each other");
    out_.q = by_heads(woven(input(0)), q_heads);
    out_.k = by_heads(woven(input(1)), k_heads);
    out_.v = by_heads(woven(input(2)), k_heads);
  }

  void biases() {
    if (input(3) < 0) return;
    const Constant c = context_.weight(node_, 3, "the bias");
    int64_t first = 0;
    Woven* const operands[3] = {&out_.q, &out_.k, &out_.v};
    const Dims* const sizes[3] = {&q_, &k_, &v_};
    for (size_t i = 0; i < 3; ++i) {
      if (tracer_.dims_of(input(i)).size() != 3) throw Unsupported("a bias of operands with heads on an axis of their own");
      // What is added comes before everything else.
      Woven w;
      w.traced = tracer_.itself(input(i));
      *operands[i] = by_heads(std::move(w), (*sizes[i])[1].value);
      const int64_t size = (*sizes[i])[1].value * (*sizes[i])[3].value;
      if (first + size > c.size()) throw Unsupported("the bias does not fit the operands");
      out_.bias[i].assign(c.floats() + first, c.floats() + first + size);
      first += size;
    }
    if (first != c.size()) throw Unsupported("the bias does not fit the operands");
  }

  // Keys and values of before as inputs `in` and `in` + 1, with the new ones behind them as results.
  void caches(size_t in, size_t out) {
    for (size_t i = 0; i < 2; ++i) {
      StatedAttention::Cache& cache = i == 0 ? out_.k_cache : out_.v_cache;
      Woven& w = i == 0 ? out_.k : out_.v;
      Dims dims = i == 0 ? k_ : v_;
      cache.past = input(in + i);
      if (cache.past < 0 && !used(out + i)) continue;
      if (out + i >= node_.out.size() || node_.out[out + i] < 0) throw Unsupported("keys or values of before without a result for those of now");
      cache.present = node_.out[out + i];
      cache.added = w;
      if (cache.past >= 0) {
        past_ = true;
        dims = joined(dims, cache.past, cache.present);
      }
      context_.dims[static_cast<size_t>(cache.present)] = dims;
      if (cache.past < 0) continue;
      w = {};
      w.traced = tracer_.itself(cache.present);
    }
    if ((out_.k_cache.past >= 0) != (out_.v_cache.past >= 0)) throw Unsupported("keys of before without values, or values without keys");
  }
  // Sizes of a cache and what is put behind it.
  Dims joined(const Dims& added, int past, int present) const {
    const GraphValue& v = graph_.value(past);
    if (v.constant || !v.ranked || v.desc.type != abi::kFloat || v.desc.dims.size() != 4)
      throw Unsupported("keys or values of before are no float32 tensor of four axes");
    const Dims before = tracer_.dims_of(past);
    for (size_t axis : {1u, 3u})
      if (before[axis].known() && !(before[axis] == added[axis])) throw Unsupported("keys or values of before do not fit those of now");
    Dims out = added;
    out[2] = before[2].known() && added[2].known() ? Dim::of(before[2].value + added[2].value)
                                                   : Dim::named("?" + graph_.value(present).name + ".2");
    return out;
  }

  void scale(const char* name) {
    const float stated = attr_float(node_, name, 0);
    if (stated < 0) throw Unsupported("a negative scale");
    out_.scale = stated > 0 ? stated : 1.0 / std::sqrt(static_cast<double>(q_[3].value));
  }

  void causal() {
    out_.spec.causal = past_ ? AttentionSpec::Causal::from_last : AttentionSpec::Causal::from_first;
    if (past_ && !(q_[2] == k_[2])) throw Unsupported("not known to be as many queries as new keys");
  }

  // Heads of keys serve several of queries each, and the first product has keys last.
  void finish() {
    const int64_t times = q_[1].value / k_[1].value;
    for (Woven* w : {&out_.k, &out_.v})
      if (times > 1) w->traced.axes[1].push_back({-1, 0, Dim::of(times)});
    std::swap(out_.k.traced.axes[2], out_.k.traced.axes[3]);
    Dims& result = context_.dims[static_cast<size_t>(node_.out[0])];
    if (out_.joined) result = {q_[0], q_[2], Dim::of(q_[1].value * v_[3].value)};
    else result = {q_[0], q_[1], q_[2], v_[3]};
  }

  const LowerContext& context_;
  const Graph& graph_;
  Tracer& tracer_;
  Weaver& weaver_;
  const GraphNode& node_;
  StatedAttention& out_;
  Dims q_, k_, v_;  // [batch, heads, tokens, features]
  bool past_ = false;
};

}  // namespace

bool is_attention(const GraphNode& node) {
  if (node.out.empty() || node.out[0] < 0) return false;
  return (node.op == "Attention" && (node.domain.empty() || node.domain == "com.microsoft")) ||
         (node.op == "MultiHeadAttention" && node.domain == "com.microsoft");
}

bool is_packed_attention(const GraphNode& node) { return node.op == "Attention" && node.domain == "com.microsoft"; }

bool read_named_attention(const LowerContext& context, Tracer* tracer, Weaver* weaver, int index, StatedAttention* out) {
  if (is_packed_attention(context.graph.node(index))) return false;
  Named(context, tracer, weaver, index, out).read();
  return true;
}

bool lower_packed_attention(const LowerContext& context, int index, Unit* unit) {
  const GraphNode& node = context.graph.node(index);
  if (node.out.size() > 1 && is_read(context.graph, node.out[1])) throw Unsupported("its keys and values are read");
  for (size_t i : {4, 6})
    if (Graph::input(node, i) >= 0) throw Unsupported("keys and values of before");
  if (attr_int(node, "do_rotary", 0) != 0) throw Unsupported("it rotates queries and keys");
  const int x = context.activation(node, 0);
  const Constant weight = context.weight(node, 1, "the weight");
  const Dims& dims = context.of(x);
  const int64_t heads = attr_int(node, "num_heads", 0);
  if (dims.size() != 3 || weight.desc.dims.size() != 2 || weight.size() == 0) throw Unsupported("its input has not three axes, or its weight is no matrix");
  const int64_t in = weight.desc.dims[0], out = weight.desc.dims[1];
  if (dims[2].known() && dims[2].value != in) throw Unsupported("the input does not fit the weight");
  std::vector<int64_t> sizes = attr_ints(node, "qkv_hidden_sizes");
  if (sizes.empty()) sizes.assign(3, out / 3);
  if (sizes.size() != 3 || heads < 1 || heads > kMostHeads || in * out > INT32_MAX) throw Unsupported("sizes that do not fit the weight");
  for (int64_t size : sizes)
    if (size < 1 || size % heads != 0) throw Unsupported("its heads do not divide the features");
  if (sizes[0] + sizes[1] + sizes[2] != out || sizes[0] != sizes[1]) throw Unsupported("sizes that do not fit the weight");

  *unit = {};
  unit->before.emplace_back();
  Unit& sum = unit->before.back();
  sum.op.kind = OpKind::conv;
  sum.op.label = context.graph.label(node) + " (queries, keys and values)";
  sum.op.in = {x};
  sum.op.geometry = kernels::matmul_geometry(static_cast<int32_t>(in), static_cast<int32_t>(out));
  sum.op.source = std::make_shared<WeightSource>();
  if (Graph::input(node, 2) >= 0) {
    const Constant bias = context.weight(node, 2, "the bias");
    if (bias.size() != out) throw Unsupported("the bias does not fit the weight");
    sum.op.source->bias.assign(bias.floats(), bias.floats() + out);
  }
  sum.supported = true;
  sum.domains = bit(Domain::tokens);
  sum.dims = dims;
  sum.dims[2] = Dim::of(out);
  WeightInput matrix;
  matrix.dims = weight.desc.dims;
  matrix.dense = weight.floats();
  matrix.give(1, out, &sum);

  StatedAttention stated;
  read_masks(context, node, 3, 5, &stated);
  AttentionSpec spec = std::move(stated.spec);
  if (attr_int(node, "unidirectional", 0) != 0) spec.causal = AttentionSpec::Causal::from_first;
  const float scale = attr_float(node, "scale", 0);
  if (scale < 0) throw Unsupported("a negative scale");
  spec.dim = static_cast<int32_t>(sizes[0] / heads);
  spec.value_dim = static_cast<int32_t>(sizes[2] / heads);
  spec.scale = scale > 0 ? scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.dim)));
  for (int64_t h = 0; h < heads; ++h) {
    spec.q_head.push_back(static_cast<int32_t>(h * spec.dim));
    spec.k_head.push_back(static_cast<int32_t>(sizes[0] + h * spec.dim));
    spec.v_head.push_back(static_cast<int32_t>(sizes[0] + sizes[1] + h * spec.value_dim));
  }
  spec.roles = {AttentionSpec::batch, AttentionSpec::head, AttentionSpec::one, AttentionSpec::one};
  check_attention(spec);
  Op& op = unit->op;
  op.kind = OpKind::attention;
  op.in.assign(3, kBefore);
  if (stated.mask >= 0) op.in.push_back(stated.mask);
  op.out = node.out[0];
  op.label = context.graph.label(node);
  op.attention = std::make_shared<const AttentionSpec>(std::move(spec));
  unit->anchor = true;
  unit->domains = bit(Domain::tokens);
  unit->dims = dims;
  unit->dims[2] = Dim::of(sizes[2]);
  unit->nodes = {index};
  return true;
}

}  // namespace onnxprune::ep
