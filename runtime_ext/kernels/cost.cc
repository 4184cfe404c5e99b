// Estimates in cycles of one core at its multiply-add peak. Calibrated with kernel_bench.
#include <algorithm>

#include "plan.h"
#include "weights_impl.h"

namespace onnxprune::kernels {
namespace {

// Floats multiplied and added per cycle at the peak (two vector units).
double peak(Isa isa) { return isa == Isa::avx512 ? 32.0 : isa == Isa::avx2 ? 16.0 : 4.0; }

double cycles(Storage kind, double stored, double pixels, Isa isa) {
  const double share = kind == Storage::dense || kind == Storage::block ? 0.8 : 0.4;
  return stored * pixels / (peak(isa) * share);
}

}  // namespace

double estimate_cycles(const Weights& weights, std::int64_t pixels, Isa isa, bool) {
  return cycles(weights.storage(), static_cast<double>(weights.stored()), static_cast<double>(pixels), isa);
}

double estimate_cycles(const Analysis& a, std::int64_t pixels, Isa isa, bool) {
  std::int32_t height = 0;
  const Storage kind = choose_storage(a, &height);
  double stored = static_cast<double>(a.nnz);
  if (kind == Storage::dense) stored = static_cast<double>(a.rows) * static_cast<double>(a.columns);
  if (kind == Storage::block) stored /= a.block_fill[height == 8 ? 2 : 1];
  return cycles(kind, stored, static_cast<double>(pixels), isa);
}

double estimate_dense_cycles(const ConvGeometry& g, std::int64_t pixels, Isa isa) {
  return static_cast<double>(g.columns()) * g.out_channels * static_cast<double>(pixels) / (peak(isa) * 0.85);
}

}  // namespace onnxprune::kernels
