// Generated column kernels. One function handles a group of output rows and a block of columns, for
// runs of pixel vectors: the sums of all rows of the group stay in registers, each input vector is
// loaded once per column and used for every non-zero weight of that column. Offsets are constants
// in the code; the weights lie behind it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../weights_impl.h"
#include "memory.h"
#include "row_groups.h"

namespace onnxprune::kernels {

// Arguments of a generated function, read at fixed places.
struct ColumnArgs {
  const float* in;       // first pixel of the run
  const float* weights;  // of this function
  float* out;            // first pixel of the run in the group's base row
  std::int64_t count;    // iterations, `pixels` vectors each
  const void* mask;  // kept lanes from the first vector: u16 an entry (512 bit) or 8 floats of bits
  const float* bias;      // of the group's first place; factors, where there are any, some way behind
  const float* residual;  // as out
  const float* limits;    // low, high
  const std::uint8_t* next;  // what will run next: fetched into the caches meanwhile
};
using ColumnFn = void (*)(const ColumnArgs*);

struct ColumnShape {
  bool wide = true;      // 512-bit registers
  int pixels = 1;        // vectors of pixels at once
  int rows = 28;         // rows in a group, at most `column_rows_limit`
  int row_parts = 1;     // the number of groups is a multiple of this, if rows suffice
  bool embedded = true;  // weight as broadcast memory operand of each multiply-add (wide only)
  std::int64_t block_columns = 0;  // columns in a block
  std::int64_t input_step = 16;    // floats from a vector of pixels to the next one
  bool shift =
      false;         // build inputs that cross cache lines from the lines (wide, one pixel vector)
  bool claim = false;  // the output is too large to be in the caches
  bool alike = true;   // rows that keep the same columns share a group, see row_groups.h
  bool by_place = false;  // sums are stored by place, not by row: someone else puts them in order
  int threads = 1;        // among which the groups are divided, where that is done at all
  int iterations = 0;  // how often a call loops, about: fetching spreads over it; 0 = none fetched
  bool fetch_second = false;  // into the second-level cache only
};
// Rows that the registers allow for.
int column_rows_limit(const ColumnShape& shape);

struct ColumnEpilogue {
  bool masked = false, low = false, high = false, residual = false, residual_after = false;
  bool rounds = false;
  std::int32_t factor = 0;  // floats from the bias of a row to its factor; 0 = there are none
};

struct ColumnPiece {
  std::uint32_t code = 0;     // bytes into the memory; kNoCode: nothing to do
  std::uint32_t weights = 0;  // ... of its first weight
  std::uint32_t end = 0;
};
constexpr std::uint32_t kNoCode = 0xffffffffu;

struct ColumnCode {
  CodeMemory memory;
  std::size_t code_bytes = 0;
  std::vector<ColumnPiece> pieces;       // [block][group]
  RowGroups order;                       // the rows of every group
  std::vector<std::int32_t> base;        // of each group: the row (or place) that its output begins at
  std::int32_t blocks = 1;

  std::int32_t groups() const { return static_cast<std::int32_t>(order.begin.size()) - 1; }
  ColumnFn function(const ColumnPiece& piece) const {
    return reinterpret_cast<ColumnFn>(reinterpret_cast<std::uintptr_t>(memory.data() + piece.code));
  }
  const float* weights(const ColumnPiece& piece) const {
    return reinterpret_cast<const float*>(memory.data() + piece.weights);
  }
};

// `column_offset[c]` in floats from the block's base, as for tile kernels; `out_stride` floats
// between output rows, or between places where the shape says so. Fails with `unsupported` where
// executable memory is refused or displacements do not fit.
Status generate_columns(const WeightsImpl& weights, const std::vector<std::int32_t>& column_offset,
                        const ColumnShape& shape, const ColumnEpilogue& epilogue,
                        std::int64_t out_stride, ColumnCode* code);

}  // namespace onnxprune::kernels
