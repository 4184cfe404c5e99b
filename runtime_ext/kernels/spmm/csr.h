// Unstructured rows: P pixel vectors of one output row in registers, one multiply-add with a memory
// operand per vector and weight. Spans come sorted by length, so the loop exit is predictable.
#pragma once

#include "finish.h"

namespace {

template <int P, class Offsets>
struct CsrTile {
  static void run(const TileJob& job) {
    const Span* const end = job.spans + job.span_count;
    for (const Span* span = job.spans; span != end; ++span) {
      Simd::Reg sum[P];
      start_row<P>(job, span->flags, span->row, sum);
      const Offsets offset(job, span->offsets);
      const float* weight = job.values + span->values;
      for (std::uint32_t k = 0; k < span->count; ++k) {
        const float* x = job.in + offset[k];
        const Simd::Reg w = Simd::set1(weight[k]);
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) sum[i] = Simd::fma(w, Simd::load(x + i * Simd::kWidth), sum[i]);
      }
      finish_row<P>(job, span->flags, span->row, sum);
    }
  }
};

}  // namespace
