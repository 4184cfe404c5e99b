// The sparse matrix in the order in which tile kernels walk it.
#pragma once

#include <vector>

#include "../weights_impl.h"
#include "tile.h"

namespace onnxprune::kernels {

// Rows are cut into parts (for threads), columns into blocks (for caches); each (part, block) has a
// list of spans. Values and offsets lie in memory in walking order.
struct TileData {
  std::vector<std::int32_t> wide;     // offsets in floats, or
  std::vector<std::uint16_t> narrow;  // in lines from the start of the column block
  std::vector<float> values;
  std::vector<Span> spans;
  std::vector<std::uint32_t> patterns;   // rows4: 15 a span
  std::vector<std::int32_t> part_rows;   // parts + 1 row boundaries
  std::vector<std::int64_t> list_begin;  // parts * blocks + 1 starts in `spans`
  std::int32_t blocks = 1;

  std::int32_t parts() const { return static_cast<std::int32_t>(part_rows.size()) - 1; }
  std::int64_t bytes() const {
    return static_cast<std::int64_t>(wide.capacity() * 4 + narrow.capacity() * 2 +
                                     values.capacity() * 4 + spans.capacity() * sizeof(Span) +
                                     patterns.capacity() * 4 + part_rows.capacity() * 4 +
                                     list_begin.capacity() * 8);
  }
};

enum class Family : std::uint8_t { csr, rows4, block, window, winograd };

struct TileDataOptions {
  Family family = Family::csr;
  std::int32_t block_rows = 1;     // of the tile kernel
  std::int32_t block_columns = 0;  // of the column blocks; 0 = one block
  bool narrow = false;             // all offsets are whole lines below 2^16
  std::int32_t parts = 1;          // wanted; fewer when there are few rows
};

// `column_offset[c]`: floats from the tile (or, packed, from the block's packed input) to what
// column c (group, channel in it, tap) reads. False when the entries exceed 2^31 (nothing built).
bool build_tile_data(const WeightsImpl& weights, const std::vector<std::int32_t>& column_offset,
                     const TileDataOptions& options, TileData* data);

}  // namespace onnxprune::kernels
