// Attention written out: two products of activations with a softmax between them, the operands cut
// into heads by reshapes and transpositions in any order.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ep/lower_internal.h"
#include "ep/lower_operands.h"
#include "ep/trace.h"
#include "ep/weave.h"

namespace onnxprune::ep {
namespace {

constexpr int64_t kMostHeads = 1 << 16;

// One operand as the score product sees it: leading axes, then tokens and features in some order.
struct Operand {
  Woven woven;
  // Axes of a tensor that is read as onnxruntime keeps it.
  AttentionSpec::Axes axes;

  const std::vector<Atoms>& atoms() const { return woven.traced.axes; }
  int source() const { return woven.traced.source; }
  bool lead(const Atom& atom) const { return woven.lead(atom); }
  bool feature(const Atom& atom) const { return atom.axis == woven.feature_axis(); }
};

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
  // `stops`: values to be read as they are.
  Match(const LowerContext& context, int last, const std::set<int>& stops)
      : context_(context),
        graph_(context.graph),
        tracer_(context.graph, context.dims, context.alone),
        weaver_(context, &tracer_),
        last_(last) {
    tracer_.stop_at(stops);
  }

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
    const size_t rank = q_.atoms().size();
    if (rank < 2 || k_.atoms().size() != rank || v_.atoms().size() != rank || result->axes.empty()) return false;
    if (!leading(rank) || !features(rank) || !order(rank) || !result_fits(*result, rank)) return false;
    spec_.scale = static_cast<float>(scale_ * q_.woven.traced.scale * k_.woven.traced.scale);
    if (v_.woven.traced.scale != 1.0 || !mask(rank)) return false;
    OperandParts parts(context_, &tracer_, &weaver_);
    std::vector<int> in;
    for (Operand* o : {&q_, &k_, &v_}) in.push_back(o->axes.dense() ? parts.cache(o->woven, o->axes) : parts.planes(o->woven));
    if (operand_mask_) in.push_back(mask_);
    std::vector<int> kept = parts.read();
    kept.insert(kept.end(), in.begin(), in.end());
    kept.push_back(node.out[0]);
    shared_ = parts.shared_tables({q_.source(), k_.source(), v_.source()});
    if (!shared_.empty()) return false;
    tracer_.absorb(kept);
    if (!parts.show(last_)) return false;
    unit->before = parts.take();
    fill(node, std::move(in), unit);
    return true;
  }

  // Why `run` failed, if that is all that was wrong: tables that are moved for others too.
  const std::set<int>& shared_tables() const { return shared_; }

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
    auto woven = weaver_.weave(value);
    if (!woven || graph_.is_constant(woven->traced.source)) return false;
    const GraphValue& source = graph_.value(woven->traced.source);
    if (!source.ranked || source.desc.type != abi::kFloat) return false;
    out->woven = std::move(*woven);
    return out->woven.feature_axis() >= 1;
  }

  // Batch and head axes of the three operands. Keys and values need not be in planes: what an axis means
  // is seen from the queries.
  bool leading(size_t rank) {
    Atoms q, k, v;
    bool batch = false, head = false;
    std::vector<AttentionSpec::Role> roles;
    for (size_t i = 0; i + 2 < rank; ++i) {
      const Atoms &a = q_.atoms()[i], &b = k_.atoms()[i], &c = v_.atoms()[i];
      if (a.empty() && b.empty() && c.empty()) {
        roles.push_back(AttentionSpec::one);
      } else if (!a.empty() && all(q_, a, true)) {
        if (batch || !same_size(a, b) || !same_size(a, c)) return false;
        roles.push_back(AttentionSpec::batch);
        batch = true;
      } else {
        if (head || a.empty() || !all(q_, a, false)) return false;
        roles.push_back(AttentionSpec::head);
        q = a, k = b, v = c;
        head = true;
      }
    }
    spec_.roles.assign(roles.begin(), roles.end());
    spec_.roles.insert(spec_.roles.end(), {AttentionSpec::one, AttentionSpec::one});
    for (int64_t offset : leading_offsets(q_))
      if (offset != 0) return false;
    if (!in_planes_or_not(roles, rank - 1, rank - 2, &k_) || !in_planes_or_not(roles, rank - 2, rank - 1, &v_)) return false;
    spec_.q_head = head_offsets(q, q_.woven.traced.offset.back());
    spec_.k_head = head_offsets(k, k_.axes.dense() ? 0 : k_.woven.traced.offset.back());
    spec_.v_head = head_offsets(v, v_.axes.dense() ? 0 : v_.woven.traced.offset.back());
    const size_t heads = spec_.q_head.size();
    for (auto* list : {&spec_.k_head, &spec_.v_head}) {
      if (list->size() == 1) list->resize(heads, (*list)[0]);  // broadcast
      if (list->size() != heads) return false;
    }
    return true;
  }
  static bool all(const Operand& o, const Atoms& atoms, bool lead) {
    for (const Atom& atom : atoms)
      if (o.lead(atom) != lead) return false;
    return true;
  }
  static Shape leading_offsets(const Operand& o) {
    return {o.woven.traced.offset.begin(), o.woven.traced.offset.end() - 1};
  }
  // Whether keys (or values) are planes whose features are heads and `feature`; otherwise, of which axes of
  // a tensor as it is the heads and all else are.
  bool in_planes_or_not(const std::vector<AttentionSpec::Role>& roles, size_t token, size_t feature, Operand* o) const {
    const auto& atoms = o->atoms();
    bool planes = all(*o, atoms[token], true) && all(*o, atoms[feature], false);
    for (size_t i = 0; planes && i < roles.size(); ++i) planes = all(*o, atoms[i], roles[i] != AttentionSpec::head);
    for (int64_t offset : leading_offsets(*o)) planes &= offset == 0;
    if (!o->woven.plain()) return planes;
    // A cache for one head of one batch may look like planes.
    const int maker = graph_.value(o->source()).producer;
    if (planes && (maker < 0 || graph_.node(maker).op != "Concat" || o->woven.feature_axis() < 2)) return true;
    AttentionSpec::Axes& axes = o->axes;
    std::vector<bool> taken(o->woven.traced.offset.size(), false);
    const auto one_axis = [&](const Atoms& list, int32_t* axis) {
      for (const Atom& atom : list) {
        if (atom.axis < 0) continue;
        if (*axis >= 0 && *axis != atom.axis) return false;
        *axis = atom.axis;
      }
      return true;
    };
    // An axis in one piece, from its first element on; of tokens any part of it that goes to its end.
    const auto piece = [&](const Atoms& list, int32_t* axis) {
      if (list.empty()) return true;
      *axis = list[0].axis;
      return list.size() == 1 && list[0].axis >= 0 && list[0].inner == 1 && !taken[static_cast<size_t>(*axis)];
    };
    const Dims dims = tracer_.dims_of(o->source());
    for (size_t i = 0; i < roles.size(); ++i) {
      if (roles[i] == AttentionSpec::batch) {
        if (!piece(atoms[i], &axes.batch)) return false;
      } else if (roles[i] == AttentionSpec::head && !one_axis(atoms[i], &axes.head)) {
        return false;
      }
    }
    if (!piece(atoms[token], &axes.token) || !one_axis(atoms[feature], &axes.feature)) return false;
    if (axes.feature < 0) axes.feature = o->woven.feature_axis();  // of size 1
    for (int32_t axis : {axes.batch, axes.token}) {
      if (axis < 0) continue;
      const Atoms& list = axis == axes.token ? atoms[token] : atoms[static_cast<size_t>(std::find(roles.begin(), roles.end(), AttentionSpec::batch) - roles.begin())];
      if (!(list[0].size == dims[static_cast<size_t>(axis)])) return false;
      if (axis == axes.head || axis == axes.feature) return false;
    }
    if (axes.batch >= 0 && axes.batch == axes.token) return false;
    axes.offset = o->woven.traced.offset;
    return true;
  }

  // The axis of one head's features.
  static bool feature_step(const Operand& o, size_t axis, int32_t* dim, int32_t* step) {
    const Atoms& atoms = o.atoms()[axis];
    if (atoms.empty()) {
      *dim = *step = 1;
      return true;
    }
    if (atoms.size() != 1 || atoms[0].axis < 0 || !atoms[0].size.known()) return false;
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
      const Atoms& tokens = side.o->atoms()[side.tokens];
      int64_t product = 1;
      for (const Atom& atom : tokens) product = product < 0 || !atom.size.known() ? -1 : product * atom.size.value;
      if (side.known != nullptr) *side.known = product;
      if (side.o->axes.dense()) continue;
      Atoms every;
      for (size_t i = 0; i + 2 < rank; ++i)
        for (const Atom& atom : side.o->atoms()[i])
          if (side.o->lead(atom)) every.push_back(atom);
      for (const Atom& atom : tokens) {
        if (!side.o->lead(atom)) return false;
        every.push_back(atom);
      }
      if (!in_order(every)) return false;
      if (product < 0) {
        // Open: then it must be the whole axis before the features.
        const Dims& dims = context_.of(side.o->source());
        if (tokens.size() != 1 || tokens[0].axis != side.o->woven.feature_axis() - 1 || tokens[0].inner != 1 ||
            !(tokens[0].size == dims[dims.size() - 2]))
          return false;
      }
    }
    // Two open numbers of tokens are compared when they are known.
    const Atoms &k = k_.atoms()[rank - 1], &v = v_.atoms()[rank - 2];
    const auto open = [](const Atoms& atoms) { return atoms.size() == 1 && !atoms[0].size.known(); };
    return same_size(k, v) || (open(k) && open(v) && k_.axes.dense() && v_.axes.dense());
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

  void fill(const GraphNode& node, std::vector<int> in, Unit* unit) {
    if (!where_) spec_.fill = -std::numeric_limits<float>::infinity();
    Op& op = unit->op;
    op.kind = OpKind::attention;
    op.in = std::move(in);
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
      const Dims& q = context_.of(q_.source());
      bool same = q.size() == dims.size();
      for (size_t i = 0; same && i + 1 < q.size(); ++i) same = q[i] == dims[i];
      if (!same) throw Unsupported("the result's shape is not known");
    }
    spec_.k_axes = std::move(k_.axes);
    spec_.v_axes = std::move(v_.axes);
    check_attention(spec_);
    op.attention = std::make_shared<const AttentionSpec>(std::move(spec_));
    unit->domains = bit(Domain::tokens);
    unit->dims = dims;
    unit->nodes.assign(tracer_.nodes().begin(), tracer_.nodes().end());
  }

  const LowerContext& context_;
  const Graph& graph_;
  Tracer tracer_;
  Weaver weaver_;
  int last_;
  std::set<int> shared_;
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
    std::set<int> stops;
    for (;;) {
      Match match(context, last, stops);
      *unit = {};
      if (match.run(unit)) return true;
      const size_t known = stops.size();
      stops.insert(match.shared_tables().begin(), match.shared_tables().end());
      if (stops.size() == known) return false;
    }
  } catch (const Unsupported&) {
    return false;
  } catch (const std::invalid_argument&) {
    return false;
  }
}

}  // namespace onnxprune::ep
