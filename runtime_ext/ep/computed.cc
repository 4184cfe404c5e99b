#include "ep/computed.h"

#include <algorithm>
#include <cmath>

#include "ep/lower_internal.h"
#include "ep/resize.h"

namespace onnxprune::ep {
namespace {

constexpr int kDeepest = 40;  // nodes between a list of sizes and what it is computed from

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

std::optional<Dims> Computed::sizes(int value, int depth) const {
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
    start = std::clamp<int64_t>(from_front(start, all.size()), 0, size);
    stop = std::clamp<int64_t>(from_front(stop, all.size()), start, size);
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
      const int64_t at = from_front(i.value, all->size());
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
  if (node.op == "Where") return chosen(node, depth);
  if (node.op == "Add" || node.op == "Sub" || node.op == "Mul" || node.op == "Div") return combined(node, v.desc.type, depth);
  return std::nullopt;
}

std::optional<Dims> Computed::chosen(const GraphNode& node, int depth) const {
  // Of sizes, those that are written as -1 are replaced: a size is never -1.
  const int maker = graph_.value(node.in[0]).producer;
  if (maker < 0 || graph_.node(maker).op != "Equal") return std::nullopt;
  const auto a = sizes(graph_.node(maker).in[0], depth + 1), b = sizes(graph_.node(maker).in[1], depth + 1);
  const auto yes = sizes(Graph::input(node, 1), depth + 1), no = sizes(Graph::input(node, 2), depth + 1);
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

std::optional<Dims> Computed::combined(const GraphNode& node, int32_t type, int depth) const {
  const auto a = sizes(Graph::input(node, 0), depth + 1), b = sizes(Graph::input(node, 1), depth + 1);
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
    if (node.op == "Div" && type == abi::kFloat && x.value % y.value != 0) return std::nullopt;
    out.push_back(Dim{node.op == "Add"   ? x.value + y.value
                      : node.op == "Sub" ? x.value - y.value
                      : node.op == "Mul" ? x.value * y.value
                                         : x.value / y.value,
                      ""});
  }
  return out;
}

std::optional<float> Computed::number(int value, int depth) const {
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

Dims Computed::dims_of(int value) const {
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

}  // namespace onnxprune::ep
