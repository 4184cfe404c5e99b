#include "ep/lower.h"

#include <algorithm>
#include <functional>
#include <unordered_map>

#include "ep/infer.h"
#include "ep/lower_attention.h"
#include "ep/lower_internal.h"
#include "ep/packed.h"
#include "ep/serialize.h"
#include "ep/tasks.h"

namespace onnxprune::ep {

int LowerContext::activation(const GraphNode& node, size_t i) const {
  int index = Graph::input(node, i);
  if (index < 0) throw Unsupported("input " + std::to_string(i) + " is missing");
  if (stand_ins != nullptr)
    if (const auto other = stand_ins->activations.find(index); other != stand_ins->activations.end()) return other->second;
  const GraphValue& value = graph.value(index);
  if (value.constant) throw Unsupported("input " + std::to_string(i) + " is a constant");
  if (!value.ranked || value.desc.type != abi::kFloat)
    throw Unsupported("input '" + value.name + "' is not known to be a float32 tensor");
  return index;
}

void LowerContext::has_zero(int value, int zero) const {
  int& known = zeros[static_cast<size_t>(value)];
  if (known == kNoZero) known = zero;
  if (known != zero) throw Unsupported("'" + graph.value(value).name + "' has two zero points");
}

Constant LowerContext::weight(const GraphNode& node, size_t i, const char* what) const {
  int index = Graph::input(node, i);
  if (index < 0) throw Unsupported(std::string(what) + " is missing");
  if (stand_ins != nullptr)
    if (const auto other = stand_ins->constants.find(index); other != stand_ins->constants.end()) return other->second;
  const GraphValue& value = graph.value(index);
  if (!value.constant) throw Unsupported(std::string(what) + " is not constant");
  if (!value.ranked || value.desc.type != abi::kFloat) throw Unsupported(std::string(what) + " is not float32");
  Constant out = constant(value);
  if (out.desc.type != abi::kFloat) throw Unsupported(std::string(what) + " is not float32");
  return out;
}

WeightInput weight_input(const LowerContext& context, const GraphNode& node, size_t i) {
  WeightInput out;
  if (!is_packed(node)) {
    const Constant dense = context.weight(node, i, "the weight");
    out.dims = dense.desc.dims;
    out.dense = dense.floats();
    if (dense.size() == 0) throw Unsupported("the weight has no elements");
    return out;
  }
  const int index = Graph::input(node, 1);
  if (!context.graph.is_constant(index)) throw Unsupported("the packed weight is not constant");
  const Constant bytes = constant(context.graph.value(index));
  if (bytes.desc.type != abi::kUint8 || bytes.desc.dims.size() != 1) throw Unsupported("the packed weight is not a list of bytes");
  try {
    auto blob = std::make_shared<const Blob>(static_cast<const uint8_t*>(bytes.data), static_cast<size_t>(bytes.size()));
    check_declared(*blob, attr_ints(node, "weight_shape"), attr_int(node, "weight_dtype", 0));
    if (blob->dtype() != abi::kFloat) throw Unsupported("the packed weight is not float32");
    if (blob->elements() == 0) throw Unsupported("the weight has no elements");
    out.dims = blob->dims();
    out.blob = std::move(blob);
  } catch (const BlobError& e) {
    throw Unsupported(e.what());
  }
  return out;
}

void WeightInput::give(int64_t row_stride, int64_t column_stride, Unit* unit) const {
  unit->anchor = true;
  const kernels::Status status = kernels::check_geometry(unit->op.geometry);
  if (!status.ok()) throw Unsupported(status.message);
  unit->op.source->dense = {dense, row_stride, column_stride};
  unit->op.source->blob = blob;
  unit->packed = blob != nullptr;
}

bool is_read(const Graph& graph, int value) {
  if (value < 0) return false;
  const GraphValue& v = graph.value(value);
  return v.graph_output || v.uses > 0 || !v.consumers.empty();
}

bool scalar_constant(const Graph& graph, int value, float* out) {
  if (!graph.is_constant(value)) return false;
  const GraphValue& v = graph.value(value);
  if (!v.ranked || v.desc.type != abi::kFloat) return false;
  Constant c = constant(v);
  if (c.size() != 1 || c.desc.type != abi::kFloat) return false;
  *out = c.floats()[0];
  return true;
}

namespace {

using Lower = void (*)(const LowerContext&, const GraphNode&, Unit*);

const std::unordered_map<std::string, Lower>& families() {
  static const std::unordered_map<std::string, Lower> table = {
      {"Conv", lower_conv},
      {"ConvTranspose", lower_conv_transpose},
      {"DepthToSpace", lower_depth_to_space},
      {"Gemm", lower_gemm},
      {"MatMul", lower_matmul},
      {"MaxPool", lower_pool},
      {"AveragePool", lower_pool},
      {"GlobalAveragePool", lower_global_pool},
      {"GlobalMaxPool", lower_global_pool},
      {"ReduceMean", lower_global_pool},
      {"Add", lower_binary},
      {"Sub", lower_binary},
      {"Mul", lower_binary},
      {"Div", lower_binary},
      {"Sum", lower_binary},
      {"BatchNormalization", lower_batch_norm},
      {"InstanceNormalization", lower_group_norm},
      {"GroupNormalization", lower_group_norm},
      {"LRN", lower_response_norm},
      {"Concat", lower_concat},
      {"PRelu", lower_prelu},
      {"Resize", lower_resize},
      {"Upsample", lower_resize},
      {"Slice", lower_slice},
      {"Split", lower_split},
      {"Flatten", lower_reshape},
      {"Reshape", lower_reshape},
      {"Squeeze", lower_reshape},
      {"Unsqueeze", lower_reshape},
      {"QuantizeLinear", lower_quantise},
      {"DequantizeLinear", lower_dequantise},
      {"LayerNormalization", lower_norm},
      {"RMSNormalization", lower_norm},
      {"SimplifiedLayerNormalization", lower_norm},
  };
  return table;
}

// Of domain com.microsoft.
const std::unordered_map<std::string, Lower>& microsoft_families() {
  static const std::unordered_map<std::string, Lower> table = {
      {"SkipLayerNormalization", lower_norm},
      {"SkipSimplifiedLayerNormalization", lower_norm},
  };
  return table;
}

Dims stated_dims(const GraphValue& value) {
  Dims out;
  for (size_t i = 0; i < value.desc.dims.size(); ++i) {
    if (value.desc.dims[i] >= 0) {
      out.push_back(Dim::of(value.desc.dims[i]));
    } else if (i < value.desc.symbols.size() && !value.desc.symbols[i].empty()) {
      out.push_back(Dim::named(value.desc.symbols[i]));
    } else {
      out.push_back(Dim::named("?" + value.name + "." + std::to_string(i)));
    }
  }
  return out;
}

// Rows of a weight that a first decision is made on.
constexpr int64_t kSampleRows = 64;

// Reads a unit's weight once, for its digest and the number of weights kept.
void read_weight(Unit* unit) {
  WeightSource& source = *unit->op.source;
  Hasher hasher;
  if (source.blob) {
    source.nonzeros = source.blob->nnz();
    hasher.bytes(source.blob->data(), source.blob->size());
  } else {
    constexpr int64_t kPart = 4096;  // stays in the caches between the two
    const kernels::ConvGeometry& geometry = unit->op.geometry;
    const int64_t size = geometry.columns() * geometry.out_channels;
    for (int64_t first = 0; first < size; first += kPart) {
      const int64_t count = std::min(kPart, size - first);
      hasher.bytes(source.dense.data + first, static_cast<size_t>(count) * sizeof(float));
      source.nonzeros += kernels::count_nonzeros(source.dense.data + first, count);
    }
  }
  source.content = hasher.digest();
}

// Of a dense matrix of its size.
double weights_of(const Unit& unit) {
  return static_cast<double>(unit.op.geometry.columns()) * unit.op.geometry.out_channels;
}

// Sees how the zeros of a unit's weight lie where that is wanted.
void look_at_weight(double look_from, Unit* unit) {
  WeightSource& source = *unit->op.source;
  const kernels::ConvGeometry& geometry = unit->op.geometry;
  unit->sparsity = 1.0 - static_cast<double>(source.nonzeros) / weights_of(*unit);
  if (source.blob) {
    const auto rows = packed_source(*source.blob, geometry, {source.dense.row_stride, source.dense.column_stride});
    source.indptr = std::move(rows->indptr);
    source.indices = std::move(rows->indices);
    source.values = std::move(rows->values);
    source.blob.reset();
    if (look_from <= 1) unit->op.weights = packed_weight(unit->op, false);
    return;
  }
  if (look_from > 1) return;
  if (unit->sparsity < look_from) return;
  const kernels::Status status = kernels::analyse(geometry, source.dense, source.nonzeros, kSampleRows, &unit->zeros);
  if (!status.ok()) throw std::runtime_error(status.message);
}

// Calls `work` on units, and those before them, in parallel; where it throws the unit is not supported after
// all.
void for_units(const std::vector<int>& units, Lowering* lowering, const std::function<void(Unit*)>& work) {
  std::vector<Unit*> all;
  for (int u : units) {
    Unit& unit = lowering->units[static_cast<size_t>(u)];
    for (Unit& before : unit.before) all.push_back(&before);
    if (unit.op.source) all.push_back(&unit);
  }
  std::vector<int64_t> sizes;
  for (const Unit* unit : all) sizes.push_back(static_cast<int64_t>(weights_of(*unit)));
  run_tasks(sizes, [&](size_t i) {
    try {
      work(all[i]);
    } catch (const std::runtime_error& e) {  // damaged, or too large for the kernels
      all[i]->supported = false;
      all[i]->reason = e.what();
    }
  });
  for (int u : units) {
    Unit& unit = lowering->units[static_cast<size_t>(u)];
    for (const Unit& before : unit.before) {
      if (before.supported) continue;
      unit.supported = false;
      unit.reason = before.reason;
    }
  }
}

std::vector<int> weighted(const Lowering& lowering) {
  std::vector<int> units;
  for (size_t u = 0; u < lowering.units.size(); ++u)
    if (lowering.units[u].supported && lowering.units[u].anchor) units.push_back(static_cast<int>(u));
  return units;
}

// What the operation implies, completed by what the graph states.
void merge_dims(Dims* own, const Dims& stated) {
  if (own->size() != stated.size()) return;
  for (size_t i = 0; i < own->size(); ++i)
    if (!(*own)[i].known() && (stated[i].known() || (*own)[i].symbol.empty())) (*own)[i] = stated[i];
}

void lower_node(const LowerContext& context, int index, Unit* unit) {
  const GraphNode& node = context.graph.node(index);
  unit->op.label = context.graph.label(node);
  if (!node.domain.empty() && node.domain != "com.microsoft" && !is_packed(node))
    throw Unsupported("operator of domain '" + node.domain + "'");
  if (lower_recurrent(context, node, unit)) return;
  if (node.out.empty() || node.out[0] < 0) throw Unsupported("it has no output");
  // Normalisations of onnxruntime give the sum that they normalise as their last result.
  const bool sums = node.op.rfind("Skip", 0) == 0;
  for (size_t i = 1; i < node.out.size() && node.op != "Split" && !is_attention(node); ++i)
    if (is_read(context.graph, node.out[i]) && !(sums && i == 3)) throw Unsupported("it has more than one output");
  const GraphValue& out = context.graph.value(node.out[0]);
  if (!out.ranked || (out.desc.type != abi::kFloat && node.op != "QuantizeLinear"))
    throw Unsupported("its output is not float32");
  if (is_attention(node)) throw Unsupported(why_no_attention(context, index));
  unit->op.out = node.out[0];
  if (lower_activation(context, node, unit)) return;
  const auto& table = node.domain == "com.microsoft" ? microsoft_families() : families();
  auto family = table.find(is_packed(node) && node.op.rfind("Sparse", 0) == 0 ? node.op.substr(6) : node.op);
  if (node.op == "RotaryEmbedding")
    throw Unsupported("no attention reads it, or its tables are neither constant nor one row for each token");
  if (family == table.end()) throw Unsupported("no sparse or planar form of " + node.op);
  family->second(context, node, unit);
}

// Values that are read or made in planes, and those that are not.
void see_forms(const Unit& unit, std::vector<bool>* planes, std::vector<bool>* kept) {
  for (const Unit& before : unit.before) see_forms(before, planes, kept);
  const Op& op = unit.op;
  const auto see = [&](int value, bool dense) {
    if (value >= 0) (dense ? kept : planes)->at(static_cast<size_t>(value)) = true;
  };
  for (size_t k = 0; k < op.in.size(); ++k) {
    bool dense = false;
    if (op.kind == OpKind::attention)
      dense = k > 2 || (k == 1 && op.attention->k_axes.dense()) || (k == 2 && op.attention->v_axes.dense());
    if (op.kind == OpKind::lookup) dense = true;
    if (op.kind == OpKind::spread) dense = !op.spread->parts[k].in_planes();
    see(op.in[k], dense);
  }
  see(op.out, op.kind == OpKind::spread);
  for (const Unit::Also& also : unit.also) see(also.op.out, false);
}

}  // namespace

std::vector<int> results(const Unit& unit) {
  std::vector<int> values = {unit.op.out};
  values.insert(values.end(), unit.op.more.begin(), unit.op.more.end());
  for (const Unit::Also& also : unit.also) values.push_back(also.op.out);
  for (const Unit& before : unit.before)
    if (before.op.out >= 0) values.push_back(before.op.out);
  return values;
}

Lowering lower(const Graph& graph, bool alone) {
  Lowering result;
  result.dims.reserve(graph.values().size());
  for (const GraphValue& value : graph.values()) result.dims.push_back(stated_dims(value));
  if (!alone) propagate_dims(graph, &result.dims);
  result.zeros.assign(graph.values().size(), kNoZero);
  LowerContext context{graph, result.dims, result.zeros, alone, nullptr};

  const int count = static_cast<int>(graph.nodes().size());
  std::vector<bool> taken(static_cast<size_t>(count), false);
  std::unordered_map<int, Unit> composites;  // by last node
  std::unordered_map<int, QuantisedChain> chains;  // likewise
  for (int i = count - 1; i >= 0; --i) {
    if (taken[static_cast<size_t>(i)]) continue;
    Unit unit;
    QuantisedChain chain;
    if (match_quantised(graph, i, &chain) &&
        std::none_of(chain.nodes.begin(), chain.nodes.end(), [&](int n) { return taken[static_cast<size_t>(n)]; })) {
      for (int n : chain.nodes) taken[static_cast<size_t>(n)] = true;
      chains.emplace(i, std::move(chain));
      continue;
    }
    if (!lower_attention(context, i, &unit) && !lower_norm_chain(context, i, &(unit = {})) &&
        !lower_group_norm_chain(context, i, &(unit = {})) &&
        !lower_composite(context, i, &(unit = {})) && !lower_shuffle(context, i, &(unit = {})) &&
        !lower_flat_product(context, i, &(unit = {})))
      continue;
    bool free = std::none_of(unit.nodes.begin(), unit.nodes.end(),
                             [&](int n) { return taken[static_cast<size_t>(n)]; });
    if (!free) continue;
    for (int n : unit.nodes) taken[static_cast<size_t>(n)] = true;
    composites.emplace(i, std::move(unit));
  }

  result.unit_of.assign(static_cast<size_t>(count), -1);
  for (int i = 0; i < count; ++i) {
    auto composite = composites.find(i);
    const auto chain = chains.find(i);
    if (taken[static_cast<size_t>(i)] && composite == composites.end() && chain == chains.end()) continue;
    Unit unit;
    if (composite != composites.end()) {
      unit = std::move(composite->second);
      if (unit.op.kind != OpKind::attention && unit.op.kind != OpKind::conv) unit.dims = context.of(unit.op.in[0]);
      unit.supported = true;
    } else {
      unit.nodes = {i};
      try {
        chain != chains.end() ? lower_quantised(context, chain->second, &unit) : lower_node(context, i, &unit);
        unit.supported = true;
      } catch (const Unsupported& e) {
        unit.reason = e.what();
      }
    }
    if (unit.supported) {
      auto tell = [&](int value, Dims* own) {
        Dims& known = result.dims[static_cast<size_t>(value)];
        merge_dims(own, known);
        known = *own;
      };
      tell(unit.op.out, &unit.dims);
      for (Unit::Also& also : unit.also) tell(also.op.out, &also.dims);
      for (Unit& before : unit.before)
        if (before.op.out >= 0) tell(before.op.out, &before.dims);
    }
    take_nodes(&unit, &result);
    result.units.push_back(std::move(unit));
  }
  link_resized(graph, &result);
  std::vector<bool> planes(graph.values().size(), false);
  result.as_kept.assign(graph.values().size(), false);
  for (const Unit& unit : result.units)
    if (unit.supported) see_forms(unit, &planes, &result.as_kept);
  for (size_t v = 0; v < planes.size(); ++v)
    if (planes[v]) result.as_kept[v] = false;
  for_units(weighted(result), &result, read_weight);
  return result;
}

void look_at_weights(double look_from, Lowering* lowering) {
  const std::vector<int> units = weighted(*lowering);
  for_units(units, lowering, [&](Unit* unit) { look_at_weight(look_from, unit); });
  for (int u : units) {
    Unit& unit = lowering->units[static_cast<size_t>(u)];
    const double own = unit.op.source ? weights_of(unit) : 0;
    double zeros = unit.sparsity * own, all = own;
    for (const Unit& before : unit.before) zeros += before.sparsity * weights_of(before), all += weights_of(before);
    const double padding = static_cast<double>(unit.padding);
    unit.sparsity = (zeros - padding) / (all - padding);
  }
}

std::vector<int> values_read(const Unit& unit) {
  std::vector<int> out;
  for (const Unit& before : unit.before)
    for (int v : values_read(before)) out.push_back(v);
  for (int v : unit.op.in)
    if (v >= 0) out.push_back(v);
  const std::vector<int> made = results(unit);
  out.erase(std::remove_if(out.begin(), out.end(), [&](int v) { return std::find(made.begin(), made.end(), v) != made.end(); }), out.end());
  return out;
}

Digest lowering_digest(const Graph& graph, const Lowering& lowering) {
  Hasher hasher;
  for (const GraphNode& node : graph.nodes()) hasher.text(node.op).text(node.domain).list(node.in).list(node.out);
  for (size_t v = 0; v < graph.values().size(); ++v) {
    const GraphValue& value = graph.values()[v];
    hasher.put(value.constant).put(value.graph_output).put(value.producer).list(value.consumers).put(value.uses);
    hasher.put(lowering.dims[v].size());
    for (const Dim& dim : lowering.dims[v]) hasher.put(dim.value).text(dim.symbol);
  }
  hasher.list(lowering.unit_of);
  for (const Unit& unit : lowering.units) {
    hasher.list(unit.nodes).put(unit.supported).text(unit.reason);
    if (!unit.supported) continue;
    hasher.put(unit.domains).put(unit.dims.size());
    for (const Dim& dim : unit.dims) hasher.put(dim.value).text(dim.symbol);
    hasher.put(unit.anchor).put(unit.packed).text(op_bytes(unit.op));
    for (const Unit::Also& also : unit.also) hasher.text(op_bytes(also.op));
    if (unit.op.source) hasher.put(weight_digest(unit.op));
    for (const Unit& before : unit.before) {
      hasher.text(op_bytes(before.op));
      if (before.op.has_weight()) hasher.put(weight_digest(before.op));
    }
  }
  return hasher.digest();
}

void pack_units(const std::vector<int>& units, Lowering* lowering) {
  std::vector<int> wanted;
  for (int u : units) {
    const Unit& unit = lowering->units[static_cast<size_t>(u)];
    if (unit.supported && unit.anchor) wanted.push_back(u);
  }
  // Not compact: most are dropped as soon as there is a plan.
  for_units(wanted, lowering, [](Unit* unit) {
    if (!unit->op.weights) unit->op.weights = packed_weight(unit->op, false);
  });
}

}  // namespace onnxprune::ep
