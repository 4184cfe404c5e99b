#include "ep/cost.h"

#include <algorithm>
#include <chrono>

#include "ep/recurrent.h"

namespace onnxprune::ep {
namespace {

constexpr double kFuseless = 0.25;      // cycles to read or write one float in passing
constexpr double kDense = 0.88;         // the CPU's convolutions against the estimate for a good dense kernel
constexpr double kOutput = 0.25;        // ... and cycles for each number they write
// Quantised ones, as shares of the dense time: measured 0.91 to 1.2 with unsigned weights, 0.23 to 0.3 with
// signed ones where there are instructions for them (Emerald Rapids). They are taken to be as fast as anywhere.
constexpr double kUnsignedIntegers = 0.9, kSignedIntegers = 0.5, kDotProducts = 0.23;
// Convolutions in groups whose channels do not come in eights: cycles a group, and a number.
constexpr double kGroupAlone = 900, kUnordered = 6;
constexpr double kGathered = 5;         // cycles a pixel and tap, however many channels, where windows are put together
constexpr double kByte = 0.1;           // cycles for an 8-bit number read or written in passing
constexpr double kCached = 23;          // bytes a cycle that dense weights come in from the caches
constexpr double kUncached = 7;         // ... and from memory
constexpr double kCacheBytes = 24e6;
constexpr double kGather = 1.4;         // cycles for each kept weight of a matrix times one vector
constexpr double kKept = 1.0;           // cycles for each kept weight, however few pixels
constexpr double kFarOutput = 1.2;      // cycles for each number written to a tensor larger than the caches;
constexpr double kWideFarOutput = 0.6;  // ... of processors with two 512-bit multiply-adds a cycle (see below)
constexpr double kFarBytes = 4e6;
constexpr double kCurved = 0.85;        // cycles an element of Sigmoid and its like
constexpr double kTap = 0.2;            // cycles for each number a pooling window looks at
constexpr double kPoolRow = 60;         // ... and for each row of windows of ours
constexpr double kCall = 1200;          // onnxruntime's own time for one node, at least;
constexpr double kImageCall = 500;      // ... for a convolution of images more
constexpr double kIntegerCall = 4500;   // ... and for one of integers
constexpr double kSpelledCall = 1300;   // ... of what is spelled as many: small networks are hardly more than calls
constexpr double kGroupCall = 3300;     // ... and for one of ours
constexpr double kReorder = 3000;       // ... and for one that only puts a small image into another order
constexpr double kTransposed = 1.0;     // ... with a transposition, or out of cache
constexpr double kNorm = 0.6;           // cycles a number of our normalisation, of onnxruntime's fused one,
constexpr double kCpuNorm = 0.5;        // and of one spelled out in nodes
constexpr double kSpelledNorm = 2.0;
constexpr double kRoots = 0.7;          // cycles a number divided by two roots,
constexpr double kPower = 1.7;          // ... or by any power of a sum of squares,
constexpr double kNeighbour = 0.07;     // ... and a term of that; of onnxruntime, which takes 65 at least
constexpr double kCpuPower = 40;
constexpr double kCpuQuotient = 3;      // ... but where the power is the number itself
constexpr double kGroupNorm = 0.5;      // cycles a number normalised over pixels, and a plane, here
constexpr double kGroupNormPlane = 80;
constexpr double kCpuGroupNorm = 0.75;  // ... and there; of GroupNormalization, which becomes nodes there
constexpr double kCpuGroupNormPlane = 45;
constexpr double kSpelledGroupNorm = 2.5;
constexpr double kGroupNormNodes = 8;
constexpr double kOurResize = 0.5;      // cycles a number of resized images, to the nearest pixel
constexpr double kOurBlend = 1.0;       // ... or between pixels;
constexpr double kCpuResize = 1.0;      // of onnxruntime
constexpr double kCpuBlend = 3.0;
constexpr double kOurSums = 0.3;        // cycles a number and product of sums of products
constexpr double kSpread = 0.9;         // ... and of a cache, which comes from memory,
constexpr double kCpuSpread = 2.0;      // and of onnxruntime's concatenation
constexpr double kInterleaved = 0.6;    // cycles a number of interleaved planes here, and of DepthToSpace there
constexpr double kCpuInterleaved = 1.5;
constexpr double kAdded = 1.0;         // ... and a product that a transposed convolution adds to its output
constexpr double kOurProducts = 11;     // multiply-adds a cycle of products of activations
constexpr double kCpuProducts = 12;
constexpr double kOurSoftmax = 2.5;     // cycles a score
constexpr double kCpuSoftmax = 2.0;
constexpr double kStepGate = 2.2;       // cycles a gate of a recurrent unit, here and on the CPU
constexpr double kCpuStepGate = 2.0;
constexpr double kExported = 0.5;       // cycles a number that goes from planes to one step's vector
constexpr double kStepCached = 36;      // bytes a cycle of a recurrent layer's weights in the second-level cache
constexpr double kCpuLayer = 5000;      // what onnxruntime takes for a recurrent layer besides

// The view a unit will most likely be computed in.
Domain likely(uint8_t domains, size_t rank) {
  if ((domains & static_cast<uint8_t>(Domain::image)) && (rank == 4 || !(domains & static_cast<uint8_t>(Domain::tokens))))
    return Domain::image;
  return domains & static_cast<uint8_t>(Domain::tokens) ? Domain::tokens : Domain::left;
}

View sizes_of(const CostModel& model, const Dims& dims, uint8_t domains) {
  const Domain domain = likely(domains, dims.size());
  return view(domain, model.assumed(dims, domain));
}

// Planes of pixels, in all images.
double planes(const CostModel& model, const Unit& unit) {
  const View y = sizes_of(model, unit.dims, unit.domains);
  return static_cast<double>(y.images * y.channels);
}

// The share of a window that reads anything but padding.
double live_share(const kernels::ConvGeometry& g, const View& x) {
  const Window h{g.kernel_h, g.stride_h, g.dilation_h, g.pad_top, g.pad_bottom}, w{g.kernel_w, g.stride_w, g.dilation_w, g.pad_left, g.pad_right};
  if (g.groups > 1) return 1;  // those are left as they are
  return static_cast<double>(live_taps(h, x.height).count * live_taps(w, x.width).count) / static_cast<double>(g.taps());
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

// Of an operand of the unit's op, made by the graph or before.
const Dims& operand_dims(const Lowering& lowering, const Unit& unit, int value) {
  return value >= 0 ? lowering.dims[static_cast<size_t>(value)] : unit.before[static_cast<size_t>(kBefore - value)].dims;
}

// Activations that need more than a clamp.
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

kernels::Isa best_isa() {
  for (kernels::Isa isa : {kernels::Isa::avx512, kernels::Isa::avx2})
    if (kernels::isa_supported(isa)) return isa;
  return kernels::Isa::scalar;
}

}  // namespace

std::vector<CostModel> CostModel::small() const {
  CostModel least = *this, little = *this;
  least.open_pixels = 32, least.open_length = 4, least.open_tokens = 1;
  little.open_pixels = 64, little.open_length = 32, little.open_tokens = 8;
  return {least, little};
}

double CostModel::call() { return kGroupCall; }
double CostModel::reorder() { return kReorder; }

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

double CostModel::reading(double bytes) const {
  if (std::max(bytes, weight_bytes) >= kCacheBytes) return cpu_factor * bytes / kUncached;
  if (weight_bytes < static_cast<double>(kernels::cache_sizes().l2)) return cpu_factor * bytes / kCached;
  return bytes / streaming_speed();
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

void CostModel::sequence(const Lowering& lowering, const Unit& unit, double* steps, double* batch) const {
  const Shape x = assumed(lowering.dims[static_cast<size_t>(unit.before[0].op.in[0])], Domain::tokens);
  *steps = static_cast<double>(x[0]), *batch = static_cast<double>(x[1]);
}

double CostModel::ours_recurrent(const Graph& graph, const Lowering& lowering, const Unit& unit) const {
  double steps = 0, batch = 0;
  sequence(lowering, unit, &steps, &batch);
  const kernels::RecurrentShape& shape = unit.op.recurrent->shape;
  const kernels::ConvGeometry& g = unit.op.geometry;
  const double size = static_cast<double>(g.columns()) * g.out_channels;
  const double density = static_cast<double>(unit.op.source->nonzeros) / size;
  int block = 1;  // rows that keep the same columns, as far as that fills
  for (int i = 0; i < 3; ++i)
    if (unit.zeros.block_fill[i] > 0.97) block = 2 << i;
  const double one = kernels::row_tiles_cycles(g.out_channels, static_cast<double>(g.columns()), density, unit.zeros.nm_n,
                                               unit.zeros.nm_m, block, batch, isa);
  const double units = static_cast<double>(shape.directions) * shape.hidden;
  const double step = batch * (one + kStepGate * kernels::gates_of(shape.cell) * units);
  const double sums = steps * batch * g.out_channels;
  const double moved = steps * batch == 1 ? 0 : kExported * sums;
  return ours(graph, lowering, unit.before[0]) + moved + steps * step;
}

double CostModel::cpu_recurrent(const Lowering& lowering, const Unit& unit) const {
  double steps = 0, batch = 0;
  sequence(lowering, unit, &steps, &batch);
  const kernels::RecurrentShape& shape = unit.op.recurrent->shape;
  // Its products with the state are matrix products of as many rows as there are sequences: reading the
  // weights anew in every step is what few of them take.
  auto product = [&](const kernels::ConvGeometry& g, double rows) {
    const double bytes = 4.0 * static_cast<double>(g.columns()) * g.out_channels;
    const double speed = bytes < static_cast<double>(kernels::cache_sizes().l2) ? kStepCached : bytes < kCacheBytes ? kCached : kUncached;
    return cpu_factor * std::max(bytes / speed, rows * kernels::estimate_dense_cycles(g, 1, best_isa()));
  };
  const double units = static_cast<double>(shape.directions) * shape.hidden;
  const double gates = kCpuStepGate * kernels::gates_of(shape.cell) * units;
  // The first time they come from wherever the weights of the network are.
  const auto first = [&](const kernels::ConvGeometry& g) {
    return reading(4.0 * static_cast<double>(g.columns()) * g.out_channels);
  };
  const kernels::ConvGeometry &inputs = unit.before[0].op.geometry, &states = unit.op.geometry;
  return kCall + kCpuLayer + std::max(first(inputs), product(inputs, steps * batch)) +
         std::max(first(states), product(states, batch)) + (steps - 1) * product(states, batch) + steps * batch * gates;
}

// A matrix product that multiplies every pixel by all taps, and the sums of what these overlap in.
double CostModel::cpu_transposed(const Lowering& lowering, const Unit& unit, double out) const {
  const Op& sums = unit.before[0].op;
  const View x = sizes_of(*this, lowering.dims[static_cast<size_t>(sums.in[0])], unit.domains);
  const double images = static_cast<double>(x.images), pixels = static_cast<double>(x.pixels());
  const double weights = static_cast<double>(sums.geometry.columns()) * sums.geometry.out_channels - static_cast<double>(unit.padding);
  const double products = kernels::estimate_dense_cycles(kernels::matmul_geometry(1, 1), 1, best_isa()) * weights * pixels;
  const double spread = weights * sums.geometry.groups / std::max(1.0, static_cast<double>(sums.geometry.in_channels)) * pixels;
  return kCall + images * (cpu_factor * products + kAdded * spread) + kOutput * out;
}

double CostModel::floats(const Dims& dims, uint8_t domains) const {
  double n = 1;
  for (int64_t d : assumed(dims, likely(domains, dims.size()))) n *= static_cast<double>(d);
  return n;
}

double CostModel::ours(const Graph& graph, const Lowering& lowering, const Unit& unit) const {
  const double out = floats(unit.dims, unit.domains);
  switch (unit.op.kind) {
    case OpKind::conv: {
      const View y = sizes_of(*this, unit.dims, unit.domains);
      const kernels::ConvGeometry& g = unit.op.geometry;
      const double size = static_cast<double>(g.columns()) * g.out_channels;
      const double live = live_share(g, sizes_of(*this, lowering.dims[static_cast<size_t>(unit.op.in[0])], unit.domains));
      const double kept = live * (1.0 - unit.sparsity) * size, images = static_cast<double>(y.images);
      if (y.height * y.width == 1)
        return images * std::min(kGather * kept, kernels::row_tiles_cycles(g.out_channels, static_cast<double>(g.columns()),
                                                                             kept / size, 0, 0, 1, 1, isa));
      const int64_t pixels = y.height * (y.width + (g.kernel_w > 1 ? 1 : 0));
      const int64_t whole = (pixels + kernels::kLane - 1) / kernels::kLane * kernels::kLane;
      // Measured on Zen 4 and, where such tensors came and went at 18 GB/s and 2.6 GHz, Emerald Rapids.
      const double each = kernels::wide_is_split() ? kFarOutput : kWideFarOutput;
      const double far = 4 * out / images > kFarBytes ? each * out / images : 0;
      if (kernels::walks_planes(g))
        return images * (far + kernels::estimate_window_cycles(g, static_cast<int32_t>(y.height),
                                                               static_cast<int32_t>(y.width), isa));
      // Other convolutions in groups: moving the numbers is the work, here as on the CPU.
      const double moving =
          g.groups > 1 ? (0.8 + 0.45 * g.stride_h * g.stride_w) * out / std::max(1.0, images) : 0;
      if (unit.op.weights)
        return images * (far + std::max(moving, kKept * kept + live * kernels::estimate_cycles(*unit.op.weights, whole, isa, generate_code)));
      if (unit.zeros.rows > 0)
        return images * (far + hope * std::max(moving, kKept * kept + live * kernels::estimate_cycles(g, unit.zeros, whole, isa, generate_code)));
      kernels::Analysis analysis;  // not sparse enough to look closer: dense kernels
      analysis.rows = g.out_channels;
      analysis.columns = g.columns();
      analysis.nnz = static_cast<int64_t>(size);
      return images * (far + std::max(moving, live * kernels::estimate_cycles(g, analysis, whole, isa, generate_code)));
    }
    case OpKind::pool:
      return pooling(unit);
    case OpKind::global_pool:
      return kFuseless * floats(lowering.dims[static_cast<size_t>(unit.op.in[0])], unit.domains);
    case OpKind::resize:
      return (unit.op.resize->linear ? kOurBlend : kOurResize) * out;
    case OpKind::pick:
      return 0;  // mostly a view
    case OpKind::interleave:
      return (unit.before.empty() ? 0 : ours(graph, lowering, unit.before[0])) + kInterleaved * out;
    case OpKind::pointwise:
    case OpKind::affine:
      return curve(unit.op.epilogue, out) + (fuses(graph, lowering, unit) ? 0 : 2 * kFuseless * out);
    case OpKind::quantised_sum:
    case OpKind::decode:
    case OpKind::encode:
      return 3 * kFuseless * out;
    case OpKind::binary:
      return (fuses(graph, lowering, unit) ? 1 : 3) * kFuseless * out;
    case OpKind::norm:
      return kNorm * out;
    case OpKind::response_norm:
      return ((unit.op.response.beta == 0.75f ? kRoots : kPower) + kNeighbour * unit.op.response.size) * out;
    case OpKind::group_norm:
      return kGroupNorm * out + kGroupNormPlane * planes(*this, unit);
    case OpKind::attention: {
      double products = 0, scores = 0, kept = 0;
      attention(lowering, unit, &products, &scores, &kept);
      double total = products / kOurProducts + kOurSoftmax * scores;
      for (const Unit& before : unit.before) total += ours(graph, lowering, before);
      return total;
    }
    case OpKind::sums:
      return kOurSums * static_cast<double>(unit.op.sums->terms.size()) / static_cast<double>(unit.op.sums->starts.size() - 1) * out;
    case OpKind::spread:
    case OpKind::lookup:
      return kSpread * out;
    case OpKind::recurrent:
      return ours_recurrent(graph, lowering, unit);
    case OpKind::concat:
    case OpKind::reshape:
      return 0;
  }
  return 0;
}

void CostModel::attention(const Lowering& lowering, const Unit& unit, double* products, double* scores, double* kept) const {
  const AttentionSpec& spec = *unit.op.attention;
  Shape shapes[2];
  for (size_t i = 0; i < 2; ++i)
    shapes[i] = assumed(operand_dims(lowering, unit, unit.op.in[i]), Domain::tokens);
  // Tokens of one batch.
  const auto tokens_of = [](const Shape& shape, int64_t known, int32_t axis) {
    return static_cast<double>(known > 0 ? known : axis < 0 ? 1 : shape[static_cast<size_t>(axis)]);
  };
  const double q = static_cast<double>(view(Domain::tokens, shapes[0]).width);
  const double k = tokens_of(shapes[1], spec.k_tokens, spec.k_axes.dense() ? spec.k_axes.token : static_cast<int32_t>(shapes[1].size()) - 2);
  const double batches = std::max(1.0, q / tokens_of(shapes[0], spec.q_tokens, static_cast<int32_t>(shapes[0].size()) - 2));
  *kept = batches * k * spec.heads() * (spec.dim + spec.value_dim);
  *scores = q * k * spec.heads();
  *products = *scores * (spec.dim + spec.value_dim);
}

double CostModel::pooling(const Unit& unit) const {
  const kernels::ConvGeometry& g = unit.op.geometry;
  const View y = sizes_of(*this, unit.dims, unit.domains);
  const double rows = static_cast<double>(y.height), all = static_cast<double>(y.pixels());
  const double planes = static_cast<double>(y.images * y.channels);
  return planes * (kPoolRow * rows + kTap * (g.kernel_h * g.stride_w + g.kernel_w) * all);
}

double CostModel::cpu(const Graph& graph, const Lowering& lowering, const Unit& unit) const {
  const double out = floats(unit.dims, unit.domains);
  switch (unit.op.kind) {
    case OpKind::conv: {
      const View y = sizes_of(*this, unit.dims, unit.domains);
      const kernels::ConvGeometry& g = unit.op.geometry;
      const double live = live_share(g, sizes_of(*this, lowering.dims[static_cast<size_t>(unit.op.in[0])], unit.domains));
      const double bytes = live * (unit.quantised ? 1.0 : 4.0) * static_cast<double>(g.columns()) * g.out_channels;
      const double read = reading(bytes);
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
      return (unit.quantised ? kByte : kFuseless) * floats(lowering.dims[static_cast<size_t>(unit.op.in[0])], unit.domains);
    case OpKind::resize:
      return kCall + (unit.op.resize->linear ? kCpuBlend : kCpuResize) * out;
    case OpKind::pick:
      return kCall + 2 * kFuseless * out;
    case OpKind::interleave:
      return unit.before.empty() ? kCall + kCpuInterleaved * out : cpu_transposed(lowering, unit, out);
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
      return kCall + (unit.op.response.beta == 1.0f ? kCpuQuotient : kCpuPower) * out;
    case OpKind::group_norm: {
      const bool named = unit.nodes.size() == 1 && unit.op.geometry.groups < unit.op.geometry.in_channels;
      if (named) return kSpelledCall * kGroupNormNodes + kSpelledGroupNorm * out;
      return kCall * static_cast<double>(unit.nodes.size()) + kCpuGroupNorm * out + kCpuGroupNormPlane * planes(*this, unit);
    }
    case OpKind::norm: {
      // One fused pass, or a few on the tensor and a few on one number a token.
      const bool spelled = unit.nodes.size() > 1;
      return (spelled ? kSpelledCall : kCall) * static_cast<double>(unit.nodes.size()) + (spelled ? kSpelledNorm : kCpuNorm) * out;
    }
    case OpKind::attention: {
      double products = 0, scores = 0, kept = 0;
      attention(lowering, unit, &products, &scores, &kept);
      const AttentionSpec& spec = *unit.op.attention;
      // Keys and values are read anew for every head, and repeated first where heads share them.
      const bool shared = spec.k_head.size() > 1 && spec.k_head[0] == spec.k_head[1];
      const double work = std::max(cpu_factor * products / kCpuProducts, 4 * kept / kUncached);
      double total = kSpelledCall * static_cast<double>(unit.nodes.size()) + work + kCpuSoftmax * scores + 4 * kTransposed * out +
                     (shared ? 2 * kFuseless * kept : 0);
      for (const Unit& before : unit.before) total += cpu(graph, lowering, before);
      return total;
    }
    case OpKind::sums:
      // A product and its share of a sum each; halves are cut and put together.
      return 3 * kFuseless * static_cast<double>(unit.op.sums->terms.size()) / static_cast<double>(unit.op.sums->starts.size() - 1) * out;
    case OpKind::spread:
    case OpKind::lookup:
      return kCpuSpread * out;
    case OpKind::recurrent:
      return cpu_recurrent(lowering, unit);
    case OpKind::concat:
      return kCall + 2 * (unit.quantised ? kByte : kFuseless) * out;
    case OpKind::reshape:
      return kCall;
  }
  return 0;
}

bool CostModel::fuses(const Graph& graph, const Lowering& lowering, const Unit& unit) const {
  const Op& op = unit.op;
  if (!op.slope.empty()) return false;
  if (op.kind == OpKind::pointwise || op.kind == OpKind::affine) return fuses_into_producer(graph, lowering, op.in[0]);
  return op.kind == OpKind::binary && op.fit != Fit::different && op.binary == kernels::Binary::add &&
         (fuses_into_producer(graph, lowering, op.in[0]) || fuses_into_producer(graph, lowering, op.in[1]));
}

double CostModel::estranged(const Graph& graph, const Lowering& lowering, const Unit& unit, int value) const {
  if (!unit.quantised || unit.op.kind != OpKind::conv || graph.value(value).desc.type != abi::kInt8) return 0;
  Unit dense = unit;  // dequantised weights and all
  dense.quantised = false;
  return std::max(0.0, cpu(graph, lowering, dense) - cpu(graph, lowering, unit)) + 2 * kFuseless * floats(unit.dims, unit.domains);
}

double CostModel::pass(const Unit& unit) const { return 2 * kFuseless * floats(unit.dims, unit.domains); }

double CostModel::border(const Lowering& lowering, int value, uint8_t domains) const {
  if (lowering.as_kept[static_cast<size_t>(value)]) return 0;
  const Dims& dims = lowering.dims[static_cast<size_t>(value)];
  const View s = sizes_of(*this, dims, domains);
  if (s.height * s.width == 1) return 0;  // a vector has one form only
  return 2 * kTransposed * floats(dims, domains);
}

double dense_factor() {
  static const double measured = [] {
    // A dense layer of ordinary size with our own dense kernel, which reaches this share of the speed
    // that the estimate is for.
    constexpr double kOurShare = 1.05;
    kernels::ConvGeometry g = kernels::matmul_geometry(128, 64);
    std::vector<float> weight(128 * 64, 0.5f);
    kernels::PackOptions pack;
    pack.storage = kernels::Storage::dense;
    kernels::WeightsPtr packed;
    kernels::PlanPtr plan;
    kernels::PlanOptions options;
    options.isa = best_isa();
    options.generate_code = false;
    const kernels::PlaneLayout layout = kernels::make_layout(14, 14);
    if (!kernels::pack_dense(g, {weight.data(), 128, 1}, pack, &packed).ok() ||
        !kernels::make_plan(*packed, layout, layout, options, &plan).ok())
      return 1.0;
    std::vector<float> in(static_cast<size_t>(layout.buffer_floats(128)) + 16, 0.25f);
    std::vector<float> out(static_cast<size_t>(layout.buffer_floats(64)) + 16);
    std::vector<char> scratch(plan->scratch_bytes() + 64);
    auto aligned = [](auto* p) {
      return p + (64 - reinterpret_cast<uintptr_t>(p) % 64) % 64 / sizeof *p;
    };
    kernels::RunArgs args;
    args.in = aligned(in.data());
    args.out = aligned(out.data());
    std::vector<double> runs;
    for (int run = 0; run < 41; ++run) {
      const auto start = std::chrono::steady_clock::now();
      plan->run(args, 0, plan->work_items(1), aligned(scratch.data()));
      runs.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    }
    std::nth_element(runs.begin(), runs.begin() + 10, runs.end());
    const double estimate = kernels::estimate_dense_cycles(g, 14 * 14, options.isa);
    return std::clamp(kOurShare * runs[10] * cycles_per_microsecond() / estimate, 0.5, 4.0);
  }();
  return measured;
}

double streaming_speed() {
  static const double measured = [] {
    const size_t numbers = static_cast<size_t>(std::clamp<int64_t>(3 * kernels::cache_sizes().l2, int64_t{1} << 22, int64_t{1} << 24)) / 8;
    const std::vector<uint64_t> data(numbers, 1);
    double best = 1e9;
    for (int round = 0; round < 4; ++round) {
      const auto start = std::chrono::steady_clock::now();
      uint64_t sums[4] = {};
      for (size_t i = 0; i + 8 <= numbers; i += 8)  // a line at a time
        for (size_t k = 0; k < 4; ++k) sums[k] += data[i + k] ^ data[i + 4 + k];
      asm volatile("" : : "r"(sums[0] + sums[1] + sums[2] + sums[3]));
      best = std::min(best, std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    }
    return std::clamp(8.0 * static_cast<double>(numbers) / (best * cycles_per_microsecond()), 2.0, kCached);
  }();
  return measured;
}

double cycles_per_microsecond() {
  static const double measured = [] {
    // A chain of dependent multiplications, whose latency is three cycles on every x86-64 processor of
    // the last decades; the empty assembly keeps the compiler from seeing through it. (Additions will not
    // do: some processors fold them, and where the loop lies decides about a cycle a step.)
    using clock = std::chrono::steady_clock;
    constexpr int kChain = 8, kSteps = 600;
    double best = 0;
    // Many short rounds: on a busy machine some of them are not interrupted.
    for (int round = 0; round < 60; ++round) {
      uint64_t x = 3, factor = 5;
      const auto start = clock::now();
      for (int i = 0; i < kSteps; ++i) {
        asm volatile("" : "+r"(factor));
#pragma GCC unroll 8
        for (int j = 0; j < kChain; ++j) {
          x *= factor;
          asm volatile("" : "+r"(x));
        }
      }
      const double us = std::chrono::duration<double, std::micro>(clock::now() - start).count();
      best = std::max(best, 3.0 * kChain * kSteps / std::max(us, 1e-3));
    }
    return best;
  }();
  return measured;
}

}  // namespace onnxprune::ep
