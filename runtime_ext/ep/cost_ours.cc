// What our kernels take.
#include <algorithm>

#include "ep/cost_internal.h"
#include "ep/recurrent.h"

namespace onnxprune::ep {
namespace {

constexpr double kGather = 1.4;         // cycles for each kept weight of a matrix times one vector
constexpr double kKept = 1.0;           // cycles for each kept weight, however few pixels
constexpr double kFarOutput = 1.2;      // cycles for each number written to a tensor larger than the caches;
constexpr double kWideFarOutput = 0.6;  // ... of processors with two 512-bit multiply-adds a cycle (see below)
constexpr double kFarBytes = 4e6;
constexpr double kPoolRow = 60;         // cycles for each row of pooling windows
constexpr double kGroupCall = 3300;     // onnxruntime's own time for a call of ours
constexpr double kNorm = 0.6;           // cycles a normalised number
constexpr double kRoots = 0.7;          // cycles a number divided by two roots,
constexpr double kPower = 1.7;          // ... or by any power of a sum of squares,
constexpr double kNeighbour = 0.07;     // ... and a term of that
constexpr double kGroupNorm = 0.5;      // cycles a number normalised over pixels, and a plane
constexpr double kGroupNormPlane = 80;
constexpr double kResize = 0.5;         // cycles a number of resized images, to the nearest pixel
constexpr double kBlend = 1.0;          // ... or between pixels
constexpr double kSums = 0.3;           // cycles a number and product of sums of products
constexpr double kSpread = 0.9;         // ... and of a cache, which comes from memory
constexpr double kInterleaved = 0.6;    // cycles a number of interleaved planes
constexpr double kProducts = 11;        // multiply-adds a cycle of products of activations
constexpr double kSoftmax = 2.5;        // cycles a score
constexpr double kStepGate = 2.2;       // cycles a gate of a recurrent unit
constexpr double kExported = 0.5;       // cycles a number that goes from planes to one step's vector

double recurrent(const CostModel& model, const Graph& graph, const Lowering& lowering, const Unit& unit) {
  const auto [steps, batch] = sequences_of(model, lowering, unit);
  const kernels::RecurrentShape& shape = unit.op.recurrent->shape;
  const kernels::ConvGeometry& g = unit.op.geometry;
  const double size = static_cast<double>(g.columns()) * g.out_channels;
  const double density = static_cast<double>(unit.op.source->nonzeros) / size;
  int block = 1;  // rows that keep the same columns, as far as that fills
  for (int i = 0; i < 3; ++i)
    if (unit.zeros.block_fill[i] > 0.97) block = 2 << i;
  const double one = kernels::row_tiles_cycles(g.out_channels, static_cast<double>(g.columns()), density, unit.zeros.nm_n,
                                               unit.zeros.nm_m, block, batch, model.isa);
  const double units = static_cast<double>(shape.directions) * shape.hidden;
  const double step = batch * (one + kStepGate * kernels::gates_of(shape.cell) * units);
  const double sums = steps * batch * g.out_channels;
  const double moved = steps * batch == 1 ? 0 : kExported * sums;
  return model.ours(graph, lowering, unit.before[0]) + moved + steps * step;
}

double pooling(const CostModel& model, const Unit& unit) {
  const kernels::ConvGeometry& g = unit.op.geometry;
  const View y = sizes_of(model, unit.dims, unit.domains);
  const double rows = static_cast<double>(y.height), all = static_cast<double>(y.pixels());
  const double planes = static_cast<double>(y.images * y.channels);
  return planes * (kPoolRow * rows + kTap * (g.kernel_h * g.stride_w + g.kernel_w) * all);
}

}  // namespace

double CostModel::call() { return kGroupCall; }

double CostModel::ours(const Graph& graph, const Lowering& lowering, const Unit& unit) const {
  const double out = floats(*this, unit.dims, unit.domains);
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
      return pooling(*this, unit);
    case OpKind::global_pool:
      return kFuseless * floats(*this, lowering.dims[static_cast<size_t>(unit.op.in[0])], unit.domains);
    case OpKind::resize:
      return (unit.op.resize->linear ? kBlend : kResize) * out;
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
      const AttentionWork work = attention_work(*this, lowering, unit);
      double total = work.products / kProducts + kSoftmax * work.scores;
      for (const Unit& before : unit.before) total += ours(graph, lowering, before);
      return total;
    }
    case OpKind::sums:
      return kSums * static_cast<double>(unit.op.sums->terms.size()) / static_cast<double>(unit.op.sums->starts.size() - 1) * out;
    case OpKind::spread:
    case OpKind::lookup:
      return kSpread * out;
    case OpKind::recurrent:
      return recurrent(*this, graph, lowering, unit);
    case OpKind::concat:
    case OpKind::reshape:
      return 0;
  }
  return 0;
}

double CostModel::border(const Lowering& lowering, int value, uint8_t domains) const {
  if (lowering.as_kept[static_cast<size_t>(value)]) return 0;
  const Dims& dims = lowering.dims[static_cast<size_t>(value)];
  const View s = sizes_of(*this, dims, domains);
  if (s.height * s.width == 1) return 0;  // a vector has one form only
  return 2 * kTransposed * floats(*this, dims, domains);
}

}  // namespace onnxprune::ep
