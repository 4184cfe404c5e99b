#include "cost.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "ops/table.h"
#include "plan.h"
#include "window/winograd.h"

namespace onnxprune::kernels {
namespace {

// Cycles per multiply-add of one vector: `base` plus what every stored column costs, which is
// shared by the weights of the column that the kernel sees together and so falls with density.
// Fitted with kernel_bench on the layers of ResNet-50: AVX-512 on processors with two 512-bit
// multiply-add units (Emerald Rapids) and with halves that make up one (Zen 4), AVX2 on Zen 3.
// `short_run` is what runs of few vectors lose, as a share at one vector, falling with the square of
// their number.
struct Rate {
  double base, per_density, short_run;
};

}  // namespace

// Everything predicted hangs on it, so it is asked in many short rounds that take turns: interruptions
// and a clock that changes meet both.
bool wide_is_split() {
  static const bool split = [] {
    if (!isa_supported(Isa::avx512)) return false;
    constexpr int kRounds = 60;
    constexpr std::int64_t kAdds = 6000;  // a few microseconds
    double best[2] = {1.0, 1.0};
    for (int round = 0; round < 2 * kRounds; ++round) {
      const OpsTable& ops = ops_table(round % 2 == 0 ? Isa::avx512 : Isa::avx2);
      const auto start = std::chrono::steady_clock::now();
      volatile float sink = ops.multiply_adds(kAdds);
      (void)sink;
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      best[round % 2] = std::min(best[round % 2], taken.count());
    }
    return best[0] > 1.5 * best[1];
  }();
  return split;
}

namespace {

Rate rate_of(const KernelRecord& kernel) {
  switch (kernel.entry.isa) {
    case Isa::avx512:
      if (wide_is_split()) {
        if (kernel.entry.generated) return {0.98, 0.033, 3.0};
        if (kernel.family == Family::block) return {1.00, 0.011, 1.0};
        if (kernel.family == Family::rows4) return {1.15, 0.090, 1.0};
        return {1.75, 0.022, 1.0};
      }
      if (kernel.entry.generated) return {0.49, 0.030, 2.0};
      if (kernel.family == Family::block) return {0.51, 0.006, 1.0};
      if (kernel.family == Family::rows4) return {0.49, 0.080, 1.0};
      return {0.85, 0.020, 1.0};
    case Isa::avx2:
      if (kernel.entry.generated) return {0.95, 0.045, 10.0};
      if (kernel.family == Family::block) return {0.62, 0.006, 1.0};
      if (kernel.family == Family::rows4) return {0.72, 0.055, 2.0};
      return {0.82, 0.010, 1.0};
    default:
      if (kernel.family == Family::block) return {1.10, 0.010, 1.0};
      return {1.25, 0.015, 1.0};
  }
}

int vector_width(Isa isa) { return isa == Isa::avx512 ? 16 : isa == Isa::avx2 ? 8 : 4; }

constexpr double kRowVector = 2.0;  // start, finish and store of one vector of one row

}  // namespace

CostInput cost_input(const ConvGeometry& g, const Analysis& a, std::int64_t pixels) {
  CostInput in;
  in.rows = in.rows_per_group = static_cast<double>(a.rows);
  in.columns = static_cast<double>(a.columns);
  in.nnz = static_cast<double>(a.nnz);
  in.pixels = static_cast<double>(pixels);
  for (int i = 0; i < 4; ++i)
    in.stored[i] = a.block_fill[i] > 0 ? in.nnz / a.block_fill[i] : in.rows * in.columns;
  in.points = winograd_points(g);
  in.planes = static_cast<double>(winograd_inputs(g));
  return in;
}

CostInput cost_input(const WeightsImpl& w, std::int64_t pixels) {
  CostInput in;
  in.rows = static_cast<double>(w.rows());
  in.columns = static_cast<double>(w.columns());
  in.rows_per_group = in.rows / w.shape.groups;
  in.points = winograd_points(w.shape);
  in.planes = static_cast<double>(winograd_inputs(w.shape));
  in.nnz = static_cast<double>(w.nnz());
  in.pixels = static_cast<double>(pixels);
  const double density = in.rows * in.columns > 0 ? in.nnz / (in.rows * in.columns) : 1.0;
  for (int i = 0; i < 4; ++i) {
    const int height = 2 << i;
    if (w.kind == Storage::dense) {
      in.stored[i] = in.rows * in.columns;
    } else if (w.kind == Storage::block && height <= w.block_rows) {
      in.stored[i] = static_cast<double>(w.stored());
    } else {  // as if independent
      in.stored[i] = in.rows * in.columns * (1.0 - std::pow(1.0 - density, height));
    }
  }
  return in;
}

// For a vector of tiles: one multiply-add for each point and plane, adding up and storing; the input's
// transformation once for all rows.
double winograd_cycles(const CostInput& in, Isa isa, double vectors) {
  const double points = in.points * in.points;
  double rate = isa == Isa::avx512 && wide_is_split() ? 1.15 : isa == Isa::avx512 ? 0.75 : 0.85;
  // Every vector of tiles passes over all transformed weights, so they must be near.
  if (8.0 * in.rows * points * in.planes > static_cast<double>(cache_sizes().l2)) rate *= 2;
  const double tiles = std::ceil(vectors / (in.points * in.points / 4));
  return tiles * (in.rows * (rate * points * in.planes + 4 * points) + 8 * points * in.planes);
}

double kernel_cycles(const KernelRecord& kernel, const CostInput& in) {
  const double vectors = std::max(1.0, std::ceil(in.pixels / vector_width(kernel.entry.isa)));
  if (kernel.family == Family::winograd) return winograd_cycles(in, kernel.entry.isa, vectors);
  const double density =
      std::clamp(in.rows * in.columns > 0 ? in.nnz / (in.rows * in.columns) : 1.0, 1e-3, 1.0);
  const Rate rate = rate_of(kernel);
  double weights = in.nnz, share = density;
  if (kernel.family == Family::block && !kernel.entry.generated) {
    const int height = kernel.block_rows;
    weights = in.stored[height == 8 ? 2 : 1];
    share = std::min(1.0, weights / std::max(1.0, in.rows * in.columns));
    if (in.rows_per_group < height) weights *= height / std::max(1.0, in.rows_per_group);
  }
  double per_weight = rate.base + rate.per_density / share;
  per_weight *= 1.0 + rate.short_run / (vectors * vectors) * (vectors < 16 ? 1.0 : 0.0);
  if (kernel.family != Family::csr || kernel.entry.generated) {
    if (in.rows_per_group < 4) per_weight *= 4;  // nothing to share between rows
  }
  return vectors * (weights * per_weight + in.rows * kRowVector) + in.rows * 10.0;
}

std::vector<std::size_t> rank_kernels(const CostInput& input, Isa isa, bool generate_code) {
  std::vector<std::pair<double, std::size_t>> costs;
  for (std::size_t i = 0; i < kernel_count(); ++i) {
    const KernelRecord& kernel = kernel_record(i);
    if (kernel.family == Family::window) continue;  // the only one where it applies
    if (kernel.family == Family::winograd && input.points == 0) continue;
    if (kernel.entry.isa != isa || (kernel.entry.generated && !generate_code)) continue;
    costs.emplace_back(kernel_cycles(kernel, input), i);
  }
  std::stable_sort(costs.begin(), costs.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::size_t> order;
  for (const auto& cost : costs) order.push_back(cost.second);
  return order;
}

namespace {

double cheapest(const CostInput& input, Isa isa, bool generate_code) {
  const bool code = generate_code && code_generation_available(nullptr);
  const std::vector<std::size_t> order = rank_kernels(input, isa, code);
  return order.empty() ? 0.0 : kernel_cycles(kernel_record(order.front()), input);
}

}  // namespace

double estimate_cycles(const Weights& weights, std::int64_t pixels, Isa isa, bool generate_code) {
  return cheapest(cost_input(static_cast<const WeightsImpl&>(weights), pixels), isa, generate_code);
}

double estimate_cycles(const ConvGeometry& geometry, const Analysis& analysis, std::int64_t pixels,
                       Isa isa, bool generate_code) {
  return cheapest(cost_input(geometry, analysis, pixels), isa, generate_code);
}

double estimate_window_cycles(const ConvGeometry& g, std::int32_t height, std::int32_t width,
                              Isa isa) {
  // Measured on Zen 4, 512-bit vectors of 16 pixels of a row: a cycle and a half a tap, inputs to be
  // put together with a stride of 2, and what starting a plane costs. Narrow planes are one row, padding
  // included; inputs are loaded anew for each output row then.
  const double flat = std::ceil(height * (width + g.kernel_w / 2) / 16.0);
  const double rows = static_cast<double>(height) * std::ceil(width / 16.0);
  const bool as_one = g.stride_h == 1 && flat <= 0.8 * rows;
  const double vectors = as_one ? flat : rows;
  const double one = (as_one ? 1.9 : 1.5) * g.taps() + (g.stride_h > 1 ? 10.0 : 0.0);
  const double narrower = isa == Isa::avx512 ? 1.0 : isa == Isa::avx2 ? 1.2 : 3.0;
  return g.out_channels * (60.0 + narrower * one * vectors);
}

double estimate_dense_cycles(const ConvGeometry& g, std::int64_t pixels, Isa) {
  // onnxruntime picks the best instruction set by itself, whatever is forced here: 84-88 % of the
  // peak of its multiply-add units on convolutions of this kind.
  const Isa best = isa_supported(Isa::avx512) ? Isa::avx512
                   : isa_supported(Isa::avx2) ? Isa::avx2
                                              : Isa::scalar;
  const double units = best == Isa::avx512 && wide_is_split() ? 1.0 : 2.0;
  const double lanes = best == Isa::scalar ? 2.0 : units * vector_width(best);
  return static_cast<double>(g.columns()) * g.out_channels * static_cast<double>(pixels) /
         (lanes * 0.86);
}

}  // namespace onnxprune::kernels
