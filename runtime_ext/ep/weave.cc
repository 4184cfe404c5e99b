#include "ep/weave.h"

#include <algorithm>

namespace onnxprune::ep {
namespace {

constexpr int kDeepest = 24;              // nodes between an operand and what it is made of
constexpr int64_t kMostPlanes = 1 << 18;

// Axes aligned at the end: the atoms of axis `i` of `rank`.
const Atoms& axis_of(const Woven& w, size_t rank, size_t i) {
  static const Atoms none;
  const size_t missing = rank - w.traced.axes.size();
  return i < missing ? none : w.traced.axes[i - missing];
}

bool any_lead(const Woven& w, const Atoms& atoms) {
  return std::any_of(atoms.begin(), atoms.end(), [&](const Atom& a) { return w.lead(a); });
}
bool all_lead(const Woven& w, const Atoms& atoms) {
  return std::all_of(atoms.begin(), atoms.end(), [&](const Atom& a) { return w.lead(a); });
}

// Number of elements of an axis of features; nothing when it is not known.
std::optional<int64_t> extent(const Atoms& atoms) {
  int64_t n = 1;
  for (const Atom& atom : atoms) {
    if (!atom.size.known() || atom.size.value < 1 || n > kMostPlanes / atom.size.value) return std::nullopt;
    n *= atom.size.value;
  }
  return n;
}

int64_t total(const std::vector<int64_t>& sizes) {
  int64_t n = 1;
  for (int64_t s : sizes) n = n > kMostPlanes ? n : n * s;
  return n;
}

}  // namespace

bool in_order(const Atoms& atoms) {
  for (size_t i = 1; i < atoms.size(); ++i) {
    const Atom &a = atoms[i - 1], &b = atoms[i];
    if (a.axis > b.axis || (a.axis == b.axis && a.inner <= b.inner)) return false;
  }
  return true;
}

bool same_size(const Atoms& a, const Atoms& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (!(a[i].size == b[i].size)) return false;
  return true;
}

Atoms leads(const Woven& w) {
  Atoms out;
  for (const Atoms& atoms : w.traced.axes)
    for (const Atom& atom : atoms)
      if (w.lead(atom)) out.push_back(atom);
  return out;
}

bool Weaver::whole(const Woven& w) const {
  const Atoms all = leads(w);
  if (!in_order(all)) return false;
  const Dims dims = tracer_.dims_of(w.traced.source);
  for (int axis = 0; axis < w.feature_axis(); ++axis) {
    const Dim& size = dims[static_cast<size_t>(axis)];
    if (w.traced.offset[static_cast<size_t>(axis)] != 0) return false;
    Atoms own;
    for (const Atom& atom : all)
      if (atom.axis == axis) own.push_back(atom);
    if (own.size() == 1 && own[0].size == size && own[0].inner == 1) continue;
    const auto covered = extent(own);
    if (!size.known() || !covered || *covered != size.value) return false;
  }
  return true;
}

std::optional<std::vector<int64_t>> Weaver::sizes(const Woven& w) const {
  std::vector<int64_t> out;
  for (const Atoms& atoms : w.traced.axes) {
    if (any_lead(w, atoms)) {
      if (!all_lead(w, atoms)) return std::nullopt;
      out.push_back(1);
      continue;
    }
    const auto size = extent(atoms);
    if (!size) return std::nullopt;
    out.push_back(*size);
  }
  return out;
}

std::optional<std::vector<int32_t>> Weaver::features(const Woven& w, const std::vector<int64_t>& sizes) const {
  if (total(sizes) > kMostPlanes) return std::nullopt;
  std::vector<int64_t> out = {w.traced.offset.back()};
  const auto repeat = [&](int64_t count, int64_t step) {
    std::vector<int64_t> next;
    next.reserve(out.size() * static_cast<size_t>(count));
    for (int64_t base : out)
      for (int64_t i = 0; i < count; ++i) next.push_back(base + i * step);
    out = std::move(next);
  };
  for (size_t i = 0; i < sizes.size(); ++i) {
    const Atoms& atoms = axis_of(w, sizes.size(), i);
    if (sizes[i] == 1) continue;
    if (atoms.empty()) repeat(sizes[i], 0);
    for (const Atom& atom : atoms) repeat(atom.size.value, atom.inner);
  }
  const int64_t planes =
      w.plain() ? tracer_.dims_of(w.traced.source).back().value : static_cast<int64_t>(w.planes.size());
  for (int64_t p : out)
    if (p < 0 || p >= planes) return std::nullopt;
  return std::vector<int32_t>(out.begin(), out.end());
}

std::vector<Product> Weaver::terms(const Woven& w, int32_t plane) const {
  std::vector<Product> out =
      w.plain() ? std::vector<Product>{{w.traced.source, plane, -1, 0, 1.0}} : w.planes[static_cast<size_t>(plane)];
  for (Product& term : out) term.factor *= w.traced.scale;
  return out;
}

// A tensor with the tokens of `of` and new planes, row-major over axes of these sizes.
Woven Weaver::fresh(const Woven& of, const std::vector<int64_t>& sizes) const {
  Woven out;
  out.traced.source = of.traced.source;
  out.traced.offset.assign(of.traced.offset.size(), 0);
  out.traced.axes.resize(sizes.size());
  int64_t inner = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    const Atoms& atoms = axis_of(of, sizes.size(), i);
    if (any_lead(of, atoms)) out.traced.axes[i] = atoms;
    if (sizes[i] == 1) continue;
    out.traced.axes[i] = {{of.feature_axis(), inner, Dim::of(sizes[i])}};
    inner *= sizes[i];
  }
  return out;
}

// The same tokens in the same order.
bool Weaver::same_tokens(const Woven& a, const Woven& b) const {
  if (!whole(a) || !whole(b)) return false;
  if (a.traced.source == b.traced.source) return true;
  const Dims x = tracer_.dims_of(a.traced.source), y = tracer_.dims_of(b.traced.source);
  if (x.size() != y.size()) return false;
  for (size_t i = 0; i + 1 < x.size(); ++i)
    if (x[i] != y[i]) return false;
  return true;
}

// Whether the tokens of `table` are those of `x`, or the innermost of them for all of the outer ones.
bool Weaver::repeats(const Woven& x, const Woven& table) const {
  const size_t rank = std::max(x.traced.axes.size(), table.traced.axes.size());
  if (!whole(x) || !whole(table)) return false;
  bool started = false;
  for (size_t i = 0; i < rank; ++i) {
    const Atoms &a = axis_of(x, rank, i), &b = axis_of(table, rank, i);
    if (!any_lead(x, a) && !any_lead(table, b)) continue;
    if (!all_lead(x, a) || !all_lead(table, b)) return false;
    if (b.empty() && !started) continue;
    if (!same_size(a, b)) return false;
    started = true;
  }
  return true;
}

std::optional<Woven> Weaver::product(const Woven& x, const Woven& table) const {
  if (graph_.is_constant(x.traced.source) || !repeats(x, table)) return std::nullopt;
  const size_t rank = std::max(x.traced.axes.size(), table.traced.axes.size());
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < rank; ++i) {
    const Atoms &a = axis_of(x, rank, i), &b = axis_of(table, rank, i);
    if (any_lead(x, a) || any_lead(table, b)) {
      sizes.push_back(1);
      continue;
    }
    const auto one = extent(a), other = extent(b);
    if (!one || !other || (*one != *other && *one != 1 && *other != 1)) return std::nullopt;
    sizes.push_back(std::max(*one, *other));
  }
  const auto left = features(x, sizes), right = features(table, sizes);
  if (!left || !right) return std::nullopt;
  // A constant that is the same for all tokens is a factor.
  std::optional<Constant> numbers;
  if (graph_.is_constant(table.traced.source) && leads(table).empty()) numbers = constant(graph_.value(table.traced.source));
  Woven out = fresh(x, sizes);
  for (size_t p = 0; p < left->size(); ++p) {
    const std::vector<Product> other = terms(table, (*right)[p]);
    if (other.size() != 1 || other[0].b != -1) return std::nullopt;
    std::vector<Product> own = terms(x, (*left)[p]);
    for (Product& term : own) {
      term.factor *= other[0].factor;
      if (numbers) {
        term.factor *= numbers->floats()[other[0].a_plane];
      } else {
        if (term.b != -1) return std::nullopt;
        term.b = other[0].a, term.b_plane = other[0].a_plane;
      }
    }
    out.planes.push_back(std::move(own));
  }
  return out;
}

std::optional<Woven> Weaver::sum(const Woven& a, const Woven& b, double sign) const {
  // Sums of values as they are belong to the weighted sums before them.
  if ((a.plain() && b.plain()) || !same_tokens(a, b)) return std::nullopt;
  const size_t rank = std::max(a.traced.axes.size(), b.traced.axes.size());
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < rank; ++i) {
    const Atoms &x = axis_of(a, rank, i), &y = axis_of(b, rank, i);
    if (any_lead(a, x) || any_lead(b, y)) {
      if (!same_size(x, y)) return std::nullopt;
      sizes.push_back(1);
      continue;
    }
    const auto one = extent(x), other = extent(y);
    if (!one || !other || (*one != *other && *one != 1 && *other != 1)) return std::nullopt;
    sizes.push_back(std::max(*one, *other));
  }
  const auto left = features(a, sizes), right = features(b, sizes);
  if (!left || !right) return std::nullopt;
  Woven out = fresh(a, sizes);
  for (size_t p = 0; p < left->size(); ++p) {
    std::vector<Product> own = terms(a, (*left)[p]);
    for (Product term : terms(b, (*right)[p])) {
      term.factor *= sign;
      own.push_back(term);
    }
    if (own.size() > kMostTerms) return std::nullopt;
    out.planes.push_back(std::move(own));
  }
  return out;
}

std::optional<Woven> Weaver::joined(const std::vector<Woven>& parts, int64_t axis) const {
  const size_t rank = parts[0].traced.axes.size();
  if (axis < 0) axis += static_cast<int64_t>(rank);
  if (axis < 0 || axis >= static_cast<int64_t>(rank)) return std::nullopt;
  const size_t along = static_cast<size_t>(axis);
  std::vector<std::vector<int64_t>> all;
  std::vector<std::vector<int32_t>> lists;
  for (const Woven& part : parts) {
    if (part.traced.axes.size() != rank || graph_.is_constant(part.traced.source) || !same_tokens(parts[0], part)) return std::nullopt;
    const auto own = sizes(part);
    if (!own || any_lead(part, part.traced.axes[along])) return std::nullopt;
    for (size_t i = 0; i < rank; ++i) {
      if (i != along && (*own)[i] != (all.empty() ? (*own)[i] : all[0][i])) return std::nullopt;
      const Atoms &x = parts[0].traced.axes[i], &y = part.traced.axes[i];
      if ((any_lead(parts[0], x) || any_lead(part, y)) && !same_size(x, y)) return std::nullopt;
    }
    const auto list = features(part, *own);
    if (!list) return std::nullopt;
    all.push_back(*own);
    lists.push_back(*list);
  }
  std::vector<int64_t> sizes = all[0];
  sizes[along] = 0;
  for (const auto& own : all) sizes[along] += own[along];
  if (total(sizes) > kMostPlanes) return std::nullopt;
  int64_t outer = 1, inner = 1;
  for (size_t i = 0; i < rank; ++i) (i < along ? outer : inner) *= i == along ? 1 : sizes[i];
  Woven out = fresh(parts[0], sizes);
  for (int64_t o = 0; o < outer; ++o) {
    for (size_t k = 0; k < parts.size(); ++k) {
      const int64_t count = all[k][along] * inner;
      for (int64_t i = 0; i < count; ++i) out.planes.push_back(terms(parts[k], lists[k][static_cast<size_t>(o * count + i)]));
    }
  }
  return out;
}

std::optional<Woven> Weaver::made(const GraphNode& node, int depth) {
  if (node.op == "RotaryEmbedding") return rotated(node, depth);
  if (!node.domain.empty() || node.out.size() != 1) return std::nullopt;
  if (node.op == "Neg") {
    auto x = weave(node.in[0], depth + 1);
    if (x) x->traced.scale = -x->traced.scale;
    return x;
  }
  const bool adds = node.op == "Add" || node.op == "Sub";
  if (adds || node.op == "Mul") {
    if (node.in.size() != 2) return std::nullopt;
    const auto a = weave(node.in[0], depth + 1), b = weave(node.in[1], depth + 1);
    if (!a || !b) return std::nullopt;
    if (adds) return sum(*a, *b, node.op == "Sub" ? -1.0 : 1.0);
    auto out = product(*a, *b);
    return out ? out : product(*b, *a);
  }
  if (node.op != "Concat") return std::nullopt;
  std::vector<Woven> parts;
  for (int v : node.in) {
    auto part = weave(v, depth + 1);
    if (!part) return std::nullopt;
    parts.push_back(std::move(*part));
  }
  if (parts.empty()) return std::nullopt;
  return joined(parts, attr_int(node, "axis", 0));
}

std::optional<Woven> Weaver::weave(int value, int depth) {
  if (value < 0 || depth > kDeepest) return std::nullopt;
  const GraphValue& v = graph_.value(value);
  if (!v.ranked || v.desc.type != abi::kFloat) return std::nullopt;
  double factor = 1;
  const std::set<int> before = tracer_.nodes();
  if (const int from = tracer_.moved(value, &factor); from >= 0) {
    tracer_.include(v.producer);
    if (auto inner = weave(from, depth + 1)) {
      inner->traced.scale *= factor;
      if (tracer_.step(graph_.node(v.producer), value, &inner->traced)) return inner;
    }
    tracer_.restore(before);
  }
  if (v.producer >= 0 && !v.constant && !tracer_.stops(value)) {
    tracer_.include(v.producer);
    if (auto out = made(graph_.node(v.producer), depth)) return out;
    tracer_.restore(before);
  }
  Woven out;
  out.traced = tracer_.itself(value);
  if (out.traced.axes.empty() || !tracer_.dims_of(value).back().known()) {
    // Nothing that could be planes; a value as it is may still be read.
    return out.traced.axes.empty() ? std::nullopt : std::optional<Woven>(out);
  }
  return out;
}

}  // namespace onnxprune::ep
