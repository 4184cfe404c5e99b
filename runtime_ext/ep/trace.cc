#include "ep/trace.h"

#include <algorithm>
#include <limits>

#include "ep/lower_internal.h"

namespace onnxprune::ep {
namespace {

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

}  // namespace

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
    const int64_t axis = along->empty() ? static_cast<int64_t>(i) : from_front((*along)[i].value, t->axes.size());
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

// Repeats axes of size 1, and leaves others as they are.
bool Tracer::repeated(const GraphNode& node, int value, Traced* t) const {
  const size_t rank = t->axes.size();
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

// A part of one axis, which must be in one piece: of a Split, or a Gather of one index.
bool Tracer::taken(const GraphNode& node, int value, Traced* t) const {
  const size_t rank = t->axes.size();
  int64_t start = 0, size = 0;
  bool drop = false;
  const int64_t axis = from_front(attr_int(node, "axis", 0), rank);
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
  } else {
    const int index = Graph::input(node, 1);
    const auto at = constant_ints(graph_, index);
    if (!at || at->size() != 1) return false;
    start = from_front((*at)[0], static_cast<size_t>(all)), size = 1;
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
  if (node.op == "Expand" || node.op == "Tile") return repeated(node, value, t);
  if (node.op == "Slice") return sliced(node, t);
  return taken(node, value, t);
}

}  // namespace onnxprune::ep
