// Attention written out: two products of activations with a softmax between them, the operands cut
// into heads by reshapes and transpositions in any order.
#include <cmath>
#include <limits>

#include "ep/lower_internal.h"
#include "ep/trace.h"

namespace onnxprune::ep {
namespace {

constexpr int64_t kMostHeads = 1 << 16;

// One operand as the score product sees it: leading axes, then tokens and features in some order.
struct Operand {
  Traced traced;
  int feature_axis = 0;  // of the source: its last one
  bool lead(const Atom& atom) const { return atom.axis >= 0 && atom.axis < feature_axis; }
  bool feature(const Atom& atom) const { return atom.axis == feature_axis; }
};

// Atoms of leading axes come in the order in which they lie in memory.
bool in_order(const Atoms& atoms) {
  for (size_t i = 1; i < atoms.size(); ++i) {
    const Atom &a = atoms[i - 1], &b = atoms[i];
    if (a.axis > b.axis || (a.axis == b.axis && a.inner <= b.inner)) return false;
  }
  return true;
}

// First features of all heads that `atoms` enumerate, the last atom running fastest.
std::vector<int32_t> head_offsets(const Atoms& atoms, int64_t first) {
  std::vector<int64_t> out = {first};
  for (const Atom& atom : atoms) {
    if (!atom.size.known() || atom.size.value * static_cast<int64_t>(out.size()) > kMostHeads)
      throw Unsupported("the number of heads is not known");
    std::vector<int64_t> next;
    for (int64_t base : out)
      for (int64_t i = 0; i < atom.size.value; ++i) next.push_back(base + i * atom.inner);
    out = std::move(next);
  }
  return {out.begin(), out.end()};
}

class Match {
 public:
  Match(const LowerContext& context, int last)
      : context_(context), graph_(context.graph), tracer_(context.graph, context.dims, context.alone), last_(last) {}

  // True when `last` ends an attention; then the unit is filled in.
  bool run(Unit* unit) {
    const GraphNode& node = graph_.node(last_);
    auto result = tracer_.trace(node.out[0]);
    if (!result || result->scale != 1.0 || graph_.value(result->source).producer == last_) return false;
    for (int64_t offset : result->offset)
      if (offset != 0) return false;
    const GraphNode* mixed = product(result->source);
    if (mixed == nullptr || !scores(mixed->in[0])) return false;
    const GraphNode* compared = product(score_);
    if (compared == nullptr) return false;
    if (!operand(compared->in[0], &q_) || !operand(compared->in[1], &k_) || !operand(mixed->in[1], &v_)) return false;
    const size_t rank = q_.traced.axes.size();
    if (rank < 2 || k_.traced.axes.size() != rank || v_.traced.axes.size() != rank || result->axes.empty()) return false;
    if (!leading(rank) || !features(rank) || !order(rank) || !result_fits(*result, rank)) return false;
    spec_.scale = static_cast<float>(scale_ * q_.traced.scale * k_.traced.scale);
    if (v_.traced.scale != 1.0 || !mask(rank)) return false;
    std::vector<int> kept = {q_.traced.source, k_.traced.source, v_.traced.source, node.out[0]};
    if (operand_mask_) kept.push_back(mask_);
    tracer_.absorb(kept);
    if (!tracer_.isolated(last_)) return false;
    fill(node, unit);
    return true;
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

  // Softmax over the last axis, and what is done to the scores before it.
  bool scores(int value) {
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
        scale_ *= node.op == "Mul" ? *right : 1.0 / *right;
        score_ = a;
      } else if (left) {
        scale_ *= *left;
        score_ = b;
      } else if (node.op == "Add" && mask_ < 0) {
        // The scores are the operand that comes from a product.
        const bool first = from_product(a);
        mask_ = first ? b : a;
        score_ = first ? a : b;
        spec_.mask_scale = static_cast<float>(scale_);
        if (!(scale_ > 0)) return false;
      } else if (node.op == "Where" && mask_ < 0) {
        if (!where_mask(node)) return false;
      } else {
        return false;
      }
    }
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
  // Where with a constant condition and a constant number for what is masked.
  bool where_mask(const GraphNode& node) {
    const int condition = Graph::input(node, 0);
    if (!graph_.is_constant(condition)) return false;
    float c = 0;
    const bool keeps = scalar_constant(graph_, Graph::input(node, 2), &c);
    if (!keeps && !scalar_constant(graph_, Graph::input(node, 1), &c)) return false;
    const Constant bits = constant(graph_.value(condition));
    if (bits.desc.type != abi::kBool) return false;
    const auto* at = static_cast<const uint8_t*>(bits.data);
    spec_.mask_shape = bits.desc.dims;
    for (int64_t i = 0; i < bits.size(); ++i)
      spec_.mask.push_back((at[i] != 0) == keeps ? 0.0f : -std::numeric_limits<float>::infinity());
    if (spec_.mask.empty()) return false;
    spec_.fill = static_cast<float>(c * scale_);
    where_ = true;
    mask_ = condition;
    score_ = Graph::input(node, keeps ? 1 : 2);
    return true;
  }

  bool operand(int value, Operand* out) {
    auto traced = tracer_.trace(value);
    if (!traced || graph_.is_constant(traced->source)) return false;
    const GraphValue& source = graph_.value(traced->source);
    if (!source.ranked || source.desc.type != abi::kFloat) return false;
    out->traced = std::move(*traced);
    out->feature_axis = static_cast<int>(out->traced.offset.size()) - 1;
    for (int i = 0; i < out->feature_axis; ++i)
      if (out->traced.offset[static_cast<size_t>(i)] != 0) return false;
    return out->feature_axis >= 1;
  }

  // Batch and head axes of the three operands.
  bool leading(size_t rank) {
    Atoms q, k, v;
    bool batch = false, head = false;
    for (size_t i = 0; i + 2 < rank; ++i) {
      const Atoms &a = q_.traced.axes[i], &b = k_.traced.axes[i], &c = v_.traced.axes[i];
      auto all = [](const Operand& o, const Atoms& atoms, bool lead) {
        for (const Atom& atom : atoms)
          if (o.lead(atom) != lead) return false;
        return true;
      };
      if (a.empty() && b.empty() && c.empty()) {
        spec_.roles.push_back(AttentionSpec::one);
      } else if (!a.empty() && all(q_, a, true)) {
        if (batch || !all(k_, b, true) || !all(v_, c, true) || !same_size(a, b) || !same_size(a, c)) return false;
        spec_.roles.push_back(AttentionSpec::batch);
        batch = true;
      } else {
        if (head || a.empty() || !all(q_, a, false) || !all(k_, b, false) || !all(v_, c, false)) return false;
        spec_.roles.push_back(AttentionSpec::head);
        q = a, k = b, v = c;
        head = true;
      }
    }
    spec_.roles.insert(spec_.roles.end(), {AttentionSpec::one, AttentionSpec::one});
    spec_.q_head = head_offsets(q, q_.traced.offset.back());
    spec_.k_head = head_offsets(k, k_.traced.offset.back());
    spec_.v_head = head_offsets(v, v_.traced.offset.back());
    const size_t heads = spec_.q_head.size();
    for (auto* list : {&spec_.k_head, &spec_.v_head}) {
      if (list->size() == 1) list->resize(heads, (*list)[0]);  // broadcast
      if (list->size() != heads) return false;
    }
    return true;
  }
  static bool same_size(const Atoms& a, const Atoms& b) {
    if (a.size() != b.size()) return false;
    for (size_t i = 0; i < a.size(); ++i)
      if (!(a[i].size == b[i].size)) return false;
    return true;
  }

  // The axis of one head's features.
  static bool feature_step(const Operand& o, size_t axis, int32_t* dim, int32_t* step) {
    const Atoms& atoms = o.traced.axes[axis];
    if (atoms.size() != 1 || !o.feature(atoms[0]) || !atoms[0].size.known()) return false;
    *dim = static_cast<int32_t>(atoms[0].size.value);
    *step = static_cast<int32_t>(atoms[0].inner);
    return true;
  }
  bool features(size_t rank) {
    int32_t k_dim = 0;
    return feature_step(q_, rank - 1, &spec_.dim, &spec_.q_step) && feature_step(k_, rank - 2, &k_dim, &spec_.k_step) &&
           feature_step(v_, rank - 1, &spec_.value_dim, &spec_.v_step) && k_dim == spec_.dim;
  }

  // Token b * T + t of a source is token t of batch b.
  bool order(size_t rank) {
    struct {
      const Operand* o;
      size_t tokens;
      int64_t* known;
    } sides[] = {{&q_, rank - 2, &spec_.q_tokens}, {&k_, rank - 1, &spec_.k_tokens}, {&v_, rank - 2, nullptr}};
    for (auto& side : sides) {
      Atoms all;
      for (size_t i = 0; i + 2 < rank; ++i)
        for (const Atom& atom : side.o->traced.axes[i])
          if (side.o->lead(atom)) all.push_back(atom);
      const Atoms& tokens = side.o->traced.axes[side.tokens];
      int64_t product = 1;
      for (const Atom& atom : tokens) {
        if (!side.o->lead(atom)) return false;
        all.push_back(atom);
        product = product < 0 || !atom.size.known() ? -1 : product * atom.size.value;
      }
      if (!in_order(all)) return false;
      if (product < 0) {
        // Open: then it must be the whole axis before the features.
        const int source = side.o->traced.source;
        const Dims& dims = context_.of(source);
        if (tokens.size() != 1 || tokens[0].axis != side.o->feature_axis - 1 || tokens[0].inner != 1 ||
            !(tokens[0].size == dims[dims.size() - 2]))
          return false;
      }
      if (side.known != nullptr) *side.known = product;
    }
    const Atoms &k = k_.traced.axes[rank - 1], &v = v_.traced.axes[rank - 2];
    return same_size(k, v);
  }

  // The result, in terms of the second product's axes: [batch, queries, heads x features].
  bool result_fits(const Traced& result, size_t rank) {
    Atoms rows, expected_rows, expected_features;
    for (size_t i = 0; i + 1 < result.axes.size(); ++i) rows.insert(rows.end(), result.axes[i].begin(), result.axes[i].end());
    const Dims dims = tracer_.dims_of(result.source);
    if (dims.size() != rank) return false;
    auto whole = [&](size_t axis, Atoms* to) {
      if (dims[axis].value != 1) to->push_back({static_cast<int>(axis), 1, dims[axis]});
    };
    for (size_t i = 0; i + 2 < rank; ++i)
      if (spec_.roles[i] == AttentionSpec::batch) whole(i, &expected_rows);
    whole(rank - 2, &expected_rows);
    for (size_t i = 0; i + 2 < rank; ++i)
      if (spec_.roles[i] == AttentionSpec::head) whole(i, &expected_features);
    whole(rank - 1, &expected_features);
    auto equal = [](const Atoms& a, const Atoms& b) {
      if (a.size() != b.size()) return false;
      for (size_t i = 0; i < a.size(); ++i)
        if (a[i].axis != b[i].axis || a[i].inner != b[i].inner || !(a[i].size == b[i].size)) return false;
      return true;
    };
    return equal(rows, expected_rows) && equal(result.axes.back(), expected_features);
  }

  bool mask(size_t rank) {
    if (mask_ < 0) return true;
    if (where_) return spec_.mask_shape.size() <= rank;
    const GraphValue& v = graph_.value(mask_);
    if (!v.ranked || v.desc.type != abi::kFloat || v.desc.dims.size() > rank) return false;
    if (v.constant) {
      const Constant c = constant(v);
      spec_.mask_shape = c.desc.dims;
      spec_.mask.assign(c.floats(), c.floats() + c.size());
      return !spec_.mask.empty();
    }
    operand_mask_ = true;
    return true;
  }

  void fill(const GraphNode& node, Unit* unit) {
    if (!where_) spec_.fill = -std::numeric_limits<float>::infinity();
    Op& op = unit->op;
    op.kind = OpKind::attention;
    op.in = {q_.traced.source, k_.traced.source, v_.traced.source};
    if (operand_mask_) op.in.push_back(mask_);
    op.out = node.out[0];
    op.label = graph_.label(node);
    Dims dims = tracer_.dims_of(op.out);
    dims.back() = Dim::of(static_cast<int64_t>(spec_.heads()) * spec_.value_dim);
    int open = 0;
    for (const Dim& dim : dims) {
      op.target.push_back(dim.known() ? dim.value : -1);
      open += dim.known() ? 0 : 1;
    }
    if (open > 1) {
      // Then the result has q's own leading axes.
      op.target.clear();
      const Dims& q = context_.of(op.in[0]);
      bool same = q.size() == dims.size();
      for (size_t i = 0; same && i + 1 < q.size(); ++i) same = q[i] == dims[i];
      if (!same) throw Unsupported("the result's shape is not known");
    }
    check_attention(spec_);
    op.attention = std::make_shared<const AttentionSpec>(std::move(spec_));
    unit->domains = bit(Domain::tokens);
    unit->dims = dims;
    unit->nodes.assign(tracer_.nodes().begin(), tracer_.nodes().end());
  }

  const LowerContext& context_;
  const Graph& graph_;
  Tracer tracer_;
  int last_;
  int score_ = -1, mask_ = -1;
  bool where_ = false, operand_mask_ = false;
  double scale_ = 1;
  Operand q_, k_, v_;
  AttentionSpec spec_;
};

}  // namespace

bool lower_attention(const LowerContext& context, int last, Unit* unit) {
  const GraphNode& node = context.graph.node(last);
  if (!node.domain.empty() || node.out.size() != 1 || node.out[0] < 0) return false;
  if (node.op != "Reshape" && node.op != "Transpose" && node.op != "Squeeze" && node.op != "Flatten") return false;
  const GraphValue& out = context.graph.value(node.out[0]);
  if (!out.ranked || out.desc.type != abi::kFloat || out.desc.dims.size() < 2) return false;
  try {
    return Match(context, last).run(unit);
  } catch (const Unsupported&) {
    return false;
  } catch (const std::invalid_argument&) {
    return false;
  }
}

}  // namespace onnxprune::ep
