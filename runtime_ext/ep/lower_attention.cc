// Attention, however the graph states it, as one operation: which features of which planes are heads, and
// where tokens lie.
#include "ep/lower_attention.h"

#include <algorithm>
#include <limits>

#include "ep/lower_operands.h"

namespace onnxprune::ep {
namespace {

constexpr int64_t kMostHeads = 1 << 16;

// One operand as the score product sees it: leading axes, then tokens and features in some order.
struct Operand {
  Woven woven;
  // Axes of a tensor that is read as onnxruntime keeps it.
  AttentionSpec::Axes axes;
  bool cached = false;  // made here, behind what was before

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
    if (!result || result->scale != 1.0) return false;
    for (int64_t offset : result->offset)
      if (offset != 0) return false;
    stated_ = {};
    if (!read(*result)) return false;
    q_.woven = std::move(stated_.q);
    k_.woven = std::move(stated_.k);
    v_.woven = std::move(stated_.v);
    k_.cached = stated_.k_cache.past >= 0;
    v_.cached = stated_.v_cache.past >= 0;
    spec_ = std::move(stated_.spec);
    const size_t rank = q_.atoms().size();
    if (rank < 2 || k_.atoms().size() != rank || v_.atoms().size() != rank || result->axes.empty()) return false;
    if (!leading(rank) || !features(rank) || !order(rank) || !result_fits(*result, rank)) return false;
    spec_.scale = static_cast<float>(stated_.scale * q_.woven.traced.scale * k_.woven.traced.scale);
    if (v_.woven.traced.scale != 1.0 || !mask(rank)) return false;
    OperandParts parts(context_, &tracer_, &weaver_);
    std::vector<int> in;
    Operand* const operands[3] = {&q_, &k_, &v_};
    for (size_t i = 0; i < 3; ++i)
      if (!stated_.bias[i].empty()) parts.add_first(operands[i]->woven, stated_.bias[i]);
    for (size_t i = 0; i < 3; ++i) {
      const Operand& o = *operands[i];
      const StatedAttention::Cache* cache = i == 0 ? nullptr : i == 1 ? &stated_.k_cache : &stated_.v_cache;
      if (cache != nullptr && cache->present >= 0) parts.append(cache->present, cache->past, cache->added);
      in.push_back(o.cached ? o.source() : o.axes.dense() ? parts.cache(o.woven, o.axes) : parts.planes(o.woven));
    }
    if (operand_mask_) in.push_back(stated_.mask);
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
  // What ends in `result`.
  bool read(const Traced& result) {
    const int producer = graph_.value(result.source).producer;
    if (producer < 0) return false;
    const bool named = is_attention(graph_.node(producer));
    if (named ? !read_named_attention(context_, &tracer_, &weaver_, producer, &stated_)
              : producer == last_ || !read_spelled_attention(context_, &tracer_, &weaver_, result.source, &stated_))
      return false;
    if (named && !stated_.joined && producer == last_)
      throw Unsupported("its heads lie on an axis of their own and nothing joins them behind it");
    return !stated_.joined || producer == last_;
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
    if (o->cached) planes = false;
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
    if (stated_.joined) return true;
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
    if (!spec_.mask.empty()) return spec_.mask_shape.size() + static_cast<size_t>(spec_.mask_gap) <= rank;
    if (stated_.mask < 0) return true;
    const GraphValue& v = graph_.value(stated_.mask);
    const bool bytes = spec_.mask_of == AttentionSpec::MaskOf::shown_bytes || spec_.mask_of == AttentionSpec::MaskOf::hidden_bytes;
    const int32_t type = spec_.mask_of == AttentionSpec::MaskOf::floats ? abi::kFloat : bytes ? abi::kBool : abi::kInt32;
    if (!v.ranked || v.desc.type != type || v.desc.dims.size() + static_cast<size_t>(spec_.mask_gap) > rank)
      throw Unsupported("a mask of another type or of more axes than the scores");
    if (v.constant) return constant_mask(constant(v), bytes);
    operand_mask_ = true;
    return true;
  }
  bool constant_mask(const Constant& c, bool bytes) {
    if (spec_.mask_of == AttentionSpec::MaskOf::shown_ints) throw Unsupported("a constant mask of whole numbers");
    spec_.mask_shape = c.desc.dims;
    const auto* at = static_cast<const uint8_t*>(c.data);
    const bool hidden = spec_.mask_of == AttentionSpec::MaskOf::hidden_bytes;
    for (int64_t i = 0; i < c.size(); ++i) spec_.mask.push_back(!bytes ? c.floats()[i] : (at[i] != 0) != hidden ? 0.0f : spec_.denied);
    spec_.mask_of = AttentionSpec::MaskOf::floats;
    return !spec_.mask.empty();
  }

  void fill(const GraphNode& node, std::vector<int> in, Unit* unit) {
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
  StatedAttention stated_;
  bool operand_mask_ = false;
  Operand q_, k_, v_;
  AttentionSpec spec_;
};

}  // namespace

bool lower_attention(const LowerContext& context, int last, Unit* unit) {
  const GraphNode& node = context.graph.node(last);
  if (node.out.empty() || node.out[0] < 0) return false;
  const bool moves = node.domain.empty() && (node.op == "Reshape" || node.op == "Transpose" || node.op == "Squeeze" || node.op == "Flatten");
  if (!moves && !is_attention(node)) return false;
  const GraphValue& out = context.graph.value(node.out[0]);
  if (!out.ranked || out.desc.type != abi::kFloat) return false;
  // Without a bias onnxruntime does not state the shape of such a node's result.
  if (out.desc.dims.size() < 2 && !is_packed_attention(node)) return false;
  try {
    if (is_packed_attention(node)) return lower_packed_attention(context, last, unit);
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

std::string why_no_attention(const LowerContext& context, int last) {
  Unit unit;
  try {
    if (is_packed_attention(context.graph.node(last)))
      lower_packed_attention(context, last, &unit);
    else
      Match(context, last, {}).run(&unit);
  } catch (const Unsupported& e) {
    return e.what();
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "its operands are not heads of planes of features";
}

}  // namespace onnxprune::ep
