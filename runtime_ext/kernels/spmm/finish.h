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
template <int P>
inline void start_row(const TileJob& job, std::uint32_t flags, std::int64_t row,
                      Simd::Reg (&sum)[P]) {
  if (flags & kFirst) {
    const Simd::Reg bias = Simd::set1(job.bias[row]);
    for (int i = 0; i < P; ++i) sum[i] = bias;
    if (job.residual != nullptr && !job.residual_after) {
      const float* add = job.residual + row * job.out_stride;
      for (int i = 0; i < P; ++i) sum[i] = Simd::add(bias, Simd::load(add + i * Simd::kWidth));
    }
  } else {
    const Simd::Reg zero = Simd::set1(0.0f);
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

template <int P>
inline void finish_row(const TileJob& job, std::uint32_t flags, std::int64_t row,
                       Simd::Reg (&sum)[P]) {
  float* out = job.out + row * job.out_stride;
  if (!(flags & kFirst)) {
    for (int i = 0; i < P; ++i) sum[i] = Simd::add(sum[i], Simd::load(out + i * Simd::kWidth));
  }
  if (flags & kLast) {
    const Simd::Reg low = Simd::set1(job.low), high = Simd::set1(job.high);
    for (int i = 0; i < P; ++i) sum[i] = Simd::max(low, sum[i]);
    if (job.capped) {
      for (int i = 0; i < P; ++i) sum[i] = Simd::min(high, sum[i]);
    }
    if (job.residual != nullptr && job.residual_after) {
      const float* add = job.residual + row * job.out_stride;
      for (int i = 0; i < P; ++i) sum[i] = Simd::add(sum[i], Simd::load(add + i * Simd::kWidth));
    }
    if (job.lanes != nullptr) {
      for (int i = 0; i < P; ++i) sum[i] = Simd::keep(sum[i], job.lanes, i);
    }
  }
  for (int i = 0; i < P; ++i) Simd::store(out + i * Simd::kWidth, sum[i]);
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

}  // namespace
