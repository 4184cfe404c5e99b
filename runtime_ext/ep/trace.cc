#include "ep/trace.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ep/lower_internal.h"
#include "ep/resize.h"

namespace onnxprune::ep {
namespace {

constexpr int kDeepest = 40;  // nodes between a list of sizes and what it is computed from

bool is_one(const Dim& dim) { return dim.value == 1; }

Atoms flat(const std::vector<Atoms>& axes) {
  Atoms out;
  for (const Atoms& atoms : axes) out.insert(out.end(), atoms.begin(), atoms.end());
  return out;
}

// Takes `want` from the front (or the back) of `left`; false when it does not divide.
bool take(Dim want, bool front, Atoms* left, Atoms* axis) {
  while (!is_one(want)) {
    if (left->empty()) return false;
    Atom atom = front ? left->front() : left->back();
    auto remove = [&] { left->erase(front ? left->begin() : left->end() - 1); };
    auto put = [&](Atom a) { axis->insert(front ? axis->end() : axis->begin(), a); };
    if (atom.size == want) {
      remove();
      put(atom);
      return true;
    }
    if (!want.known() || !atom.size.known() || want.value < 1 || atom.size.value < 1) return false;
    if (want.value % atom.size.value == 0) {
      remove();
      put(atom);
      want = Dim::of(want.value / atom.size.value);
    } else if (atom.size.value % want.value == 0) {
      const int64_t rest = atom.size.value / want.value;
      Atom outer{atom.axis, atom.inner * (front ? rest : want.value), Dim::of(front ? want.value : rest)};
      Atom inner{atom.axis, atom.inner, Dim::of(front ? rest : want.value)};
      (front ? left->front() : left->back()) = front ? inner : outer;
      put(front ? outer : inner);
      return true;
    } else {
      return false;
    }
  }
  return true;
}

// Parts of one axis of which the inner one follows the outer one are one part.
void join_pieces(Atoms* atoms) {
  for (size_t i = 1; i < atoms->size();) {
    Atom& outer = (*atoms)[i - 1];
    const Atom& inner = (*atoms)[i];
    if (outer.axis < 0 || outer.axis != inner.axis || !outer.size.known() || !inner.size.known() ||
        outer.inner != inner.inner * inner.size.value) {
      ++i;
      continue;
    }
    outer.inner = inner.inner;
    outer.size = Dim::of(outer.size.value * inner.size.value);
    atoms->erase(atoms->begin() + static_cast<std::ptrdiff_t>(i));
  }
}

// Floats that could as well be integers.
std::optional<Dims> whole_numbers(const GraphValue& value) {
  constexpr float kMost = 1 << 24;
  if (!value.ranked || value.desc.type != abi::kFloat || value.desc.dims.size() > 1) return std::nullopt;
  const Constant c = constant(value);
  Dims out;
  for (int64_t i = 0; i < c.size(); ++i) {
    const float number = c.floats()[i];
    if (!(std::fabs(number) < kMost) || number != std::trunc(number)) return std::nullopt;
    out.push_back(Dim{static_cast<int64_t>(number), ""});
  }
  return out;
}

int64_t axis_of(int64_t axis, size_t rank) { return axis < 0 ? axis + static_cast<int64_t>(rank) : axis; }

}  // namespace

std::optional<std::vector<int64_t>> constant_ints(const Graph& graph, int value) {
  if (!graph.is_constant(value)) return std::nullopt;
  const GraphValue& v = graph.value(value);
  if (!v.ranked || v.desc.dims.size() > 1) return std::nullopt;
  const Constant c = constant(v);
  if (c.desc.type == abi::kInt64) return std::vector<int64_t>(c.ints(), c.ints() + c.size());
  if (c.desc.type != abi::kInt32) return std::nullopt;
  const auto* ints = static_cast<const int32_t*>(c.data);
  return std::vector<int64_t>(ints, ints + c.size());
}

std::optional<std::vector<Atoms>> cut_atoms(const Atoms& atoms, const Dims& dims) {
  Atoms left;
  for (const Atom& atom : atoms)
    if (!is_one(atom.size)) left.push_back(atom);
  std::vector<Atoms> axes(dims.size());
  size_t begin = 0, end = dims.size();
  auto open = [&](size_t i, const Dim& next) { return !dims[i].known() && !(dims[i] == next); };
  while (begin < end && !(open(begin, left.empty() ? Dim{} : left.front().size))) {
    if (!take(dims[begin], true, &left, &axes[begin])) return std::nullopt;
    ++begin;
  }
  while (begin + 1 < end) {  // the open axis takes what the others leave
    if (!take(dims[end - 1], false, &left, &axes[end - 1])) return std::nullopt;
    --end;
  }
  if (begin < end) {
    axes[begin] = left;
    left.clear();
  }
  if (!left.empty()) return std::nullopt;
  for (Atoms& axis : axes) join_pieces(&axis);
  return axes;
}

std::optional<Dims> Tracer::sizes(int value, int depth) const {
  if (value < 0 || depth > kDeepest) return std::nullopt;
  if (auto ints = constant_ints(graph_, value)) {
    Dims out;
    for (int64_t i : *ints) out.push_back(Dim{i, ""});
    return out;
  }
  if (graph_.is_constant(value)) return whole_numbers(graph_.value(value));
  const GraphValue& v = graph_.value(value);
  if (v.producer < 0 || alone_) return std::nullopt;
  const GraphNode& node = graph_.node(v.producer);
  if (!node.domain.empty()) return std::nullopt;
  auto input = [&](size_t i) { return sizes(Graph::input(node, i), depth + 1); };
  auto slice = [](const Dims& all, int64_t start, int64_t stop) -> std::optional<Dims> {
    const int64_t size = static_cast<int64_t>(all.size());
    start = std::clamp<int64_t>(axis_of(start, all.size()), 0, size);
    stop = std::clamp<int64_t>(axis_of(stop, all.size()), start, size);
    return Dims(all.begin() + start, all.begin() + stop);
  };
  if (node.op == "Shape") {
    const int x = Graph::input(node, 0);
    if (x < 0 || !graph_.value(x).ranked) return std::nullopt;
    const Dims& dims = dims_[static_cast<size_t>(x)];
    return slice(dims, attr_int(node, "start", 0), attr_int(node, "end", static_cast<int64_t>(dims.size())));
  }
  if (node.op == "Gather") {
    auto all = input(0), picked = sizes(Graph::input(node, 1), depth + 1);
    if (!all || !picked || attr_int(node, "axis", 0) != 0) return std::nullopt;
    Dims out;
    for (const Dim& i : *picked) {
      const int64_t at = axis_of(i.value, all->size());
      if (at < 0 || at >= static_cast<int64_t>(all->size())) return std::nullopt;
      out.push_back((*all)[static_cast<size_t>(at)]);
    }
    return out;
  }
  if (node.op == "Slice") {
    auto all = input(0), start = input(1), stop = input(2);
    if (!all || !start || !stop || start->size() != 1 || stop->size() != 1 || Graph::input(node, 4) >= 0)
      return std::nullopt;
    return slice(*all, (*start)[0].value, (*stop)[0].value);
  }
  if (node.op == "Concat") {
    Dims out;
    for (size_t i = 0; i < node.in.size(); ++i) {
      auto part = input(i);
      if (!part) return std::nullopt;
      out.insert(out.end(), part->begin(), part->end());
    }
    return out;
  }
  if (node.op == "Unsqueeze" || node.op == "Squeeze" || node.op == "Identity" || node.op == "Cast" || node.op == "Reshape" ||
      node.op == "Floor" || node.op == "Ceil")
    return input(0);
  if (node.op == "Where") {
    // Of sizes, those that are written as -1 are replaced: a size is never -1.
    const int maker = graph_.value(node.in[0]).producer;
    if (maker < 0 || graph_.node(maker).op != "Equal") return std::nullopt;
    const auto a = sizes(graph_.node(maker).in[0], depth + 1), b = sizes(graph_.node(maker).in[1], depth + 1);
    const auto yes = input(1), no = input(2);
    if (!a || !b || !yes || !no || a->size() != b->size() || yes->size() != a->size() || no->size() != a->size()) return std::nullopt;
    Dims out;
    for (size_t i = 0; i < a->size(); ++i) {
      const Dim &x = (*a)[i], &y = (*b)[i];
      const bool open = !x.symbol.empty(), other = !y.symbol.empty();
      const bool equal = open && other ? x.symbol == y.symbol : !open && !other && x.value == y.value;
      if (open && other && !equal) return std::nullopt;
      if (open != other && (open ? y.value : x.value) != -1) return std::nullopt;
      out.push_back(equal ? (*yes)[i] : (*no)[i]);
    }
    return out;
  }
  if (node.op == "Add" || node.op == "Sub" || node.op == "Mul" || node.op == "Div") {
    const auto a = input(0), b = input(1);
    if (!a || !b || (a->size() != b->size() && a->size() != 1 && b->size() != 1)) return std::nullopt;
    Dims out;
    for (size_t i = 0; i < std::max(a->size(), b->size()); ++i) {
      const Dim &x = (*a)[a->size() == 1 ? 0 : i], &y = (*b)[b->size() == 1 ? 0 : i];
      if (node.op == "Mul" && (is_one(x) || is_one(y))) {
        out.push_back(is_one(x) ? y : x);
        continue;
      }
      if (node.op == "Div" && is_one(y)) {
        out.push_back(x);
        continue;
      }
      // A whole multiple of an open size.
      const bool times = x.symbol.empty() != y.symbol.empty();
      const Dim &open = x.symbol.empty() ? y : x, &factor = x.symbol.empty() ? x : y;
      if (node.op == "Mul" && times && factor.value > 1 && factor.value <= 4096) {
        out.push_back(resized({static_cast<float>(factor.value), -1}, open));
        continue;
      }
      constexpr int64_t kMost = 1 << 30;
      for (const Dim* n : {&x, &y})
        if (!n->symbol.empty() || n->value > kMost || n->value < -kMost) return std::nullopt;
      if (node.op == "Div" && (x.value < 0 || y.value < 1)) return std::nullopt;
      if (node.op == "Div" && v.desc.type == abi::kFloat && x.value % y.value != 0) return std::nullopt;
      out.push_back(Dim{node.op == "Add"   ? x.value + y.value
                        : node.op == "Sub" ? x.value - y.value
                        : node.op == "Mul" ? x.value * y.value
                                           : x.value / y.value,
                        ""});
    }
    return out;
  }
  return std::nullopt;
}

std::optional<float> Tracer::number(int value, int depth) const {
  float c = 0;
  if (value < 0 || depth > kDeepest) return std::nullopt;
  if (scalar_constant(graph_, value, &c)) return c;
  const int producer = graph_.value(value).producer;
  if (producer < 0 || alone_ || !graph_.node(producer).domain.empty()) return std::nullopt;
  const GraphNode& node = graph_.node(producer);
  if (node.op == "Cast") {
    if (attr_int(node, "to", 0) != abi::kFloat) return std::nullopt;
    if (const auto again = number(node.in[0], depth + 1)) return again;
    const auto size = sizes(node.in[0]);
    if (!size || size->size() != 1 || !(*size)[0].known()) return std::nullopt;
    return static_cast<float>((*size)[0].value);
  }
  const auto a = number(Graph::input(node, 0), depth + 1);
  if (!a) return std::nullopt;
  if (node.op == "Sqrt") return std::sqrt(*a);
  if (node.op == "Reciprocal") return 1.0f / *a;
  if (node.op == "Identity" || node.op == "Unsqueeze" || node.op == "Squeeze") return a;
  const auto b = number(Graph::input(node, 1), depth + 1);
  if (!b) return std::nullopt;
  if (node.op == "Mul") return *a * *b;
  if (node.op == "Div") return *a / *b;
  if (node.op == "Pow") return std::pow(*a, *b);
  return std::nullopt;
}

void Tracer::absorb(const std::vector<int>& kept) {
  for (int n = static_cast<int>(graph_.nodes().size()); n-- > 0;) {
    if (nodes_.count(n) != 0) continue;
    bool mine = false;
    for (int v : graph_.node(n).out) {
      if (v < 0) continue;
      const GraphValue& value = graph_.value(v);
      mine = !value.graph_output && !value.consumers.empty() && value.uses == value.consumers.size() &&
             std::find(kept.begin(), kept.end(), v) == kept.end();
      for (size_t i = 0; mine && i < value.consumers.size(); ++i) mine = nodes_.count(value.consumers[i]) != 0;
      if (!mine) break;
    }
    if (mine) nodes_.insert(n);
  }
}

namespace {

// The size that a reshape leaves open (-1): what the others do not account for.
void fill_in_the_rest(const Dims& in, const Dims& wanted, Dims* out) {
  constexpr int64_t kMost = 1 << 30;
  size_t rest = wanted.size();
  std::vector<std::string> left;
  int64_t from = 1, to = 1;
  for (const Dim& dim : in) {
    if (dim.known() && (dim.value < 1 || from > kMost / dim.value)) return;
    if (dim.known()) from *= dim.value;
    else left.push_back(dim.symbol);
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    const Dim& dim = (*out)[i];
    if (wanted[i].value == -1 && wanted[i].symbol.empty()) {
      if (rest < wanted.size() || dim.known()) return;
      rest = i;
    } else if (dim.known()) {
      if (dim.value < 1 || to > kMost / dim.value) return;
      to *= dim.value;
    } else {
      const auto same = std::find(left.begin(), left.end(), dim.symbol);
      if (dim.symbol.empty() || same == left.end()) return;
      left.erase(same);
    }
  }
  if (rest == wanted.size() || left.size() > 1 || from % to != 0) return;
  if (left.empty()) (*out)[rest] = Dim::of(from / to);
  else if (from == to && !left[0].empty()) (*out)[rest] = Dim::named(left[0]);
}

}  // namespace

Dims Tracer::dims_of(int value) const {
  Dims out = dims_[static_cast<size_t>(value)];
  const int producer = graph_.value(value).producer;
  if (producer < 0) return out;
  const GraphNode& node = graph_.node(producer);
  if (node.op != "Reshape" && node.op != "Expand") return out;
  const auto wanted = sizes(Graph::input(node, 1));
  if (!wanted || wanted->size() != out.size()) return out;
  const Dims& in = dims_[static_cast<size_t>(node.in[0])];
  for (size_t i = 0; i < out.size(); ++i) {
    Dim dim = (*wanted)[i];
    if (node.op == "Expand" && is_one(dim) && in.size() == out.size()) dim = in[i];
    if (dim.value == 0 && attr_int(node, "allowzero", 0) == 0 && i < in.size()) dim = in[i];
    if (!out[i].known() && (dim.value > 0 || !dim.symbol.empty())) out[i] = dim;
  }
  if (node.op == "Reshape") fill_in_the_rest(in, *wanted, &out);
  return out;
}

std::set<int> Tracer::read_elsewhere() const {
  std::set<int> out;
  for (int n : nodes_) {
    for (int v : graph_.node(n).out) {
      if (v < 0) continue;
      const GraphValue& value = graph_.value(v);
      bool leaves = value.graph_output || value.uses != value.consumers.size();
      for (int consumer : value.consumers) leaves |= nodes_.count(consumer) == 0;
      if (leaves) out.insert(v);
    }
  }
  return out;
}

bool Tracer::isolated(int last) const {
  for (int v : read_elsewhere())
    if (graph_.value(v).producer != last) return false;
  return true;
}

int Tracer::moved(int value, double* factor) const {
  const GraphValue& v = graph_.value(value);
  if (v.producer < 0 || stops_.count(value) != 0 || v.constant || !graph_.node(v.producer).domain.empty()) return -1;
  const GraphNode& node = graph_.node(v.producer);
  static const std::set<std::string> kinds = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Mul",
                                              "Div",       "Split",   "Slice",   "Gather",    "Expand",  "Tile"};
  if (kinds.count(node.op) == 0) return -1;
  int from = Graph::input(node, 0);
  *factor = 1;
  if (node.op == "Mul" || node.op == "Div") {
    if (const auto c = number(Graph::input(node, 1))) {
      *factor = node.op == "Mul" ? *c : 1.0 / *c;
    } else if (const auto first = node.op == "Mul" ? number(from) : std::nullopt) {
      *factor = *first, from = Graph::input(node, 1);
    } else {
      return -1;
    }
  }
  return from >= 0 && !graph_.is_constant(from) ? from : -1;
}

Traced Tracer::itself(int value) const {
  Traced out;
  out.source = value;
  const Dims dims = dims_of(value);
  for (size_t i = 0; i < dims.size(); ++i) {
    out.axes.emplace_back();
    if (!is_one(dims[i])) out.axes.back().push_back({static_cast<int>(i), 1, dims[i]});
  }
  out.offset.assign(dims.size(), 0);
  return out;
}

std::optional<Traced> Tracer::trace(int value) {
  const GraphValue& v = graph_.value(value);
  if (!v.ranked || v.desc.type != abi::kFloat) return std::nullopt;
  double factor = 1;
  if (const int from = moved(value, &factor); from >= 0) {
    const std::set<int> before = nodes_;
    nodes_.insert(v.producer);
    std::optional<Traced> inner = trace(from);
    if (inner) {
      inner->scale *= factor;
      if (step(graph_.node(v.producer), value, &*inner)) return inner;
    }
    nodes_ = before;
  }
  return itself(value);
}

// Parts of axes, each in one piece, with steps upwards; or all of an axis.
bool Tracer::sliced(const GraphNode& node, Traced* t) const {
  const auto list = [&](size_t input, const char* name) -> std::optional<Dims> {
    if (Graph::input(node, input) >= 0) return sizes(node.in[input]);
    Dims out;
    for (int64_t i : attr_ints(node, name)) out.push_back(Dim{i, ""});
    return out;
  };
  const auto starts = list(1, "starts"), stops = list(2, "ends"), along = list(3, "axes"), steps = list(4, "steps");
  if (!starts || !stops || !along || !steps || starts->size() != stops->size()) return false;
  if ((!along->empty() && along->size() != starts->size()) || (!steps->empty() && steps->size() != starts->size())) return false;
  for (size_t i = 0; i < starts->size(); ++i) {
    const int64_t axis = along->empty() ? static_cast<int64_t>(i) : axis_of((*along)[i].value, t->axes.size());
    if (axis < 0 || axis >= static_cast<int64_t>(t->axes.size())) return false;
    Atoms& atoms = t->axes[static_cast<size_t>(axis)];
    const int64_t step = steps->empty() ? 1 : (*steps)[i].value;
    int64_t start = (*starts)[i].value, stop = (*stops)[i].value;
    if (!(*starts)[i].symbol.empty() || step < 1) return false;
    constexpr int64_t kEnd = std::numeric_limits<int32_t>::max();
    if (start == 0 && step == 1 && (*stops)[i].symbol.empty() && stop >= kEnd) continue;
    // Up to a size that is the axis's own.
    if (start == 0 && step == 1 && atoms.size() == 1 && !atoms[0].size.known() && atoms[0].size == (*stops)[i]) continue;
    if (atoms.size() != 1 || atoms[0].axis < 0 || !atoms[0].size.known() || !(*stops)[i].symbol.empty()) return false;
    Atom& atom = atoms[0];
    const int64_t all = atom.size.value;
    start = std::clamp<int64_t>(start < 0 ? start + all : start, 0, all);
    stop = std::clamp<int64_t>(stop < 0 ? stop + all : stop, 0, all);
    if (stop <= start) return false;
    const int64_t size = (stop - start + step - 1) / step;
    t->offset[static_cast<size_t>(atom.axis)] += start * atom.inner;
    atom.inner *= step;
    atom.size = Dim::of(size);
    if (size == 1) atoms.clear();
  }
  return true;
}

bool Tracer::step(const GraphNode& node, int value, Traced* t) const {
  const size_t rank = t->axes.size();
  if (node.op == "Identity") return true;
  if (node.op == "Mul" || node.op == "Div") return dims_[static_cast<size_t>(value)].size() == rank;
  if (node.op == "Transpose") {
    std::vector<int64_t> perm = attr_ints(node, "perm");
    if (perm.empty())
      for (size_t i = rank; i-- > 0;) perm.push_back(static_cast<int64_t>(i));
    if (perm.size() != rank) return false;
    std::vector<Atoms> axes;
    for (int64_t p : perm) {
      if (p < 0 || p >= static_cast<int64_t>(rank)) return false;
      axes.push_back(t->axes[static_cast<size_t>(p)]);
    }
    t->axes = std::move(axes);
    return true;
  }
  if (node.op == "Reshape" || node.op == "Squeeze" || node.op == "Unsqueeze" || node.op == "Flatten") {
    auto axes = cut_atoms(flat(t->axes), dims_of(value));
    if (!axes) return false;
    t->axes = std::move(*axes);
    return true;
  }
  if (node.op == "Expand" || node.op == "Tile") {
    // Repeats axes of size 1, and leaves others as they are.
    const bool tiles = node.op == "Tile";
    const auto times = tiles ? sizes(Graph::input(node, 1)) : std::nullopt;
    if (tiles && (!times || times->size() != rank)) return false;
    const Dims to = tiles ? *times : dims_of(value);
    if (to.size() != rank) return false;
    for (size_t i = 0; i < rank; ++i) {
      if (is_one(to[i])) continue;
      if (t->axes[i].empty()) {
        t->axes[i].push_back({-1, 0, to[i]});
      } else if (tiles || t->axes[i].size() != 1 || !(t->axes[i][0].size == to[i])) {
        return false;
      }
    }
    return true;
  }
  if (node.op == "Slice") return sliced(node, t);
  // A part of one axis, which must be in one piece.
  int64_t start = 0, size = 0;
  bool drop = false;
  const int64_t axis = axis_of(attr_int(node, "axis", 0), rank);
  if (axis < 0 || axis >= static_cast<int64_t>(rank) || t->axes[static_cast<size_t>(axis)].size() != 1) return false;
  Atom& atom = t->axes[static_cast<size_t>(axis)][0];
  if (atom.axis < 0 || !atom.size.known()) return false;
  const int64_t all = atom.size.value;
  if (node.op == "Split") {
    const Dims& to = dims_[static_cast<size_t>(value)];
    if (to.size() != rank || !to[static_cast<size_t>(axis)].known()) return false;
    size = to[static_cast<size_t>(axis)].value;
    for (int out : node.out) {
      if (out == value) break;
      const Dims& before = out < 0 ? to : dims_[static_cast<size_t>(out)];
      if (out < 0 || before.size() != rank || !before[static_cast<size_t>(axis)].known()) return false;
      start += before[static_cast<size_t>(axis)].value;
    }
  } else {  // Gather of one index
    const int index = Graph::input(node, 1);
    const auto at = constant_ints(graph_, index);
    if (!at || at->size() != 1) return false;
    start = axis_of((*at)[0], static_cast<size_t>(all)), size = 1;
    drop = graph_.value(index).desc.dims.empty();
  }
  if (start < 0 || size < 1 || start + size > all) return false;
  t->offset[static_cast<size_t>(atom.axis)] += start * atom.inner;
  if (drop) {
    t->axes.erase(t->axes.begin() + axis);
  } else if (size == 1) {
    t->axes[static_cast<size_t>(axis)].clear();
  } else {
    atom.size = Dim::of(size);
  }
  return true;
}

}  // namespace onnxprune::ep
