// Blocks of R output rows that share their columns (and dense weights, whose blocks share one list
// of columns): R x P sums in registers, every input vector is loaded once for R multiply-adds.
#pragma once

#include "finish.h"

namespace {

template <int R, int P, class Offsets>
struct BlockTile {
  static void run(const TileJob& job) {
    const Span* const end = job.spans + job.span_count;
    for (const Span* span = job.spans; span != end; ++span) {
      claim_next<P, R>(job, span, end);
      Simd::Reg sum[R][P];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        // Rows past the end compute on padding and are not stored.
        const std::int64_t row = span->row + r < job.rows ? span->row + r : job.rows - 1;
        start_row<P>(job, span->flags, row, sum[r]);
      }
      const Offsets offset(job, span->offsets);
      const float* weight = job.values + static_cast<std::int64_t>(span->values) * R;
      for (std::uint32_t k = 0; k < span->count; ++k) {
        const float* x = job.in + offset[k];
        Simd::Reg input[P];
#pragma GCC unroll 8
        for (int i = 0; i < P; ++i) input[i] = Simd::load(x + i * Simd::kWidth);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const Simd::Reg w = Simd::set1(weight[static_cast<std::int64_t>(k) * R + r]);
#pragma GCC unroll 8
          for (int i = 0; i < P; ++i) sum[r][i] = Simd::fma(w, input[i], sum[r][i]);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        if (span->row + r < job.rows) finish_row<P>(job, span->flags, span->row + r, sum[r]);
      }
    }
  }
};

template <int P, class Offsets>
using BlockTile4 = BlockTile<4, P, Offsets>;
template <int P, class Offsets>
using BlockTile8 = BlockTile<8, P, Offsets>;

}  // namespace
