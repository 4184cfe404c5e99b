// What one call of a tile kernel works on: a run of pixel vectors times a list of row spans.
#pragma once

#include <cstdint>

namespace onnxprune::kernels {

// Consecutive stored columns of one row (or one block of rows) inside one block of columns.
struct Span {
  std::uint32_t offsets = 0;  // first entry in the offsets of TileJob
  std::uint32_t values = 0;   // first entry in TileJob::values, in units of the block height
  std::uint32_t count = 0;
  std::int32_t row = 0;     // (first) output row
  std::uint32_t flags = 0;  // kFirst: starts from the bias; kLast: applies the epilogue
};
constexpr std::uint32_t kFirst = 1, kLast = 2;

// Sums so far live in the output between the column blocks. The arrays `bias`, `factor` and, through
// `rows`, the output are indexed by row; the first two are padded to a multiple of 16 rows.
struct TileJob {
  const float* in = nullptr;        // position of the tile's first pixel, all offsets are from here
  float* out = nullptr;             // the tile's first pixel in row 0
  std::int64_t out_stride = 0;      // floats from row to row
  const float* residual = nullptr;  // same strides as out; null = none. Sums start from it, so
                                    // that it may be `out` itself, unless it comes after the clamp
  // Kept lanes, one entry a vector as `Simd::keep` wants it (16 bits, or with AVX2 eight floats of
  // all ones or zeros); null = all.
  const void* lanes = nullptr;
  const float* bias = nullptr;
  const float* factor = nullptr;  // by row, multiplied into the finished sum; null = 1
  // From `in` to what each stored column reads: floats (`wide`), or cache lines of 16 floats from
  // `in` (`narrow`, when all offsets are whole lines: packed input, 1x1 convolutions).
  const std::int32_t* wide = nullptr;
  const std::uint16_t* narrow = nullptr;
  const float* values = nullptr;
  const Span* spans = nullptr;
  std::int64_t span_count = 0;
  const std::uint32_t* patterns = nullptr;  // rows4: for span i the counts of patterns 1..15
  std::int32_t rows = 0;                    // rows of the output: a block may stick out
  float low = 0, high = 0;                  // the epilogue's clamp (infinite: none)
  bool capped = false;                      // `high` is finite: short rows notice one operation less
  bool rounds = false;                      // to whole numbers, after the clamp
  bool claim = false;                       // the output is large: ask for its lines early
  bool residual_after = false;              // add the residual after the clamp instead of before
};

using TileFn = void (*)(const TileJob&);

// One family on one instruction set: functions for tiles of 1 .. max_vectors vectors.
constexpr int kMaxVectors = 16;
struct TileSet {
  int block_rows = 1;
  int width = 1;  // floats per vector
  int max_vectors = 1;
  TileFn wide[kMaxVectors] = {};    // for TileJob::wide
  TileFn narrow[kMaxVectors] = {};  // for TileJob::narrow
  // The same where only the first half of the last vector is wanted; null where there is no such thing.
  TileFn wide_half[kMaxVectors] = {}, narrow_half[kMaxVectors] = {};
};

}  // namespace onnxprune::kernels
