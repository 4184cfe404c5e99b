// Matrix times one contiguous vector: fully connected layers at batch 1 .. few.
#include <algorithm>

#include "plan_impl.h"
#include "spmv/row_tiles.h"

namespace onnxprune::kernels {
namespace {

constexpr std::int32_t kRowsPerItem = 64;  // a multiple of every block height
// Every weight is used once, so that reading them, from the last cache or memory, takes the time.
constexpr double kBytesPerCycle = 6.0;
// Blocks of columns are counted in 16 bits.
constexpr std::int64_t kMostTiledColumns = RowTiles::kColumns * 65535;
// Cycles for each weight of compressed rows, wherever they are read from.
constexpr double kRowWeight = 1.4;

class VectorPlan final : public PlanBase {
 public:
  explicit VectorPlan(const PlanRequest& request) : PlanBase(request) {}

  Status build(const PlanRequest& request) {
    const WeightsImpl& w = request.weights;
    if (w.shape.taps() != 1 || w.shape.groups != 1 || out_.plane_stride != 1) {
      return failure(Code::unsupported,
                     "plan: a contiguous vector needs a matrix and a contiguous output");
    }
    rows_ = w.shape.out_channels;
    columns_count_ = w.columns();
    bias_ = padded_bias(w);
    factor_ = padded_factor(request);
    if (w.kind == Storage::dense) {
      kind_ = Storage::dense;
      values_ = w.values;
    } else if (w.kind == Storage::block) {
      kind_ = Storage::block;
      block_rows_ = w.block_rows;
      values_ = w.values;
      pointers_ = w.pointers;
      for (std::int64_t i = 0; i < w.pointers.back(); ++i)
        columns_.push_back(static_cast<std::int32_t>(w.column(i)));
    } else if (tiles_pay(w)) {
      tiles_ = make_row_tiles(w, 0, rows_, rows_);
    } else {
      kind_ = Storage::csr;
      pointers_.push_back(0);
      for (std::int64_t r = 0; r < w.rows(); ++r) {
        w.for_each_in_row(r, [&](std::uint32_t column, float value) {
          if (columns_count_ <= 65536) {
            narrow_.push_back(static_cast<std::uint16_t>(column));
          } else {
            columns_.push_back(static_cast<std::int32_t>(column));
          }
          values_.push_back(value);
        });
        pointers_.push_back(static_cast<std::int64_t>(values_.size()));
      }
    }
    const char* const names[4][3] = {
        {"spmv_csr_f32_scalar", "spmv_csr_f32_avx2", "spmv_csr_f32_avx512"},
        {"spmv_block_f32_scalar", "spmv_block_f32_avx2", "spmv_block_f32_avx512"},
        {"gemv_dense_f32_scalar", "gemv_dense_f32_avx2", "gemv_dense_f32_avx512"},
        {"spmv_tiles_f32_scalar", "spmv_tiles_f32_avx2", "spmv_tiles_f32_avx512"}};
    const int form = tiled() ? 3 : kind_ == Storage::csr ? 0 : kind_ == Storage::block ? 1 : 2;
    info_.kernel = names[form][static_cast<int>(info_.isa)];
    info_.bytes = static_cast<std::int64_t>(
        sizeof *this + (values_.capacity() + bias_.capacity() + factor_.capacity() + columns_.capacity()) * 4 +
        pointers_.capacity() * 8 + narrow_.capacity() * 2) + tiles_.bytes();
    info_.cycles = static_cast<double>(info_.bytes) / kBytesPerCycle;
    return {};
  }

  std::int64_t work_items(std::int32_t images) const override {
    return static_cast<std::int64_t>(images) * ((rows_ + kRowsPerItem - 1) / kRowsPerItem);
  }
  // Tiles read whole blocks of columns.
  std::size_t scratch_bytes() const override {
    return tiled() && columns_count_ % RowTiles::kColumns != 0
               ? static_cast<std::size_t>(tiles_.padded_columns()) * sizeof(float)
               : 0;
  }

  void run(const RunArgs& args, std::int64_t first, std::int64_t last,
           void* scratch) const override {
    const std::int64_t per_image = (rows_ + kRowsPerItem - 1) / kRowsPerItem;
    const float* whole = nullptr;
    bool finite = true;
    for (std::int64_t item = first; item < last; ++item) {
      const std::int64_t image = item / per_image, row = item % per_image * kRowsPerItem;
      const std::int64_t end = std::min<std::int64_t>(row + kRowsPerItem, rows_);
      const float* x = args.in + image * args.in_image_stride;
      float* y = args.out + image * args.out_image_stride;
      if (tiled()) {
        if (item == first || row == 0) {
          whole = whole_columns(x, static_cast<float*>(scratch));
          finite = ops_.finite(x, columns_count_);
        }
        multiply_tiles(whole, finite, y, row, end);
      } else {
        multiply(x, y, row, end);
      }
      for (std::int64_t r = row; r < end && !factor_.empty(); ++r)
        y[r] *= factor_[static_cast<std::size_t>(r)];
      const float* residual = args.residual == nullptr || epilogue_.residual == Residual::none
                                  ? nullptr
                                  : args.residual + image * args.out_image_stride + row;
      ops_.finish(epilogue_, y + row, residual, nullptr, end - row);
    }
  }

 private:
  void multiply(const float* x, float* y, std::int64_t row, std::int64_t end) const {
    if (kind_ == Storage::dense) {
      for (std::int64_t r = row; r < end; ++r) {
        y[r] = bias_[static_cast<std::size_t>(r)] +
               ops_.dense_dot(values_.data() + r * columns_count_, x, columns_count_);
      }
    } else if (kind_ == Storage::block) {
      float sums[16];
      for (std::int64_t r = row; r < end; r += block_rows_) {
        const auto b = static_cast<std::size_t>(r / block_rows_);
        const std::int64_t begin = pointers_[b];
        ops_.block_dot(block_rows_, values_.data() + begin * block_rows_, columns_.data() + begin,
                       pointers_[b + 1] - begin, x, sums);
        for (std::int64_t i = r; i < std::min<std::int64_t>(r + block_rows_, end); ++i) {
          y[i] = bias_[static_cast<std::size_t>(i)] + sums[i - r];
        }
      }
    } else {
      for (std::int64_t r = row; r < end; ++r) {
        const auto i = static_cast<std::size_t>(r);
        const std::int64_t begin = pointers_[i], count = pointers_[i + 1] - begin;
        const float* values = values_.data() + begin;
        const float dot = narrow_.empty()
                              ? ops_.sparse_dot_wide(values, columns_.data() + begin, count, x)
                              : ops_.sparse_dot_narrow(values, narrow_.data() + begin, count, x);
        y[r] = bias_[i] + dot;
      }
    }
  }

  bool tiled() const { return tiles_.rows > 0; }

  // Tiles take fewer cycles but, filled up, more memory than compressed rows.
  bool tiles_pay(const WeightsImpl& w) const {
    if (info_.isa == Isa::scalar || w.nonzeros == 0 || columns_count_ > kMostTiledColumns) return false;
    const double size = static_cast<double>(rows_) * static_cast<double>(columns_count_);
    const double kept = static_cast<double>(w.nonzeros);
    const double cycles = row_tiles_cycles(rows_, static_cast<double>(columns_count_), kept / size, w.n, w.m,
                                           1, 1, info_.isa);
    const double slots = row_tiles_slots(rows_, static_cast<double>(columns_count_), kept / size, w.n, w.m, 1);
    const double bytes = 80.0 * slots;
    const bool near = bytes < static_cast<double>(cache_sizes().l2);
    return (near ? cycles : std::max(cycles, bytes / kBytesPerCycle)) <
           std::max(kRowWeight * kept, 6.0 * kept / kBytesPerCycle);
  }

  // The vector, or a copy of it that ends with a whole block of columns.
  const float* whole_columns(const float* x, float* scratch) const {
    if (scratch_bytes() == 0) return x;
    std::copy(x, x + columns_count_, scratch);
    std::fill(scratch + columns_count_, scratch + tiles_.padded_columns(), 0.0f);
    return scratch;
  }

  void multiply_tiles(const float* x, bool finite, float* y, std::int64_t row,
                      std::int64_t end) const {
    float sums[kRowsPerItem];
    const std::int64_t first = row / RowTiles::kRows,
                       last = (end + RowTiles::kRows - 1) / RowTiles::kRows;
    if (finite) {
      tile_products(ops_, tiles_, first, last, x, 0, 1, sums, 0);
    } else {
      exact_tile_products(tiles_, first, last, x, sums);
    }
    for (std::int64_t r = row; r < end; ++r) y[r] = bias_[static_cast<std::size_t>(r)] + sums[r - row];
  }

  Storage kind_ = Storage::csr;
  RowTiles tiles_;
  std::int32_t rows_ = 0, block_rows_ = 1;
  std::int64_t columns_count_ = 0;
  std::vector<std::int64_t> pointers_;
  std::vector<std::int32_t> columns_;
  std::vector<std::uint16_t> narrow_;  // csr with at most 65536 columns
  std::vector<float> values_, bias_, factor_;
};

}  // namespace

Status make_vector_plan(const PlanRequest& request, PlanPtr* plan) {
  auto made = std::make_unique<VectorPlan>(request);
  const Status status = made->build(request);
  if (status.ok()) *plan = std::move(made);
  return status;
}

}  // namespace onnxprune::kernels
