// Convolutions whose weights are not known before they run, and the derivatives of those weights, see
// window/dense.h. Both keep as many sums in registers as fit.
#pragma once

#include "pointwise.h"

namespace {

using onnxprune::kernels::DenseSums;
using onnxprune::kernels::DenseVector;
using onnxprune::kernels::LineSums;

// Vectors and channels of a tile: its sums, a vector of inputs for each, and a weight.
constexpr int kDenseVectors = 3;
constexpr int kDenseRows = Simd::kRegisters >= 32 ? 8 : 4;

template <int R, int P>
inline void dense_tile(const DenseSums& s, const DenseVector* vectors) {
  Reg sum[R][P];
  const float* in[P];
#pragma GCC unroll 3
  for (int p = 0; p < P; ++p) in[p] = s.in + vectors[p].from;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const Reg start = splat(s.bias == nullptr ? 0.0f : s.bias[r]);
#pragma GCC unroll 3
    for (int p = 0; p < P; ++p) sum[r][p] = start;
  }
  const float* weight = s.weights;
  for (std::int64_t t = 0; t < s.terms; ++t, weight += R) {
    const std::int64_t at = s.offsets[t];
    Reg input[P];
#pragma GCC unroll 3
    for (int p = 0; p < P; ++p) input[p] = Simd::load(in[p] + at);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Reg w = splat(weight[r]);
#pragma GCC unroll 3
      for (int p = 0; p < P; ++p) sum[r][p] = Simd::fma(w, input[p], sum[r][p]);
    }
  }
#pragma GCC unroll 3
  for (int p = 0; p < P; ++p) {
    float* const out = s.out + vectors[p].to;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) write(out + r * s.out_stride, sum[r][p], vectors[p].lanes, nullptr, 0);
  }
}

// Tiles of nearly the same number of vectors.
template <int R>
void dense_tiles(const DenseSums& s) {
  const std::int64_t tiles = (s.count + kDenseVectors - 1) / kDenseVectors;
  for (std::int64_t i = 0; i < tiles; ++i) {
    const std::int64_t first = s.count * i / tiles, last = s.count * (i + 1) / tiles;
    switch (last - first) {
      case 1: dense_tile<R, 1>(s, s.vectors + first); break;
      case 2: dense_tile<R, 2>(s, s.vectors + first); break;
      default: dense_tile<R, 3>(s, s.vectors + first); break;
    }
  }
}

template <int R>
void dense_sums_of(const DenseSums& s) {
  if (s.rows == R) {
    dense_tiles<R>(s);
  } else if constexpr (R > 1) {
    dense_sums_of<R - 1>(s);
  }
}

void dense_sums(const DenseSums& s) { dense_sums_of<kDenseRows>(s); }

// Inner distances at a time: what lies in memory for want of registers is read once for all of them.
template <int V>
constexpr int kLineSteps = Simd::kRegisters >= 32 ? 4 / V : 1;
// Outer distances whose sums, of V vectors each, fit into registers with the factors and a number.
template <int V>
constexpr int kLineSums = (Simd::kRegisters - V * kLineSteps<V> - 2) / V;

template <int T, int V, int Steps>
inline void line_steps(const LineSums& s, const float* const (&in)[T], std::int64_t j, const float* factors,
                       Reg (&sum)[T][V]) {
  Reg factor[Steps][V];
  std::int64_t at[Steps];
#pragma GCC unroll 4
  for (int k = 0; k < Steps; ++k) {
    at[k] = s.inner[j + k];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) factor[k][v] = Simd::load(factors + (j + k) * s.lines + v * kW);
  }
#pragma GCC unroll 32
  for (int t = 0; t < T; ++t) {
    const float* const from = in[t];
#pragma GCC unroll 4
    for (int k = 0; k < Steps; ++k) {
      const Reg input = splat(from[at[k]]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[t][v] = Simd::fma(factor[k][v], input, sum[t][v]);
    }
  }
}

template <int T, int V>
void line_tile(const LineSums& s, const std::int64_t* outer, const float* factors, float* sums) {
  Reg sum[T][V];
  const float* in[T];
#pragma GCC unroll 32
  for (int t = 0; t < T; ++t) {
    in[t] = s.in + outer[t];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[t][v] = Simd::load(sums + t * s.lines + v * kW);
  }
  constexpr int kSteps = kLineSteps<V>;
  std::int64_t j = 0;
  for (; j + kSteps <= s.inners; j += kSteps) line_steps<T, V, kSteps>(s, in, j, factors, sum);
  for (; j < s.inners; ++j) line_steps<T, V, 1>(s, in, j, factors, sum);
#pragma GCC unroll 32
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) Simd::store(sums + t * s.lines + v * kW, sum[t][v]);
}

template <int T, int V>
void some_lines(const LineSums& s, std::int64_t first, std::int64_t last, std::int64_t line) {
  if (last - first == T) {
    line_tile<T, V>(s, s.outer + first, s.factors + line, s.sums + first * s.lines + line);
  } else if constexpr (T > 1) {
    some_lines<T - 1, V>(s, first, last, line);
  }
}

// V vectors of every line: as many outer distances at a time as fit, nearly the same number each time.
template <int V>
void line_sums_of(const LineSums& s, std::int64_t line) {
  const std::int64_t tiles = (s.outers + kLineSums<V> - 1) / kLineSums<V>;
  for (std::int64_t i = 0; i < tiles; ++i)
    some_lines<kLineSums<V>, V>(s, s.outers * i / tiles, s.outers * (i + 1) / tiles, line);
}

void line_sums(const LineSums& s) {
  std::int64_t line = 0;
  for (; line + 2 * kW <= s.lines; line += 2 * kW) line_sums_of<2>(s, line);
  if (line < s.lines) line_sums_of<1>(s, line);
}

}  // namespace
