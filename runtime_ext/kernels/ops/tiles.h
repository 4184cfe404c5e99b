// Products of row tiles (spmv/row_tiles.h) with vectors.
#pragma once

#include "pointwise.h"

namespace {

using onnxprune::kernels::TileGroup;

// The vectors that make up the 16 rows of a tile.
constexpr int kTileRegs = 16 / Simd::kWidth;

template <int Batch>
inline void tile_group_of(const TileGroup& t, const float* x, std::int64_t x_stride, float* y,
                          std::int64_t y_stride) {
  // A lone vector of results would wait for each multiply-add: every other slot goes to a second one.
  constexpr int kChains = Batch * kTileRegs == 1 ? 2 : 1;
  Reg total[Batch][kTileRegs][kChains];
  for (int b = 0; b < Batch; ++b)
    for (int r = 0; r < kTileRegs; ++r)
      for (int c = 0; c < kChains; ++c) total[b][r][c] = Simd::zero();
  const float* values = t.values;
  const std::uint8_t* places = t.places;
  for (std::int64_t block = 0; block < t.blocks; ++block) {
    typename Simd::Picker pick[Batch];
    for (int b = 0; b < Batch; ++b) pick[b] = Simd::picker(x + b * x_stride + 32 * block);
    const auto slot = [&](int chain) {
#pragma GCC unroll 4
      for (int r = 0; r < kTileRegs; ++r) {
        const auto where = Simd::pick_index(places + r * kW);
        const Reg v = Simd::load(values + r * kW);
#pragma GCC unroll 4
        for (int b = 0; b < Batch; ++b)
          total[b][r][chain] = Simd::fma(Simd::pick(pick[b], where), v, total[b][r][chain]);
      }
      values += 16;
      places += 16;
    };
    int left = t.slots[block];
    if constexpr (kChains == 2) {
      for (; left >= 2; left -= 2) {
        slot(0);
        slot(1);
      }
      if (left > 0) slot(0);
    } else {
      for (; left > 0; --left) slot(0);
    }
  }
  for (int b = 0; b < Batch; ++b) {
    for (int r = 0; r < kTileRegs; ++r) {
      Reg sum = total[b][r][0];
      if constexpr (kChains == 2) sum = Simd::add(sum, total[b][r][1]);
      Simd::store(y + b * y_stride + r * kW, sum);
    }
  }
}

void tile_group(const TileGroup& t, const float* x, std::int64_t x_stride, std::int64_t batch,
                float* y, std::int64_t y_stride) {
  constexpr int kMost = Simd::kRegisters >= 32 ? 4 : 2;
  std::int64_t b = 0;
  for (; b + kMost <= batch; b += kMost)
    tile_group_of<kMost>(t, x + b * x_stride, x_stride, y + b * y_stride, y_stride);
  if constexpr (kMost == 4) {
    for (; b + 2 <= batch; b += 2)
      tile_group_of<2>(t, x + b * x_stride, x_stride, y + b * y_stride, y_stride);
  }
  for (; b < batch; ++b)
    tile_group_of<1>(t, x + b * x_stride, x_stride, y + b * y_stride, y_stride);
}

// Neither infinity nor NaN anywhere: only these are not zero times zero.
bool finite(const float* x, std::int64_t count) {
  Reg all = Simd::zero();
  std::int64_t i = 0;
  for (; i + kW <= count; i += kW) all = Simd::fma(Simd::load(x + i), Simd::zero(), all);
  if (i < count)
    all = Simd::fma(Simd::load_some(x + i, static_cast<int>(count - i)), Simd::zero(), all);
  return Simd::sum(all) == 0.0f;
}

}  // namespace
