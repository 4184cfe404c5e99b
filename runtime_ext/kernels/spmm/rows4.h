// Unstructured weights of moderate density (and n:m), four rows at a time: the columns of the four
// rows are sorted by which of the rows use them (15 patterns), so that each input vector is loaded
// once for all its uses and the code of each pattern is fixed at compile time.
#pragma once

#include "finish.h"

namespace {

template <int P, int Pattern, class Offsets>
inline void run_pattern(const float* in, Offsets& offset, const float*& weight, std::uint32_t count,
                        Simd::Reg (&sum)[4][P]) {
  constexpr int kUsed =
      (Pattern & 1) + (Pattern >> 1 & 1) + (Pattern >> 2 & 1) + (Pattern >> 3 & 1);
  for (std::uint32_t k = 0; k < count; ++k) {
    const float* x = in + offset[k];
    Simd::Reg input[P];
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) input[i] = Simd::load(x + i * Simd::kWidth);
    int used = 0;
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      if ((Pattern >> r & 1) == 0) continue;
      const Simd::Reg w = Simd::set1(weight[used++]);
#pragma GCC unroll 8
      for (int i = 0; i < P; ++i) sum[r][i] = Simd::fma(w, input[i], sum[r][i]);
    }
    weight += kUsed;
  }
  offset.advance(count);
}

template <int P, class Offsets>
struct Rows4Tile {
  static void run(const TileJob& job) {
    for (std::int64_t s = 0; s < job.span_count; ++s) {
      const Span& span = job.spans[s];
      claim_next<P, 4>(job, &span, job.spans + job.span_count);
      const std::uint32_t* counts = job.patterns + s * 15;
      Simd::Reg sum[4][P];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const std::int64_t row = span.row + r < job.rows ? span.row + r : job.rows - 1;
        start_row<P>(job, span.flags, row, sum[r]);
      }
      Offsets offset(job, span.offsets);
      const float* weight = job.values + span.values;
      run_pattern<P, 1>(job.in, offset, weight, counts[0], sum);
      run_pattern<P, 2>(job.in, offset, weight, counts[1], sum);
      run_pattern<P, 3>(job.in, offset, weight, counts[2], sum);
      run_pattern<P, 4>(job.in, offset, weight, counts[3], sum);
      run_pattern<P, 5>(job.in, offset, weight, counts[4], sum);
      run_pattern<P, 6>(job.in, offset, weight, counts[5], sum);
      run_pattern<P, 7>(job.in, offset, weight, counts[6], sum);
      run_pattern<P, 8>(job.in, offset, weight, counts[7], sum);
      run_pattern<P, 9>(job.in, offset, weight, counts[8], sum);
      run_pattern<P, 10>(job.in, offset, weight, counts[9], sum);
      run_pattern<P, 11>(job.in, offset, weight, counts[10], sum);
      run_pattern<P, 12>(job.in, offset, weight, counts[11], sum);
      run_pattern<P, 13>(job.in, offset, weight, counts[12], sum);
      run_pattern<P, 14>(job.in, offset, weight, counts[13], sum);
      run_pattern<P, 15>(job.in, offset, weight, counts[14], sum);
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        if (span.row + r < job.rows) finish_row<P>(job, span.flags, span.row + r, sum[r]);
      }
    }
  }
};

}  // namespace
