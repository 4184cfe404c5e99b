// What the CPU provider takes.
#include <algorithm>

#include "ep/cost_internal.h"
#include "ep/machine.h"
#include "ep/recurrent.h"

namespace onnxprune::ep {
namespace {

constexpr double kDense = 0.88;         // convolutions against the estimate for a good dense kernel
constexpr double kOutput = 0.25;        // ... and cycles for each number they write
// Quantised ones, as shares of the dense time: measured 0.91 to 1.2 with unsigned weights, 0.23 to 0.3 with
// signed ones where there are instructions for them (Emerald Rapids). They are taken to be as fast as anywhere.
constexpr double kUnsignedIntegers = 0.9, kSignedIntegers = 0.5, kDotProducts = 0.23;
// Convolutions in groups whose channels do not come in eights: cycles a group, and a number.
constexpr double kGroupAlone = 900, kUnordered = 6;
constexpr double kGathered = 5;         // cycles a pixel and tap, however many channels, where windows are put together
constexpr double kByte = 0.1;           // cycles for an 8-bit number read or written in passing
constexpr double kUncached = 7;         // bytes a cycle that dense weights come in from memory
constexpr double kCacheBytes = 24e6;
constexpr double kCall = 1200;          // onnxruntime's own time for one node, at least;
constexpr double kImageCall = 500;      // ... for a convolution of images more
constexpr double kIntegerCall = 4500;   // ... and for one of integers
constexpr double kSpelledCall = 1300;   // ... of what is spelled as many: small networks are hardly more than calls
constexpr double kReorder = 3000;       // ... and for one that only puts a small image into another order
constexpr double kNorm = 0.5;           // cycles a number of a fused normalisation,
constexpr double kSpelledNorm = 2.0;    // ... and of one spelled out in nodes
constexpr double kPower = 40;           // cycles a number divided by a power of a sum of squares,
constexpr double kQuotient = 3;         // ... but where the power is the number itself
constexpr double kGroupNorm = 0.75;     // cycles a number normalised over pixels, and a plane;
constexpr double kGroupNormPlane = 45;
constexpr double kSpelledGroupNorm = 2.5;  // ... of GroupNormalization, which becomes nodes
constexpr double kGroupNormNodes = 8;
constexpr double kResize = 1.0;         // cycles a number of resized images, to the nearest pixel
constexpr double kBlend = 3.0;          // ... or between pixels
constexpr double kSpread = 2.0;         // cycles a number of a cache's concatenation
constexpr double kInterleaved = 1.5;    // cycles a number of DepthToSpace
constexpr double kAdded = 1.0;          // ... and a product that a transposed convolution adds to its output
constexpr double kProducts = 12;        // multiply-adds a cycle of products of activations
constexpr double kSoftmax = 2.0;        // cycles a score
constexpr double kStepGate = 2.0;       // cycles a gate of a recurrent unit
constexpr double kStepCached = 36;      // bytes a cycle of a recurrent layer's weights in the second-level cache
constexpr double kLayer = 5000;         // what a recurrent layer takes besides

// A DequantizeLinear and the QuantizeLinear behind it with nothing but a reshape in between: onnxruntime does
// without both.
bool cancels_out(const Graph& graph, const Lowering& lowering, const Unit& unit) {
  const GraphNode& node = graph.node(unit.nodes.front());
  const auto reshapes = [&](int n) {
    return n >= 0 && lowering.units[static_cast<size_t>(lowering.unit_of[static_cast<size_t>(n)])].op.kind == OpKind::reshape;
  };
  const auto only_reader = [&](int n) {
    const std::vector<int>& readers = graph.value(graph.node(n).out[0]).consumers;
    return readers.size() == 1 ? readers[0] : -1;
  };
  if (node.op == "DequantizeLinear") {
    const int next = only_reader(unit.nodes.front());
    if (!reshapes(next)) return false;
    const int last = only_reader(next);
    return last >= 0 && graph.node(last).op == "QuantizeLinear";
  }
  if (node.op != "QuantizeLinear") return false;
  const int before = graph.value(node.in[0]).producer;
  if (!reshapes(before)) return false;
  const int first = graph.value(graph.node(before).in[0]).producer;
  return first >= 0 && graph.node(first).op == "DequantizeLinear";
}

// A dense weight of so many bytes.
double reading(const CostModel& model, double bytes) {
  if (std::max(bytes, model.weight_bytes) >= kCacheBytes) return model.cpu_factor * bytes / kUncached;
  if (model.weight_bytes < static_cast<double>(kernels::cache_sizes().l2)) return model.cpu_factor * bytes / kCached;
  return bytes / streaming_speed();
}

double recurrent(const CostModel& model, const Lowering& lowering, const Unit& unit) {
  const Sequences sequences = sequences_of(model, lowering, unit);
  const double steps = sequences.steps, batch = sequences.batch;
  const kernels::RecurrentShape& shape = unit.op.recurrent->shape;
  // Its products with the state are matrix products of as many rows as there are sequences: reading the
  // weights anew in every step is what few of them take.
  auto product = [&](const kernels::ConvGeometry& g, double rows) {
    const double bytes = 4.0 * static_cast<double>(g.columns()) * g.out_channels;
    const double speed = bytes < static_cast<double>(kernels::cache_sizes().l2) ? kStepCached : bytes < kCacheBytes ? kCached : kUncached;
    return model.cpu_factor * std::max(bytes / speed, rows * kernels::estimate_dense_cycles(g, 1, best_isa()));
  };
  const double units = static_cast<double>(shape.directions) * shape.hidden;
  const double gates = kStepGate * kernels::gates_of(shape.cell) * units;
  // The first time they come from wherever the weights of the network are.
  const auto first = [&](const kernels::ConvGeometry& g) {
    return reading(model, 4.0 * static_cast<double>(g.columns()) * g.out_channels);
  };
  const kernels::ConvGeometry &inputs = unit.before[0].op.geometry, &states = unit.op.geometry;
  return kCall + kLayer + std::max(first(inputs), product(inputs, steps * batch)) +
         std::max(first(states), product(states, batch)) + (steps - 1) * product(states, batch) + steps * batch * gates;
}

// A matrix product that multiplies every pixel by all taps, and the sums of what these overlap in.
double transposed(const CostModel& model, const Lowering& lowering, const Unit& unit, double out) {
  const Op& sums = unit.before[0].op;
  const View x = sizes_of(model, lowering.dims[static_cast<size_t>(sums.in[0])], unit.domains);
  const double images = static_cast<double>(x.images), pixels = static_cast<double>(x.pixels());
  const double weights = static_cast<double>(sums.geometry.columns()) * sums.geometry.out_channels - static_cast<double>(unit.padding);
  const double products = kernels::estimate_dense_cycles(kernels::matmul_geometry(1, 1), 1, best_isa()) * weights * pixels;
  const double spread = weights * sums.geometry.groups / std::max(1.0, static_cast<double>(sums.geometry.in_channels)) * pixels;
  return kCall + images * (model.cpu_factor * products + kAdded * spread) + kOutput * out;
}

}  // namespace

double CostModel::reorder() { return kReorder; }

double CostModel::cpu(const Graph& graph, const Lowering& lowering, const Unit& unit) const {
  const double out = floats(*this, unit.dims, unit.domains);
  switch (unit.op.kind) {
    case OpKind::conv: {
      const View y = sizes_of(*this, unit.dims, unit.domains);
      const kernels::ConvGeometry& g = unit.op.geometry;
      const double live = live_share(g, sizes_of(*this, lowering.dims[static_cast<size_t>(unit.op.in[0])], unit.domains));
      const double bytes = live * (unit.quantised ? 1.0 : 4.0) * static_cast<double>(g.columns()) * g.out_channels;
      const double read = reading(*this, bytes);
      const double numbers = out / std::max(1.0, static_cast<double>(y.images));
      const double share = !unit.quantised ? 1.0 : !unit.has_sign ? kUnsignedIntegers : kernels::integer_dot_products() ? kDotProducts : kSignedIntegers;
      double work = live * share * kDense * kernels::estimate_dense_cycles(g, y.height * y.width, best_isa()) + kOutput * numbers;
      // Few multiplications a number, as in depthwise convolutions: moving the numbers is the work.
      // Its order of eight or more channels together does not take others; then each group is a product of its own.
      if (g.groups > 1 && g.out_channels % 8 != 0 && !unit.quantised)
        work += kGroupAlone * g.groups + kUnordered * numbers;
      else if (g.groups > 1)
        work = std::max(work, (0.9 + 0.2 * g.stride_h * g.stride_w) * numbers);
      else if (unit.quantised && g.taps() > 1)
        work += kGathered * static_cast<double>(g.taps()) * static_cast<double>(y.height * y.width);
      // What is not fused dequantises its weights every time.
      const bool spelled = !unit.quantised && !unit.op.scale.empty();
      const double apart = spelled ? kCall * static_cast<double>(unit.nodes.size() - 1) + kFuseless * (bytes / 4 + 4 * out) : 0;
      work *= cpu_factor;
      const double call = kCall + (y.pixels() == 1 ? 0 : unit.quantised ? kIntegerCall : kImageCall);
      return call + apart + static_cast<double>(y.images) * (y.pixels() == 1 ? std::max(work, read) : work + read);
    }
    case OpKind::pool:
      return kTap * out * unit.op.geometry.taps();
    case OpKind::global_pool:
      return (unit.quantised ? kByte : kFuseless) * floats(*this, lowering.dims[static_cast<size_t>(unit.op.in[0])], unit.domains);
    case OpKind::resize:
      return kCall + (unit.op.resize->linear ? kBlend : kResize) * out;
    case OpKind::pick:
      return kCall + 2 * kFuseless * out;
    case OpKind::interleave:
      return unit.before.empty() ? kCall + kInterleaved * out : transposed(*this, lowering, unit, out);
    case OpKind::pointwise:
    case OpKind::affine: {
      if (cancels_out(graph, lowering, unit)) return 0;
      // What is left of constants after onnxruntime's own folding, and what it has no fused form of, are
      // passes of their own; a hard swish spelled out is as many as it has nodes.
      const bool spelled = unit.nodes.size() > 1, clamped = curve(unit.op.epilogue, out) == 0;
      const double passes = spelled && clamped ? static_cast<double>(unit.nodes.size())
                            : spelled || unit.op.kind == OpKind::affine || !fuses(graph, lowering, unit) ? 1
                                                                                                         : 0;
      return curve(unit.op.epilogue, out) + passes * (kCall + 2 * kFuseless * out);
    }
    case OpKind::quantised_sum:
    case OpKind::decode:
    case OpKind::encode:
      return kCall + 3 * kByte * out;
    case OpKind::binary:
      return fuses(graph, lowering, unit) ? kFuseless * out : kCall + 3 * kFuseless * out;
    case OpKind::response_norm:
      return kCall + (unit.op.response.beta == 1.0f ? kQuotient : kPower) * out;
    case OpKind::group_norm: {
      const bool named = unit.nodes.size() == 1 && unit.op.geometry.groups < unit.op.geometry.in_channels;
      if (named) return kSpelledCall * kGroupNormNodes + kSpelledGroupNorm * out;
      return kCall * static_cast<double>(unit.nodes.size()) + kGroupNorm * out + kGroupNormPlane * planes(*this, unit);
    }
    case OpKind::norm: {
      // One fused pass, or a few on the tensor and a few on one number a token.
      const bool spelled = unit.nodes.size() > 1;
      return (spelled ? kSpelledCall : kCall) * static_cast<double>(unit.nodes.size()) + (spelled ? kSpelledNorm : kNorm) * out;
    }
    case OpKind::attention: {
      const auto [products, scores, kept] = attention_work(*this, lowering, unit);
      const AttentionSpec& spec = *unit.op.attention;
      // Keys and values are read anew for every head, and repeated first where heads share them.
      const bool shared = spec.k_head.size() > 1 && spec.k_head[0] == spec.k_head[1];
      const double work = std::max(cpu_factor * products / kProducts, 4 * kept / kUncached);
      double total = kSpelledCall * static_cast<double>(unit.nodes.size()) + work + kSoftmax * scores + 4 * kTransposed * out +
                     (shared ? 2 * kFuseless * kept : 0);
      for (const Unit& before : unit.before) total += cpu(graph, lowering, before);
      return total;
    }
    case OpKind::sums:
      // A product and its share of a sum each; halves are cut and put together.
      return 3 * kFuseless * static_cast<double>(unit.op.sums->terms.size()) / static_cast<double>(unit.op.sums->starts.size() - 1) * out;
    case OpKind::spread:
    case OpKind::lookup:
      return kSpread * out;
    case OpKind::recurrent:
      return recurrent(*this, lowering, unit);
    case OpKind::concat:
      return kCall + 2 * (unit.quantised ? kByte : kFuseless) * out;
    case OpKind::reshape:
      return kCall;
  }
  return 0;
}

double CostModel::estranged(const Graph& graph, const Lowering& lowering, const Unit& unit, int value) const {
  if (!unit.quantised || unit.op.kind != OpKind::conv || graph.value(value).desc.type != abi::kInt8) return 0;
  Unit dense = unit;  // dequantised weights and all
  dense.quantised = false;
  return std::max(0.0, cpu(graph, lowering, dense) - cpu(graph, lowering, unit)) + 2 * kFuseless * floats(*this, unit.dims, unit.domains);
}

}  // namespace onnxprune::ep
