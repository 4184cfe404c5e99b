#include "gradients.h"

#include <algorithm>

#include "cpu.h"
#include "ops/table.h"

namespace onnxprune::kernels {

void clip_gradient(const float* y, const float* g, float low, float high, float* out,
                   std::int64_t count) {
  ops_table(active_isa()).clip_gradient(y, g, low, high, out, count);
}

void sigmoid_gradient(const float* y, const float* g, float* out, std::int64_t count) {
  ops_table(active_isa()).sigmoid_gradient(y, g, out, count);
}

void silu_gradient(const float* x, const float* s, const float* g, float* out, std::int64_t count) {
  ops_table(active_isa()).silu_gradient(x, s, g, out, count);
}

void squared_gap(const float* a, const float* b, float factor, float* slope, float* sums,
                 std::int64_t count, std::int64_t first, std::int64_t last) {
  const OpsTable& ops = ops_table(active_isa());
  for (std::int64_t piece = first; piece < last; ++piece) {
    const std::int64_t at = piece * kGapPiece;
    sums[piece] = ops.squared_gap(a + at, b + at, 2.0f * factor, slope + at,
                                  std::min(kGapPiece, count - at));
  }
}

}  // namespace onnxprune::kernels
