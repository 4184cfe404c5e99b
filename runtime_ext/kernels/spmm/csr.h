// Unstructured rows: P pixel vectors of one output row in registers, one multiply-add with a memory
// operand per vector and weight. Spans come sorted by length, so the loop exit is predictable.
#pragma once

#include "finish.h"

namespace {

template <int P>
inline void add_weight(const float* x, float weight, Simd::Reg (&sum)[P]) {
  const Simd::Reg w = Simd::set1(weight);
#pragma GCC unroll 16
  for (int i = 0; i < P; ++i) sum[i] = Simd::fma(w, Simd::load(x + i * Simd::kWidth), sum[i]);
}

template <int P, class Offsets>
struct CsrTile {
  static void run(const TileJob& job) {
    const Span* const end = job.spans + job.span_count;
    for (const Span* span = job.spans; span != end; ++span) {
      claim_next<P, 1>(job, span, end);
      Simd::Reg sum[P];
      start_row<P>(job, span->flags, span->row, sum);
      const Offsets offset(job, span->offsets);
      const float* weight = job.values + span->values;
      std::uint32_t k = 0;
      if constexpr (P < 8) {
        // Short tiles would wait for the latency of their few sums: take two weights at a time into
        // two sets of sums.
        Simd::Reg other[P];
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) other[i] = Simd::zero();
        for (; k + 2 <= span->count; k += 2) {
          add_weight<P>(job.in + offset[k], weight[k], sum);
          add_weight<P>(job.in + offset[k + 1], weight[k + 1], other);
        }
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) sum[i] = Simd::add(sum[i], other[i]);
      }
      for (; k < span->count; ++k) add_weight<P>(job.in + offset[k], weight[k], sum);
      finish_row<P>(job, span->flags, span->row, sum);
    }
  }
};

}  // namespace
