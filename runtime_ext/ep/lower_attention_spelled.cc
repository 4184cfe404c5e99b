// Attention written out: two products of activations with a softmax between them, the operands cut
// into heads by reshapes and transpositions in any order.
#include <limits>
#include <set>

#include "ep/lower_attention.h"

namespace onnxprune::ep {
namespace {

constexpr float kVeryLittle = -1e30f;  // no score that this is added to counts beside another

class Spelled {
 public:
  Spelled(const LowerContext& context, Tracer* tracer, Weaver* weaver, StatedAttention* out)
      : graph_(context.graph), tracer_(*tracer), weaver_(*weaver), out_(*out) {}

  bool read(int value) {
    out_.spec.fill = -std::numeric_limits<float>::infinity();
    const GraphNode* mixed = product(value);
    if (mixed == nullptr || !scores(mixed->in[0])) return false;
    const GraphNode* compared = product(score_);
    return compared != nullptr && operand(compared->in[0], &out_.q) && operand(compared->in[1], &out_.k) &&
           operand(mixed->in[1], &out_.v) && (triangle_.empty() || causal());
  }

 private:
  // The product of two activations that makes `value`.
  const GraphNode* product(int value) {
    const int producer = graph_.value(value).producer;
    if (producer < 0) return nullptr;
    const GraphNode& node = graph_.node(producer);
    if (node.op != "MatMul" || !node.domain.empty()) return nullptr;
    for (int v : node.in)
      if (v < 0 || graph_.is_constant(v)) return nullptr;
    tracer_.include(producer);
    return &node;
  }

  bool operand(int value, Woven* out) {
    auto woven = weaver_.weave(value);
    if (!woven || graph_.is_constant(woven->traced.source)) return false;
    const GraphValue& source = graph_.value(woven->traced.source);
    if (!source.ranked || source.desc.type != abi::kFloat) return false;
    *out = std::move(*woven);
    return out->feature_axis() >= 1;
  }

  // Where(IsNaN(x), 0, x): gives x.
  int numbers_only(int value) {
    const int producer = graph_.value(value).producer;
    if (producer < 0) return value;
    const GraphNode& where = graph_.node(producer);
    if (where.op != "Where" || !where.domain.empty()) return value;
    const int test = graph_.value(where.in[0]).producer;
    if (test < 0 || graph_.node(test).op != "IsNaN" || graph_.node(test).in[0] != where.in[2]) return value;
    if (tracer_.number(where.in[1]) != 0.0f) return value;
    tracer_.include(producer);
    tracer_.include(test);
    out_.spec.empty = AttentionSpec::Empty::zero_nan;
    return where.in[2];
  }

  // Softmax over the last axis, and what is done to the scores before it.
  bool scores(int value) {
    value = numbers_only(value);
    int producer = graph_.value(value).producer;
    if (producer < 0) return false;
    const GraphNode& softmax = graph_.node(producer);
    const int64_t rank = static_cast<int64_t>(graph_.value(value).desc.dims.size());
    if (softmax.op != "Softmax" || !softmax.domain.empty() || rank < 2) return false;
    int64_t axis = attr_int(softmax, "axis", softmax.since < 13 ? 1 : -1);
    if (axis < 0) axis += rank;
    if (axis != rank - 1) return false;
    tracer_.include(producer);
    score_ = softmax.in[0];
    for (;;) {
      producer = graph_.value(score_).producer;
      if (producer < 0 || !graph_.node(producer).domain.empty()) return false;
      const GraphNode& node = graph_.node(producer);
      if (node.op == "MatMul") return true;
      tracer_.include(producer);
      const int a = Graph::input(node, 0), b = Graph::input(node, 1);
      const bool scales = node.op == "Mul" || node.op == "Div";
      const auto right = scales ? tracer_.number(b) : std::nullopt;
      const auto left = node.op == "Mul" && !right ? tracer_.number(a) : std::nullopt;
      if (right) {
        out_.scale *= node.op == "Mul" ? *right : 1.0 / *right;
        score_ = a;
      } else if (left) {
        out_.scale *= *left;
        score_ = b;
      } else if (node.op == "Add" && out_.mask < 0 && triangle_.empty()) {
        // The scores are the operand that comes from a product.
        const bool first = from_product(a);
        out_.mask = first ? b : a;
        score_ = first ? a : b;
        out_.spec.mask_scale = static_cast<float>(out_.scale);
        if (!(out_.scale > 0)) return false;
        if (triangle(out_.mask)) out_.mask = -1;
      } else if (node.op == "Where" && out_.mask < 0 && triangle_.empty()) {
        if (!where_mask(node)) return false;
      } else {
        return false;
      }
    }
  }

  // A mask computed in the graph, of which only the sizes are not known: what is below the diagonal is shown.
  // Where(Equal(Trilu(Expand(1, sizes), upper=0), 0), very little, 0).
  bool triangle(int mask) {
    const std::set<int> before = tracer_.nodes();
    const auto made_by = [&](int value, const char* op) {
      const int producer = value < 0 || graph_.is_constant(value) ? -1 : graph_.value(value).producer;
      if (producer < 0 || graph_.node(producer).op != op || !graph_.node(producer).domain.empty()) return static_cast<const GraphNode*>(nullptr);
      tracer_.include(producer);
      return &graph_.node(producer);
    };
    const auto is = [&](int value, float number) { return value >= 0 && tracer_.number(value) == number; };
    const auto sizes = [&]() -> std::optional<Dims> {
      const GraphNode* where = made_by(mask, "Where");
      if (where == nullptr || !is(where->in[2], 0)) return std::nullopt;
      const auto hidden = tracer_.number(where->in[1]);
      const GraphNode* test = made_by(where->in[0], "Equal");
      if (!hidden || *hidden > kVeryLittle || test == nullptr || !is(test->in[1], 0)) return std::nullopt;
      const GraphNode* below = made_by(test->in[0], "Trilu");
      if (below == nullptr || attr_int(*below, "upper", 1) != 0) return std::nullopt;
      const int diagonal = Graph::input(*below, 1);
      const auto at = diagonal < 0 ? std::vector<int64_t>{0} : constant_ints(graph_, diagonal);
      const GraphNode* ones = made_by(below->in[0], "Expand");
      if (!at || *at != std::vector<int64_t>{0} || ones == nullptr || !is(ones->in[0], 1)) return std::nullopt;
      return tracer_.sizes(ones->in[1]);
    }();
    if (sizes && sizes->size() == 2) triangle_ = *sizes;
    else tracer_.restore(before);
    return !triangle_.empty();
  }
  // Whether it has all queries and keys.
  bool causal() {
    const size_t rank = out_.q.traced.axes.size();
    const auto covers = [](const Atoms& atoms, const Dim& size) { return atoms.empty() ? size.value == 1 : atoms.size() == 1 && atoms[0].size == size; };
    if (rank < 2 || out_.k.traced.axes.size() != rank) return false;
    out_.spec.causal = AttentionSpec::Causal::from_first;
    return covers(out_.q.traced.axes[rank - 2], triangle_[0]) && covers(out_.k.traced.axes[rank - 1], triangle_[1]);
  }

  bool from_product(int value) const {
    for (int depth = 0; depth < 8 && value >= 0; ++depth) {
      const int producer = graph_.value(value).producer;
      if (producer < 0) return false;
      const GraphNode& node = graph_.node(producer);
      if (node.op == "MatMul") return true;
      if (node.op != "Mul" && node.op != "Div") return false;
      if (tracer_.number(Graph::input(node, 1))) value = Graph::input(node, 0);
      else if (tracer_.number(Graph::input(node, 0))) value = Graph::input(node, 1);
      else return false;
    }
    return false;
  }

  // Where with a number for what is masked.
  bool where_mask(const GraphNode& node) {
    AttentionSpec& spec = out_.spec;
    float c = 0;
    const bool keeps = scalar_constant(graph_, Graph::input(node, 2), &c);
    if (!keeps && !scalar_constant(graph_, Graph::input(node, 1), &c)) return false;
    out_.mask = Graph::input(node, 0);
    spec.mask_of = keeps ? AttentionSpec::MaskOf::shown_bytes : AttentionSpec::MaskOf::hidden_bytes;
    spec.denied = -std::numeric_limits<float>::infinity();
    spec.fill = static_cast<float>(c * out_.scale);
    score_ = Graph::input(node, keeps ? 1 : 2);
    return true;
  }

  const Graph& graph_;
  Tracer& tracer_;
  Weaver& weaver_;
  StatedAttention& out_;
  int score_ = -1;
  Dims triangle_;  // sizes of such a mask
};

}  // namespace

bool read_spelled_attention(const LowerContext& context, Tracer* tracer, Weaver* weaver, int value, StatedAttention* out) {
  return Spelled(context, tracer, weaver, out).read(value);
}

}  // namespace onnxprune::ep
