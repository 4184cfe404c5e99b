// Products of row tiles (spmv/row_tiles.h) with vectors.
#pragma once

#include "pointwise.h"

namespace {

using onnxprune::kernels::TileGroup;
using onnxprune::kernels::TileRun;

// The vectors that make up the 16 rows of a tile.
constexpr int kTileRegs = 16 / Simd::kWidth;

template <int Batch>
struct TileSums {
  // A lone vector of results would wait for each multiply-add: every other slot goes to a second one.
  static constexpr int kChains = Batch * kTileRegs == 1 ? 2 : 1;
  Reg total[Batch][kTileRegs][kChains];
  const float* values;
  const std::uint8_t* places;

  inline void slot(const typename Simd::Picker (&pick)[Batch], int chain) {
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
  }

  inline void pickers(const float* x, std::int64_t x_stride, std::int64_t block,
                      typename Simd::Picker (&pick)[Batch]) {
#pragma GCC unroll 4
    for (int b = 0; b < Batch; ++b) pick[b] = Simd::picker(x + b * x_stride + 32 * block);
  }

  // So many tiles with lists of one length, which is known when this is compiled, or with any.
  template <int Slots>
  inline void run(const TileRun& run, const std::uint16_t* blocks, const float* x,
                  std::int64_t x_stride) {
    for (int tile = 0; tile < run.tiles; ++tile) {
      typename Simd::Picker pick[Batch];
      pickers(x, x_stride, blocks[tile], pick);
      if constexpr (Slots > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < Slots; ++i) slot(pick, i % kChains);
      } else {
        int i = 0;
        for (; i + 2 <= run.slots; i += 2) {
          slot(pick, 0);
          slot(pick, kChains - 1);
        }
        if (i < run.slots) slot(pick, 0);
      }
    }
  }
};

template <int Batch>
inline void tile_group_of(const TileGroup& t, const float* x, std::int64_t x_stride, float* y,
                          std::int64_t y_stride) {
  using Sums = TileSums<Batch>;
  Sums sums;
  for (int b = 0; b < Batch; ++b)
    for (int r = 0; r < kTileRegs; ++r)
      for (int c = 0; c < Sums::kChains; ++c) sums.total[b][r][c] = Simd::zero();
  sums.values = t.values;
  sums.places = t.places;
  const std::uint16_t* blocks = t.blocks;
  for (std::int64_t i = 0; i < t.run_count; ++i) {
    const TileRun& run = t.runs[i];
    switch (run.slots) {
      case 1: sums.template run<1>(run, blocks, x, x_stride); break;
      case 2: sums.template run<2>(run, blocks, x, x_stride); break;
      case 3: sums.template run<3>(run, blocks, x, x_stride); break;
      case 4: sums.template run<4>(run, blocks, x, x_stride); break;
      case 5: sums.template run<5>(run, blocks, x, x_stride); break;
      case 6: sums.template run<6>(run, blocks, x, x_stride); break;
      case 7: sums.template run<7>(run, blocks, x, x_stride); break;
      case 8: sums.template run<8>(run, blocks, x, x_stride); break;
      case 9: sums.template run<9>(run, blocks, x, x_stride); break;
      case 10: sums.template run<10>(run, blocks, x, x_stride); break;
      default: sums.template run<0>(run, blocks, x, x_stride);
    }
    blocks += run.tiles;
  }
  for (int b = 0; b < Batch; ++b) {
    for (int r = 0; r < kTileRegs; ++r) {
      Reg sum = sums.total[b][r][0];
      if constexpr (Sums::kChains == 2) sum = Simd::add(sum, sums.total[b][r][1]);
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
