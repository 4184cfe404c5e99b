// RotaryEmbedding of ONNX and of onnxruntime: every plane of a result is two products.
#include "ep/weave.h"

namespace onnxprune::ep {
namespace {

bool covers(const Atoms& atoms, const Dim& size) {
  return atoms.empty() ? size.value == 1 : atoms.size() == 1 && atoms[0].size == size;
}

}  // namespace

// Operands that hold cosines and sines for the tokens of `x`, and the first plane of each.
std::optional<std::vector<int>> Weaver::tables(const GraphNode& node, const Woven& x, int64_t planes, int depth, std::vector<int32_t>* first) {
  const bool standard = node.domain.empty();
  const int positions = Graph::input(node, standard ? 3 : 1), cos = Graph::input(node, standard ? 1 : 2), sin = Graph::input(node, standard ? 2 : 3);
  const size_t rank = x.traced.axes.size(), token = rank - 2;
  if (cos < 0 || sin < 0) return std::nullopt;
  if (positions < 0) {
    // [batch, tokens, planes], of values that the graph has.
    std::vector<int> out;
    for (int value : {cos, sin}) {
      auto table = weave(value, depth + 1);
      if (!table || table->traced.axes.size() != 3 || table->traced.scale != 1.0 || !table->plain()) return std::nullopt;
      const auto size = sizes(*table);
      if (!size || size->back() != planes) return std::nullopt;
      const auto list = features(*table, *size);
      if (!list || list->back() - list->front() + 1 != planes) return std::nullopt;
      if (rank == 4) table->traced.axes.insert(table->traced.axes.begin() + 1, Atoms{});
      if (!repeats(x, *table)) return std::nullopt;
      out.push_back(table->traced.source);
      first->push_back(list->front());
    }
    return out;
  }
  Shape shape;
  for (int value : {cos, sin}) {
    const GraphValue& v = graph_.value(value);
    if (!v.constant || v.desc.type != abi::kFloat || v.desc.dims.size() != 2 || v.desc.dims[1] != planes) return std::nullopt;
    if (value == sin && v.desc.dims != shape) return std::nullopt;
    shape = v.desc.dims;
  }
  const GraphValue& v = graph_.value(positions);
  if (!v.ranked || v.desc.type != abi::kInt64) return std::nullopt;
  Lookup lookup{cos, sin, positions, 0};
  if (v.desc.dims.size() == 2) {
    const Dims dims = tracer_.dims_of(positions);
    if (!covers(x.traced.axes[0], dims[0]) || !covers(x.traced.axes[token], dims[1])) return std::nullopt;
  } else {
    // One number: where the first token is. A run has no tokens of its own to tell how many follow.
    const Atoms& atoms = x.traced.axes[token];
    if (!v.constant || atoms.size() > 1 || (!atoms.empty() && !atoms[0].size.known())) return std::nullopt;
    lookup.tokens = atoms.empty() ? 1 : atoms[0].size.value;
  }
  size_t number = 0;
  while (number < lookups_.size() && !(lookups_[number] == lookup)) ++number;
  if (number == lookups_.size()) lookups_.push_back(lookup);
  *first = {0, static_cast<int32_t>(planes)};
  return std::vector<int>(2, kLookup - static_cast<int>(number));
}

std::optional<Woven> Weaver::rotated(const GraphNode& node, int depth) {
  const bool standard = node.domain.empty();
  if ((!standard && node.domain != "com.microsoft") || attr_int(node, "is_packed_batching", 0) != 0 || attr_float(node, "scale", 1) != 1)
    return std::nullopt;
  const auto x = weave(node.in[0], depth + 1);
  if (!x || graph_.is_constant(x->traced.source) || !whole(*x)) return std::nullopt;
  const size_t rank = x->traced.axes.size();
  const auto own = rank == 3 || rank == 4 ? sizes(*x) : std::nullopt;
  if (!own) return std::nullopt;
  for (size_t i : {size_t{0}, rank - 2})
    if ((*own)[i] != 1) return std::nullopt;  // features there
  // Heads and their features.
  int64_t heads = rank == 4 ? (*own)[1] : attr_int(node, "num_heads", 0), turned = attr_int(node, "rotary_embedding_dim", 0);
  const int table = Graph::input(node, standard ? 1 : 2);
  const Dims dims = table < 0 ? Dims{} : tracer_.dims_of(table);
  if (dims.empty() || !dims.back().known() || dims.back().value < 1) return std::nullopt;
  const int64_t planes = dims.back().value, all = own->back();
  if (rank == 3 && heads == 0 && !standard && turned == 0) heads = all / (2 * planes);
  if (heads < 1 || (rank == 3 && all % heads != 0)) return std::nullopt;
  const int64_t size = rank == 4 ? all : all / heads;
  if (turned == 0) turned = size;
  if (turned > size || turned != 2 * planes) return std::nullopt;
  std::vector<int32_t> first;
  const auto operands = tables(node, *x, planes, depth, &first);
  const auto list = features(*x, *own);
  if (!operands || !list || static_cast<int64_t>(list->size()) != heads * size) return std::nullopt;
  const bool pairs = attr_int(node, "interleaved", 0) != 0;
  Woven out = fresh(*x, *own);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t d = 0; d < size; ++d) {
      std::vector<Product> sum = terms(*x, (*list)[static_cast<size_t>(h * size + d)]);
      if (d < turned) {
        const bool early = pairs ? d % 2 == 0 : d < planes;
        const int64_t other = early ? (pairs ? d + 1 : d + planes) : pairs ? d - 1 : d - planes;
        const int32_t plane = static_cast<int32_t>(pairs ? d / 2 : d % planes);
        const auto times = [&](std::vector<Product>* list, size_t which, double sign) {
          for (Product& term : *list) {
            if (term.b != -1) return false;
            term.b = (*operands)[which];
            term.b_plane = first[which] + plane;
            term.factor *= sign;
          }
          return true;
        };
        std::vector<Product> beside = terms(*x, (*list)[static_cast<size_t>(h * size + other)]);
        if (!times(&sum, 0, 1) || !times(&beside, 1, early ? -1 : 1)) return std::nullopt;
        sum.insert(sum.end(), beside.begin(), beside.end());
        if (sum.size() > kMostTerms) return std::nullopt;
      }
      out.planes.push_back(std::move(sum));
    }
  }
  return out;
}

}  // namespace onnxprune::ep
