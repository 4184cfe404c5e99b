// Constant weights in canonical sparse storage: independent of instruction set and of image size,
// built from dense or from packed sparse input, written to and read from a self-contained blob.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "layout.h"
#include "status.h"

namespace onnxprune::kernels {

enum class Storage : std::uint8_t {
  automatic = 0,  // by analysis of the zeros: the form that is estimated to run fastest
  csr = 1,        // unstructured
  block = 2,      // `block_rows` consecutive outputs share each kept column
  nm = 3,         // at most n kept of every m consecutive columns of a row
  dense = 4,
};
const char* storage_name(Storage storage);

struct PackOptions {
  Storage storage = Storage::automatic;
  std::int32_t block_rows = 0;       // block: 2, 4, 8 or 16; 0 = the best fitting one
  std::int32_t n = 0, m = 0;         // nm: 0 = detected
  bool compact = true;  // automatic: n:m where it fits, which is smaller but takes longer to pack and read
  const float* row_scale = nullptr;  // [out_channels], multiplied into the rows (folded BN, alpha)
  const float* bias = nullptr;       // [out_channels], copied; null = zero
  // Packed inputs only: column c of the input is column `column_map[c]` of DenseView (a
  // permutation, for formats that store (ky, kx, channel) order); null = the same.
  const std::int32_t* column_map = nullptr;
};

// What the zeros look like. `block_fill[i]`: kept weights over weights stored when kept columns are
// shared by blocks of 2, 4, 8, 16 outputs (1 = perfectly filled).
struct Analysis {
  std::int64_t rows = 0, columns = 0;  // columns per row, groups not multiplied in
  std::int64_t nnz = 0;
  double block_fill[4] = {0, 0, 0, 0};
  std::int32_t nm_m = 0, nm_n = 0;  // tightest of m = 4, 8, 16 with n <= m/2 that holds; 0 = none
  std::int64_t empty_rows = 0, empty_columns = 0;
  double sparsity() const {
    return rows * columns == 0 ? 0.0
                               : 1.0 - static_cast<double>(nnz) / (double(rows) * double(columns));
  }
};

// The weight matrix as the caller has it: w[row * row_stride + column * column_stride], row =
// output channel, column = (input channel within the group, ky, kx). A MatMul constant [in, out] is
// row_stride 1, column_stride out.
struct DenseView {
  const float* data = nullptr;
  std::int64_t row_stride = 0, column_stride = 1;
};
// `nnz`: how many weights are not zero, see `count_nonzeros`. `most_rows` > 0: all else comes from about
// so many rows, taken in sixteens from all over the matrix: enough to decide on, in a fraction of the
// time.
Status analyse(const ConvGeometry& geometry, const DenseView& dense, std::int64_t nnz,
               std::int64_t most_rows, Analysis* analysis);
// How many of `count` numbers are not zero.
std::int64_t count_nonzeros(const float* data, std::int64_t count);

// Immutable after building; safe to share between threads, sessions and plans.
class Weights {
 public:
  virtual ~Weights() = default;
  virtual const ConvGeometry& geometry() const = 0;
  virtual Storage storage() const = 0;
  virtual const char* name() const = 0;     // "csr", "block4x1", "nm2:4", "dense"
  virtual std::int64_t nnz() const = 0;     // non-zero weights
  virtual std::int64_t stored() const = 0;  // weights stored, zeros inside blocks included
  virtual std::int64_t bytes() const = 0;   // memory held
  virtual const float* bias() const = 0;    // [out_channels] or null
  // The dense matrix [out_channels][columns()], exactly the values given (times row_scale).
  virtual void to_dense(float* dense) const = 0;
  // Self-contained little-endian blob with version and checksum-free structure: every field and
  // every index is checked on load instead.
  virtual std::size_t blob_bytes() const = 0;
  virtual void write_blob(std::uint8_t* blob) const = 0;
};
using WeightsPtr = std::unique_ptr<Weights>;

Status pack_dense(const ConvGeometry& geometry, const DenseView& dense, const PackOptions& options,
                  WeightsPtr* weights);

// Packed inputs, taken over without a dense copy. Columns are those of DenseView, strictly rising
// in a row; `indptr` has rows + 1 entries. Index widths are 1, 2, 4 or 8 bytes, unsigned.
struct IndexView {
  const void* data = nullptr;
  int bytes = 4;
};
Status pack_csr(const ConvGeometry& geometry, IndexView indptr, IndexView indices,
                const float* values, std::int64_t nnz, const PackOptions& options,
                WeightsPtr* weights);
// Blocks of block_rows x block_columns, values [block][row][column]; the last block row / column
// may stick out over the matrix (its outside values are ignored).
Status pack_block_csr(const ConvGeometry& geometry, std::int32_t block_rows,
                      std::int32_t block_columns, IndexView indptr, IndexView indices,
                      const float* values, std::int64_t blocks, const PackOptions& options,
                      WeightsPtr* weights);
// n of m along the columns: values [rows][ceil(columns / m)][n] and, for each, its position in the
// group of m, `position_bits` (1, 2, 4 or 8) wide, packed from the low bit of the byte; every row
// starts at a multiple of `row_align` bytes. Positions are < m, rise within a group, and one past
// the last column carries the value 0.
Status pack_nm(const ConvGeometry& geometry, std::int32_t n, std::int32_t m, const float* values,
               const std::uint8_t* positions, std::size_t position_bytes, int position_bits,
               int row_align, const PackOptions& options, WeightsPtr* weights);

// Any other format, decoded row by row by the caller: rows 0 .. out_channels-1 in order.
class WeightsBuilder {
 public:
  virtual ~WeightsBuilder() = default;
  // Columns in any order, none twice, each < columns(); zeros among `values` are dropped.
  virtual Status add_row(const std::int32_t* columns, const float* values, std::int32_t count) = 0;
  virtual Status finish(WeightsPtr* weights) = 0;
};
Status make_builder(const ConvGeometry& geometry, const PackOptions& options,
                    std::unique_ptr<WeightsBuilder>* builder);

// The weights of a part of the window alone: its taps from (first_h, first_w) on, as many as `geometry` has,
// which is that of `weights` otherwise but for its pads.
Status crop_taps(const Weights& weights, const ConvGeometry& geometry, std::int32_t first_h,
                 std::int32_t first_w, WeightsPtr* cropped);

// Reads a blob: any bytes whatever give either weights that are safe to run or Code::corrupt.
Status read_blob(const std::uint8_t* blob, std::size_t size, WeightsPtr* weights);

}  // namespace onnxprune::kernels
