// The vector primitives behind ops.h and the plans' epilogues: one table an instruction set.
#pragma once

#include <cstdint>

#include "../norms.h"
#include "../ops.h"
#include "../plan.h"

namespace onnxprune::kernels {

// Pixels of a run of floats that are contiguous in a plane: tile[from + i * step] is plane[to + i].
// With step 2 the pixels between go to another phase: tile[from + 2 * i + 1] is plane[other + i],
// for `others` pixels, which are as many or one fewer.
struct ScatterRun {
  std::int64_t from = 0, to = 0, pixels = 0;
  std::int64_t other = 0, others = 0;
  std::int32_t step = 1;
};

// A row of pooling windows, two columns apart, over rows of pixels put together on the way.
struct PoolRow {
  const float* in = nullptr;            // pixel 0 of a row
  const std::int64_t* rows = nullptr;   // offsets of the rows
  std::int64_t row_count = 0, width = 0;
  std::int64_t pad = 0;  // columns before pixel 0: they and those behind the row take no part
  int taps = 2;          // columns of a window, 1 to 3
  float* out = nullptr;
  std::int64_t outputs = 0;
};

// A plane of a depth-wise convolution: `rows` x `width` outputs, clamped, with zeros between the rows.
struct WindowRun {
  const float* in = nullptr;  // what the first tap of the first output reads
  float* out = nullptr;       // the first output
  std::int64_t in_pitch = 0, out_pitch = 0;
  std::int64_t rows = 0, width = 0;
  std::int64_t before = 0, behind = 0;    // floats in front of and behind the outputs that become zero
  const std::uint16_t* mask = nullptr;    // of a single row: the outputs that are not zero, a vector each
  const float* weights = nullptr;  // [kernel][kernel]
  float bias = 0, factor = 1, low = 0, high = 0;
  bool scaled = false;  // sums are multiplied by `factor` before the clamp
  bool rounds = false;  // ... and rounded after it
};

// Transformed input of a row of tiles of one plane: tile t of point (i, j) is
// out[(i * points + j) * out_stride + t].
struct WinogradInput {
  const float* in = nullptr;   // the first input of the first tile
  const float* end = nullptr;  // of the memory that may be read; zeros beyond
  std::int64_t pitch = 0, tiles = 0;
  float* out = nullptr;
  std::int64_t out_stride = 0;
};

// All output channels of one vector of tiles, clamped.
struct WinogradSums {
  const float* in = nullptr;       // input c of point p: in[(p * inputs + c) * in_stride + tile]
  std::int64_t in_stride = 0, inputs = 0, outputs = 0;
  const float* weights = nullptr;  // [outputs / n][point row][input][point column][n], n: winograd_outputs
  const float* bias = nullptr;  // for whole blocks of n
  float* out = nullptr;         // plane of the first output
  std::int64_t out_stride = 0, out_pitch = 0;
  float low = 0, high = 0;
  // Where the outputs of the first half of the tiles go, and those of the second.
  struct Half {
    std::int64_t to = 0;  // floats into the plane
    int lanes = 0, rows = 0;  // pixels, rows of pixels
  } halves[2];
};

// What the derivative by a row of tiles of 2 x 2 outputs makes that of their products at 4 x 4 points:
// channel l of tile t at point p is out[p * out_stride + t * lines + l].
struct WinogradSlopes {
  const float* g = nullptr;  // [row][column][lines], `lines` a multiple of the width
  std::int64_t rows = 0, columns = 0, lines = 0;  // rows: those left
  std::int64_t tiles = 0;
  float* out = nullptr;
  std::int64_t out_stride = 0;
};

// Sixteen rows of a sparse matrix, see spmv/row_tiles.h.
struct TileRun {
  std::uint16_t slots, tiles;
};
struct TileGroup {
  const TileRun* runs = nullptr;
  std::int64_t run_count = 0;
  const std::uint16_t* blocks = nullptr;  // of each tile: which 32 columns
  const float* values = nullptr;         // [slot][16]
  const std::uint8_t* places = nullptr;  // [slot][16]: column within its block
};

// One step of a recurrent cell for units that follow each other (ONNX: LSTM, GRU, RNN). Gates are
// `x_stride` floats apart in what the inputs contribute, biases included, `r_stride` in what the state
// does. Pointers may be equal where their names differ by `before` only.
struct CellStep {
  std::int64_t count = 0;  // units
  const float *x = nullptr, *r = nullptr;
  std::int64_t x_stride = 0, r_stride = 0;
  const float* bias = nullptr;  // GRU that resets afterwards: added to the last gate of r
  const float* h_before = nullptr;
  float* h = nullptr;
  const float* c_before = nullptr;  // LSTM
  float* c = nullptr;
  float *update = nullptr, *reset = nullptr;  // GRU in two halves: gate z, and gate r times the state
};

// A vector of outputs of a convolution: what its sums read in front of the terms' offsets, and where it goes.
struct DenseVector {
  std::int64_t from = 0, to = 0;
  int lanes = 0;
};

// Outputs of a convolution, `rows` channels of them (at most dense_rows):
// out[r * out_stride + to ..] = bias[r] + sum over t of weights[t * rows + r] * in[offsets[t] + from ..]
struct DenseSums {
  const float* in = nullptr;
  const std::int64_t* offsets = nullptr;
  std::int64_t terms = 0;
  const float* weights = nullptr;
  const float* bias = nullptr;  // null: none
  int rows = 0;
  const DenseVector* vectors = nullptr;
  std::int64_t count = 0;
  float* out = nullptr;
  std::int64_t out_stride = 0;
};

// Sums of products of numbers that lie at the sum of two distances with lines of numbers, `lines` of them,
// a multiple of the width: sums[i * lines + l] += sum over j of in[outer[i] + inner[j]] * factors[j * lines + l]
struct LineSums {
  const float* in = nullptr;
  const std::int64_t *outer = nullptr, *inner = nullptr;
  std::int64_t outers = 0, inners = 0, lines = 0;
  const float* factors = nullptr;
  float* sums = nullptr;
};

struct OpsTable {
  int width;  // floats per vector
  // So many independent multiply-adds of vectors, to be timed; returns a number that depends on all.
  float (*multiply_adds)(std::int64_t count);
  // row[i] = act(row[i] (+ residual[i])) (+ residual[i]), zero where the mask (nullable; one entry
  // of kept lanes for each `width` floats) says so.
  void (*finish)(const Epilogue& epilogue, float* row, const float* residual,
                 const std::uint16_t* mask, std::int64_t count);
  // out[i] = act(a[i] * scale + shift), masked as above.
  void (*affine)(const Epilogue& epilogue, const float* a, float scale, float shift, float* out,
                 const std::uint16_t* mask, std::int64_t count);
  void (*binary)(Binary op, const Epilogue& epilogue, const float* a, const float* b, float* out,
                 const std::uint16_t* mask, std::int64_t count);
  void (*quantised_sum)(const QuantisedSum& sum, const float* a, const float* b, float* out,
                        const std::uint16_t* mask, std::int64_t count);
  // out[i] = max (or scale * sum) over t of in[offsets[t] + i].
  void (*window_max)(const float* in, const std::int64_t* offsets, std::int64_t taps, float* out,
                     std::int64_t count);
  void (*window_sum)(const float* in, const std::int64_t* offsets, std::int64_t taps, float scale,
                     float* out, std::int64_t count);
  void (*pool_row)(bool maximum, const PoolRow& row);
  // Square windows of 3 or 5, stride 1 or 2 in both directions.
  void (*window_sums)(int kernel, int stride, const WindowRun& run);
  // out[2 i] = even[i], out[2 i + 1] = odd[i], `count` floats in all.
  void (*interleave)(const float* even, const float* odd, float* out, std::int64_t count);
  // out[i] = bias + sum over t of weights[t] * in[offsets[t] + i], whole vectors.
  void (*tap_sums)(const float* in, const std::int64_t* offsets, const float* weights,
                   std::int64_t taps, float bias, float* out, std::int64_t vectors);
  // sums[t] = sum over i of g[i] * in[offsets[t] + i], whole vectors.
  void (*tap_dots)(const float* in, const std::int64_t* offsets, std::int64_t taps, const float* g,
                   std::int64_t vectors, float* sums);
  int dense_rows;
  void (*dense_sums)(const DenseSums& job);
  void (*line_sums)(const LineSums& job);
  // See gradients.h. The gap's slope is factor * (a[i] - b[i]), and what is returned the sum of squares.
  void (*clip_gradient)(const float* y, const float* g, float low, float high, float* out,
                        std::int64_t count);
  void (*sigmoid_gradient)(const float* y, const float* g, float* out, std::int64_t count);
  void (*silu_gradient)(const float* x, const float* s, const float* g, float* out,
                        std::int64_t count);
  float (*squared_gap)(const float* a, const float* b, float factor, float* slope,
                       std::int64_t count);
  // See ops/winograd.h; `points` in each direction: 4 or 6.
  int (*winograd_outputs)(int points);  // output channels of a block of weights
  void (*winograd_input)(int points, const WinogradInput& job);
  void (*winograd_sums)(int points, const WinogradSums& job);
  void (*winograd_slopes)(const WinogradSlopes& job);
  // to[c * column_stride + v * vector_stride ..] = in[offsets[c] + v * width ..], whole vectors.
  void (*pack)(const float* in, const std::int32_t* offsets, std::int64_t columns, int vectors,
               float* to, std::int64_t column_stride, std::int64_t vector_stride);
  // to[c * to_stride + r] = from[r * from_stride + c]
  void (*transpose)(const float* from, std::int64_t from_stride, std::int64_t rows,
                    std::int64_t cols, float* to, std::int64_t to_stride);
  // The runs of each of `rows` rows, `tile_stride` floats apart, to its plane.
  void (*scatter)(const ScatterRun* runs, std::int64_t count, const float* tile,
                  std::int64_t tile_stride, float* planes, std::int64_t plane_stride,
                  std::int64_t rows);
  // out[i] = sum over k < terms of factors[k] * a[k][i] * b[k][i]; b[k] may be null: no second factor.
  void (*products)(const float* const* a, const float* const* b, const float* factors, int terms,
                   float* out, std::int64_t count);
  float (*sum)(const float* row, std::int64_t count);
  float (*largest)(const float* row, std::int64_t count);
  // out[i] = x[i] / (bias + alpha / size * sum over t < taps of in[t * stride + i]^2)^beta
  void (*response_norm)(const ResponseNorm& norm, const float* in, std::int64_t stride,
                        std::int64_t taps, const float* x, float* out, std::int64_t count);
  // sum over i of (row[i] - mean)^2, where the mask (as above) keeps i
  float (*squared_deviations)(const float* row, float mean, const std::uint16_t* mask,
                              std::int64_t count);
  // Tokens [first, last) of [feature][token] planes, see layer_norm in ops.h.
  void (*layer_norm)(std::int64_t stride, std::int64_t features, const float* a, const float* b,
                     const float* bias, const float* scale, const float* shift, float epsilon,
                     bool centred, float* out, float* sum_out, std::int64_t first,
                     std::int64_t last);
  void (*softmax_row)(const float* in, float* out, std::int64_t columns, float scale,
                      const float* mask);
  // Softmax down each of `columns` columns, in place. `bias` (nullable) is added first, one number
  // a row or one an element (then of the same columns); where it is -infinity the element becomes
  // `fill` instead.
  void (*softmax_columns)(float* at, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                          const float* bias, std::int64_t bias_row, bool bias_by_row, float fill);
  void (*matmul)(std::int64_t n, std::int64_t k, float alpha, const float* a, std::int64_t a_row,
                 std::int64_t a_col, const float* b, std::int64_t b_row, float* c,
                 std::int64_t c_row, std::int64_t first, std::int64_t last);
  // sum over i < count of values[i] * x[columns[i]]
  float (*sparse_dot_narrow)(const float* values, const std::uint16_t* columns, std::int64_t count,
                             const float* x);
  float (*sparse_dot_wide)(const float* values, const std::int32_t* columns, std::int64_t count,
                           const float* x);
  float (*dense_dot)(const float* values, const float* x, std::int64_t count);
  // y[0..rows) = sum over i of values[i * rows + r] * x[columns[i]], rows 4, 8 or 16
  void (*block_dot)(int rows, const float* values, const std::int32_t* columns, std::int64_t count,
                    const float* x, float* y);
  // y[b][0..16) for each of `batch` vectors x[b]
  void (*tile_group)(const TileGroup& group, const float* x, std::int64_t x_stride,
                     std::int64_t batch, float* y, std::int64_t y_stride);
  bool (*finite)(const float* x, std::int64_t count);
  void (*lstm_step)(const CellStep& step);
  void (*gru_step)(const CellStep& step);        // resets after the product
  void (*gru_gates)(const CellStep& step);       // the gates first,
  void (*gru_candidate)(const CellStep& step);   // ... then the rest, with r of one gate
  void (*rnn_step)(const CellStep& step);
  // The numbers of a row that are not zero, before and after scaling, and where they are; returns how
  // many. Up to a vector more is written.
  std::int64_t (*kept_narrow)(const float* row, std::int64_t count, float scale, float* values,
                              std::uint16_t* columns);
  std::int64_t (*kept_wide)(const float* row, std::int64_t count, float scale, float* values,
                            std::uint32_t* columns);
};

OpsTable ops_scalar();
OpsTable ops_avx2();
OpsTable ops_avx512();
// The table of an instruction set that this machine supports.
const OpsTable& ops_table(Isa isa);

}  // namespace onnxprune::kernels
