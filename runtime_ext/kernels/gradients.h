// Derivatives of elementwise functions in one pass over memory: what training needs of them.
#pragma once

#include <cstdint>

namespace onnxprune::kernels {

// out[i] = g[i] where low < y[i] < high, else 0: what a clip passes on, by its output.
void clip_gradient(const float* y, const float* g, float low, float high, float* out,
                   std::int64_t count);
// out[i] = g[i] y[i] (1 - y[i]), by the output of a sigmoid.
void sigmoid_gradient(const float* y, const float* g, float* out, std::int64_t count);
// out[i] = g[i] s[i] (1 + x[i] (1 - s[i])): that of x s with s the sigmoid of x.
void silu_gradient(const float* x, const float* s, const float* g, float* out, std::int64_t count);
// slope[i] = 2 factor (a[i] - b[i]), in pieces: of piece p of kGapPiece numbers, sums[p] is the sum of
// the squares of a - b.
constexpr std::int64_t kGapPiece = 16 << 10;
void squared_gap(const float* a, const float* b, float factor, float* slope, float* sums,
                 std::int64_t count, std::int64_t first, std::int64_t last);

}  // namespace onnxprune::kernels
