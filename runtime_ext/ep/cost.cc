#include "ep/cost.h"

#include <algorithm>
#include <functional>

#include "ep/cost_internal.h"

namespace onnxprune::ep {
namespace {

constexpr double kCurved = 0.85;  // cycles an element of Sigmoid and its like

// The view a unit will most likely be computed in.
Domain likely(uint8_t domains, size_t rank) {
  if ((domains & static_cast<uint8_t>(Domain::image)) && (rank == 4 || !(domains & static_cast<uint8_t>(Domain::tokens))))
    return Domain::image;
  return domains & static_cast<uint8_t>(Domain::tokens) ? Domain::tokens : Domain::left;
}

// The unit that makes `value`, if it is a weighted sum and nobody else reads the value: then this unit
// disappears into it.
bool fuses_into_producer(const Graph& graph, const Lowering& lowering, int value) {
  const GraphValue& v = graph.value(value);
  if (v.producer < 0 || v.graph_output || v.consumers.size() != 1 || v.uses != 1) return false;
  const Unit& producer = lowering.units[static_cast<size_t>(lowering.unit_of[static_cast<size_t>(v.producer)])];
  return producer.supported && producer.op.kind == OpKind::conv &&
         producer.op.epilogue.activation != kernels::Activation::round;  // its result is final
}

// Of an operand of the unit's op, made by the graph or before.
const Dims& operand_dims(const Lowering& lowering, const Unit& unit, int value) {
  return value >= 0 ? lowering.dims[static_cast<size_t>(value)] : unit.before[static_cast<size_t>(kBefore - value)].dims;
}

}  // namespace

double curve(const kernels::Epilogue& epilogue, double elements) {
  using kernels::Activation;
  switch (epilogue.activation) {
    case Activation::sigmoid:
    case Activation::silu:
    case Activation::tanh:
    case Activation::gelu_erf:
    case Activation::gelu_tanh:
      return kCurved * elements;
    default:
      return 0;
  }
}

View sizes_of(const CostModel& model, const Dims& dims, uint8_t domains) {
  const Domain domain = likely(domains, dims.size());
  return view(domain, model.assumed(dims, domain));
}

double floats(const CostModel& model, const Dims& dims, uint8_t domains) {
  double n = 1;
  for (int64_t d : model.assumed(dims, likely(domains, dims.size()))) n *= static_cast<double>(d);
  return n;
}

double planes(const CostModel& model, const Unit& unit) {
  const View y = sizes_of(model, unit.dims, unit.domains);
  return static_cast<double>(y.images * y.channels);
}

double live_share(const kernels::ConvGeometry& g, const View& x) {
  const Window h{g.kernel_h, g.stride_h, g.dilation_h, g.pad_top, g.pad_bottom}, w{g.kernel_w, g.stride_w, g.dilation_w, g.pad_left, g.pad_right};
  if (g.groups > 1) return 1;  // those are left as they are
  return static_cast<double>(live_taps(h, x.height).count * live_taps(w, x.width).count) / static_cast<double>(g.taps());
}

AttentionWork attention_work(const CostModel& model, const Lowering& lowering, const Unit& unit) {
  const AttentionSpec& spec = *unit.op.attention;
  Shape shapes[2];
  for (size_t i = 0; i < 2; ++i)
    shapes[i] = model.assumed(operand_dims(lowering, unit, unit.op.in[i]), Domain::tokens);
  // Tokens of one batch.
  const auto tokens_of = [](const Shape& shape, int64_t known, int32_t axis) {
    return static_cast<double>(known > 0 ? known : axis < 0 ? 1 : shape[static_cast<size_t>(axis)]);
  };
  const double q = static_cast<double>(view(Domain::tokens, shapes[0]).width);
  const double k = tokens_of(shapes[1], spec.k_tokens, spec.k_axes.dense() ? spec.k_axes.token : static_cast<int32_t>(shapes[1].size()) - 2);
  const double batches = std::max(1.0, q / tokens_of(shapes[0], spec.q_tokens, static_cast<int32_t>(shapes[0].size()) - 2));
  AttentionWork work;
  work.kept = batches * k * spec.heads() * (spec.dim + spec.value_dim);
  work.scores = q * k * spec.heads();
  work.products = work.scores * (spec.dim + spec.value_dim);
  return work;
}

Sequences sequences_of(const CostModel& model, const Lowering& lowering, const Unit& unit) {
  const Shape x = model.assumed(lowering.dims[static_cast<size_t>(unit.before[0].op.in[0])], Domain::tokens);
  return {static_cast<double>(x[0]), static_cast<double>(x[1])};
}

std::vector<CostModel> CostModel::small() const {
  CostModel least = *this, little = *this;
  least.open_pixels = 32, least.open_length = 4, least.open_tokens = 1;
  little.open_pixels = 64, little.open_length = 32, little.open_tokens = 8;
  return {least, little};
}

Shape CostModel::assumed(const Dims& dims, Domain domain) const {
  Shape out;
  const size_t rank = dims.size();
  for (size_t i = 0; i < rank; ++i) {
    int64_t leaf = open_tokens;
    if (domain == Domain::image) {
      leaf = i == 0 ? 1 : rank == 4 ? open_pixels : open_length;
    } else if (i == 0 && rank > 2) {
      leaf = 1;
    }
    const std::function<int64_t(const std::string&)> plain = [&](const std::string& symbol) {
      if (steps.count(symbol) != 0) return open_tokens;
      if (sequences.count(symbol) != 0) return int64_t{1};
      const auto known = like.find(symbol);
      return known == like.end() ? leaf : assume(known->second, plain);
    };
    out.push_back(assume(dims[i], plain));
  }
  return out;
}

void CostModel::look_around(const Graph& graph, const Lowering& lowering) {
  std::set<std::string> seen;  // earlier in the graph, so that nothing is taken for itself
  const auto see = [&](int value) {
    for (const Dim& dim : lowering.dims[static_cast<size_t>(value)])
      if (!dim.known()) seen.insert(leaf_of(dim.symbol));
  };
  for (size_t v = 0; v < graph.values().size(); ++v)
    if (graph.values()[v].producer < 0 && !graph.values()[v].constant) see(static_cast<int>(v));
  for (const GraphNode& node : graph.nodes()) {
    for (int out : node.out) {
      if (out < 0) continue;
      const Dims& y = lowering.dims[static_cast<size_t>(out)];
      for (int in : node.in) {
        if (in < 0 || graph.value(in).constant) continue;
        const Dims& x = lowering.dims[static_cast<size_t>(in)];
        if (x.size() != y.size()) continue;
        for (size_t i = 0; i < y.size(); ++i)
          if (!y[i].known() && seen.count(leaf_of(y[i].symbol)) == 0) like.emplace(leaf_of(y[i].symbol), x[i]);
        break;
      }
      see(out);
    }
  }
  weight_bytes = 0;
  for (const Unit& unit : lowering.units) {
    const auto bytes = [](const Unit& of) {
      return (of.quantised ? 1.0 : 4.0) * static_cast<double>(of.op.geometry.columns()) * of.op.geometry.out_channels;
    };
    if (unit.supported && unit.anchor) weight_bytes += bytes(unit);
    for (const Unit& before : unit.before) weight_bytes += bytes(before);
  }
  for (const Unit& unit : lowering.units) {
    if (!unit.supported || unit.op.kind != OpKind::recurrent) continue;
    const Dims& x = lowering.dims[static_cast<size_t>(unit.before[0].op.in[0])];
    if (!x[0].known() && !x[0].symbol.empty()) steps.insert(x[0].symbol);
    if (!x[1].known() && !x[1].symbol.empty()) sequences.insert(x[1].symbol);
  }
}

bool CostModel::fuses(const Graph& graph, const Lowering& lowering, const Unit& unit) const {
  const Op& op = unit.op;
  if (!op.slope.empty()) return false;
  if (op.kind == OpKind::pointwise || op.kind == OpKind::affine) return fuses_into_producer(graph, lowering, op.in[0]);
  return op.kind == OpKind::binary && op.fit != Fit::different && op.binary == kernels::Binary::add &&
         (fuses_into_producer(graph, lowering, op.in[0]) || fuses_into_producer(graph, lowering, op.in[1]));
}

double CostModel::pass(const Unit& unit) const { return 2 * kFuseless * floats(*this, unit.dims, unit.domains); }

}  // namespace onnxprune::ep
