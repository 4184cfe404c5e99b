// A sparse matrix for products with one vector or a few: sixteen rows at a time, one in every lane. The
// columns come in blocks of 32, so many as two vectors hold: what a lane multiplies is picked out of them
// by a permutation, which every processor with wide vectors does at once, where a gather is as many loads.
// In each tile (16 rows x 32 columns) every row has a list of its weights, filled up with zeros to the
// longest; rows that keep the same columns (blocks) or as many (n:m) leave little to fill. The tiles of a
// group of rows come in runs of equally long lists, filled up for that: a length that varies from tile to
// tile would be guessed wrong each time, which costs as much as a dozen steps.
#pragma once

#include <cstdint>
#include <vector>

#include "../ops/table.h"
#include "../weights.h"

namespace onnxprune::kernels {

struct RowTiles {
  static constexpr int kRows = 16, kColumns = 32;

  std::int32_t rows = 0, columns = 0;  // rows: those padded in between included
  // Where each group of rows begins, and behind the last one.
  struct Begin {
    std::int64_t slot = 0, tile = 0, run = 0;
  };
  std::vector<Begin> begin;
  std::vector<TileRun> runs;
  std::vector<std::uint16_t> blocks;  // of each tile
  struct alignas(64) Slot {  // a whole line: loads that cross two take twice as long
    float values[kRows];
  };
  std::vector<Slot> values;
  std::vector<std::uint8_t> places;   // [slot][row]: column within the block

  std::int64_t groups() const { return (rows + kRows - 1) / kRows; }
  std::int64_t slots() const { return begin.back().slot; }
  std::int64_t tiles() const { return begin.back().tile; }
  // What a vector must be able to hold: columns beyond the last are read, and must be finite.
  std::int64_t padded_columns() const { return (columns + kColumns - 1) / kColumns * kColumns; }
  std::int64_t bytes() const;
};

// Rows first .. last-1 of `weights` (a matrix), cut into sections of `section` rows that each start with a
// group of their own.
RowTiles make_row_tiles(const Weights& weights, std::int64_t first, std::int64_t last,
                        std::int64_t section);

// y[b][16 g + i] = the sums of row i of group g, for the groups first .. last-1 and every vector b of
// `batch`. Vectors are `x_stride` floats apart, results `y_stride`; group `first` goes to y[b][0]. The
// vectors must hold nothing infinite.
void tile_products(const OpsTable& ops, const RowTiles& tiles, std::int64_t first,
                   std::int64_t last, const float* x, std::int64_t x_stride, std::int64_t batch,
                   float* y, std::int64_t y_stride);
// The same for one vector of whatever numbers, slowly: weights that are zero take no part.
void exact_tile_products(const RowTiles& tiles, std::int64_t first, std::int64_t last,
                         const float* x, float* y);

// Slots of all tiles where `density` of the weights are kept, or `n` of every `m` (0 = anywhere), in blocks
// of `block_rows`.
double row_tiles_slots(double rows, double columns, double density, int n, int m, int block_rows);
// Cycles of one core for all rows and one vector; less where `batch` vectors share the reading.
double row_tiles_cycles(double rows, double columns, double density, int n, int m, int block_rows,
                        double batch, Isa isa);
double row_tiles_cycles(const RowTiles& tiles, double batch, Isa isa);

}  // namespace onnxprune::kernels
