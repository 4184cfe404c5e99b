// Blocks of R output rows that share their columns (and dense weights, whose blocks share one list
// of columns): R x P sums in registers, every input vector is loaded once for R multiply-adds.
#pragma once

#include "finish.h"

namespace {

// The half vector, made of V, behind P whole ones.
template <int R, int P, class V>
struct HalfSums {
  typename V::Reg sum[R][1], input;

  void start(const TileJob& job, std::uint32_t flags, std::int64_t row, int r) {
    start_row<1, V>(job, flags, row, sum[r], P);
  }
  void read(const float* x) { input = V::load(x + P * Simd::kWidth); }
  void multiply(int r, Simd::Reg w) { sum[r][0] = V::fma(V::low(w), input, sum[r][0]); }
  void finish(const TileJob& job, std::uint32_t flags, std::int64_t row, int r) {
    finish_row<1, V>(job, flags, row, sum[r], P);
  }
};
template <int R, int P>
struct HalfSums<R, P, void> {  // none
  void start(const TileJob&, std::uint32_t, std::int64_t, int) {}
  void read(const float*) {}
  void multiply(int, Simd::Reg) {}
  void finish(const TileJob&, std::uint32_t, std::int64_t, int) {}
};

template <int R, int P, class Offsets, class Half = void>
struct BlockTile {
  static void run(const TileJob& job) {
    const Span* const end = job.spans + job.span_count;
    for (const Span* span = job.spans; span != end; ++span) {
      claim_next<P, R>(job, span, end);
      Simd::Reg sum[R][P];
      HalfSums<R, P, Half> half;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        // Rows past the end compute on padding and are not stored.
        const std::int64_t row = span->row + r < job.rows ? span->row + r : job.rows - 1;
        start_row<P>(job, span->flags, row, sum[r]);
        half.start(job, span->flags, row, r);
      }
      const Offsets offset(job, span->offsets);
      const float* weight = job.values + static_cast<std::int64_t>(span->values) * R;
      for (std::uint32_t k = 0; k < span->count; ++k) {
        const float* x = job.in + offset[k];
        Simd::Reg input[P];
#pragma GCC unroll 8
        for (int i = 0; i < P; ++i) input[i] = Simd::load(x + i * Simd::kWidth);
        half.read(x);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const Simd::Reg w = Simd::set1(weight[static_cast<std::int64_t>(k) * R + r]);
#pragma GCC unroll 8
          for (int i = 0; i < P; ++i) sum[r][i] = Simd::fma(w, input[i], sum[r][i]);
          half.multiply(r, w);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        if (span->row + r >= job.rows) continue;
        finish_row<P>(job, span->flags, span->row + r, sum[r]);
        half.finish(job, span->flags, span->row + r, r);
      }
    }
  }
};

template <int P, class Offsets>
using BlockTile4 = BlockTile<4, P, Offsets>;
template <int P, class Offsets>
using BlockTile8 = BlockTile<8, P, Offsets>;

}  // namespace
