// Start and end of a sum, shared by the tile kernels of every family.
#pragma once

#include "tile.h"

namespace {

using onnxprune::kernels::kFirst;
using onnxprune::kernels::kLast;
using onnxprune::kernels::Span;
using onnxprune::kernels::TileJob;
using onnxprune::kernels::TileSet;

// Every column block has a chain of additions of its own, and what earlier blocks left in the output
// is added at its end: rounding errors grow with the length of a chain, not with that of the row
// (blocked summation: Higham, Accuracy and Stability of Numerical Algorithms, section 4.2).
// `V`: what a sum is made of, whole vectors or one half of them; `at`: the first of the sums' vectors.
template <int P, class V = Simd>
inline void start_row(const TileJob& job, std::uint32_t flags, std::int64_t row,
                      typename V::Reg (&sum)[P], int at = 0) {
  if (flags & kFirst) {
    const typename V::Reg bias = V::set1(job.bias[row]);
    for (int i = 0; i < P; ++i) sum[i] = bias;
    if (job.residual != nullptr && !job.residual_after) {
      const float* add = job.residual + row * job.out_stride + at * Simd::kWidth;
      for (int i = 0; i < P; ++i) sum[i] = V::add(bias, V::load(add + i * Simd::kWidth));
    }
  } else {
    const typename V::Reg zero = V::set1(0.0f);
    for (int i = 0; i < P; ++i) sum[i] = zero;
  }
}

// Lines to be written come from memory first, row by row from distant places: those of the span
// after the one at hand are asked for while it is computed.
template <int P, int R>
inline void claim_next(const TileJob& job, const Span* span, const Span* end) {
  if (!job.claim || span + 1 == end || (span[1].flags & kFirst) == 0) return;
  const float* out = job.out + span[1].row * job.out_stride;
  for (int r = 0; r < R && span[1].row + r < job.rows; ++r) {
    for (int i = 0; i < P * Simd::kWidth; i += 16) __builtin_prefetch(out + i, 1, 3);
    out += job.out_stride;
  }
}

template <int P, class V = Simd>
inline void finish_row(const TileJob& job, std::uint32_t flags, std::int64_t row,
                       typename V::Reg (&sum)[P], int at = 0) {
  float* out = job.out + row * job.out_stride + at * Simd::kWidth;
  if (!(flags & kFirst)) {
    for (int i = 0; i < P; ++i) sum[i] = V::add(sum[i], V::load(out + i * Simd::kWidth));
  }
  if (flags & kLast) {
    if (job.factor != nullptr) {
      const typename V::Reg factor = V::set1(job.factor[row]);
      for (int i = 0; i < P; ++i) sum[i] = V::mul(sum[i], factor);
    }
    const typename V::Reg low = V::set1(job.low), high = V::set1(job.high);
    for (int i = 0; i < P; ++i) sum[i] = V::max(low, sum[i]);
    if (job.capped) {
      for (int i = 0; i < P; ++i) sum[i] = V::min(high, sum[i]);
    }
    if (job.rounds) {
      for (int i = 0; i < P; ++i) sum[i] = V::round(sum[i]);
    }
    if (job.residual != nullptr && job.residual_after) {
      const float* add = job.residual + row * job.out_stride + at * Simd::kWidth;
      for (int i = 0; i < P; ++i) sum[i] = V::add(sum[i], V::load(add + i * Simd::kWidth));
    }
    if (job.lanes != nullptr) {
      for (int i = 0; i < P; ++i) sum[i] = V::keep(sum[i], job.lanes, at + i);
    }
  }
  for (int i = 0; i < P; ++i) V::store(out + i * Simd::kWidth, sum[i]);
}

// The two ways of storing offsets.
struct WideOffsets {
  const std::int32_t* at;
  explicit WideOffsets(const TileJob& job, std::uint32_t first) : at(job.wide + first) {}
  inline std::int64_t operator[](std::uint32_t i) const { return at[i]; }
  inline void advance(std::uint32_t count) { at += count; }
};
struct NarrowOffsets {
  const std::uint16_t* at;
  explicit NarrowOffsets(const TileJob& job, std::uint32_t first) : at(job.narrow + first) {}
  inline std::int64_t operator[](std::uint32_t i) const {
    return static_cast<std::int64_t>(at[i]) * 16;
  }
  inline void advance(std::uint32_t count) { at += count; }
};

// Fills a TileSet with Kernel<1> .. Kernel<Max>.
template <template <int, class> class Kernel, int Max>
struct FillTiles {
  static void into(TileSet* set) {
    FillTiles<Kernel, Max - 1>::into(set);
    set->wide[Max - 1] = &Kernel<Max, WideOffsets>::run;
    set->narrow[Max - 1] = &Kernel<Max, NarrowOffsets>::run;
  }
};
template <template <int, class> class Kernel>
struct FillTiles<Kernel, 0> {
  static void into(TileSet*) {}
};

template <template <int, class> class Kernel, int Max>
TileSet tile_set(int block_rows) {
  TileSet set;
  set.block_rows = block_rows;
  set.width = Simd::kWidth;
  set.max_vectors = Max;
  FillTiles<Kernel, Max>::into(&set);
  return set;
}

// The same with a half vector at the end: HalfKernel<0> .. HalfKernel<Max - 1> whole ones before it.
template <template <int, class> class HalfKernel, int Max>
struct FillHalves {
  static void into(TileSet* set) {
    FillHalves<HalfKernel, Max - 1>::into(set);
    set->wide_half[Max - 1] = &HalfKernel<Max - 1, WideOffsets>::run;
    set->narrow_half[Max - 1] = &HalfKernel<Max - 1, NarrowOffsets>::run;
  }
};
template <template <int, class> class HalfKernel>
struct FillHalves<HalfKernel, 1> {
  static void into(TileSet*) {}
};

template <template <int, class> class Kernel, template <int, class> class HalfKernel, int Max>
TileSet tile_set(int block_rows) {
  TileSet set = tile_set<Kernel, Max>(block_rows);
  FillHalves<HalfKernel, Max>::into(&set);
  return set;
}

}  // namespace
