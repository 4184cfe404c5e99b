// Building weights from dense and packed sparse input.
#include <algorithm>
#include <numeric>

#include "cpu.h"
#include "ops/table.h"
#include "weights_impl.h"

namespace onnxprune::kernels {
namespace {

class Builder final : public WeightsBuilder {
 public:
  Builder(const ConvGeometry& geometry, const PackOptions& options)
      : options_(options), csr_(std::make_unique<WeightsImpl>()) {
    csr_->shape = geometry;
    csr_->pointers.reserve(static_cast<std::size_t>(geometry.out_channels) + 1);
    csr_->pointers.push_back(0);
    if (options.bias != nullptr)
      csr_->biases.assign(options.bias, options.bias + geometry.out_channels);
  }

  void reserve(std::int64_t nnz) {
    csr_->values.reserve(static_cast<std::size_t>(nnz));
    if (csr_->is_narrow()) {
      csr_->narrow.reserve(static_cast<std::size_t>(nnz));
    } else {
      csr_->wide.reserve(static_cast<std::size_t>(nnz));
    }
  }

  Status add_row(const std::int32_t* columns, const float* values, std::int32_t count) override {
    return guarded([&] { return append(columns, values, count); });
  }

  Status finish(WeightsPtr* weights) override {
    return guarded([&]() -> Status {
      if (csr_ == nullptr) return failure(Code::invalid_argument, "weights: already finished");
      const std::int64_t rows = static_cast<std::int64_t>(csr_->pointers.size()) - 1;
      if (rows != csr_->rows()) {
        return failure(Code::invalid_argument, "weights: %lld rows given, %lld wanted",
                       static_cast<long long>(rows), static_cast<long long>(csr_->rows()));
      }
      csr_->nonzeros = csr_->pointers.back();
      return convert_storage(options_, std::move(csr_), weights);
    });
  }

 private:
  Status append(const std::int32_t* columns, const float* values, std::int32_t count) {
    if (csr_ == nullptr) return failure(Code::invalid_argument, "weights: already finished");
    const std::int64_t row = static_cast<std::int64_t>(csr_->pointers.size()) - 1;
    if (row >= csr_->rows()) {
      return failure(Code::invalid_argument, "weights: more rows than output channels");
    }
    const float scale = options_.row_scale == nullptr ? 1.0f : options_.row_scale[row];
    const std::int64_t limit = csr_->columns();
    if (scale == 1.0f && options_.column_map == nullptr && plain(columns, values, count)) {
      take(columns, values, count);
      return {};
    }
    row_.clear();
    bool rising = true;
    for (std::int32_t i = 0; i < count; ++i) {
      std::int64_t column = columns[i];
      if (column < 0 || column >= limit) {
        return failure(Code::corrupt, "weights: row %lld: column %lld is outside 0..%lld",
                       static_cast<long long>(row), static_cast<long long>(column),
                       static_cast<long long>(limit - 1));
      }
      if (options_.column_map != nullptr) column = options_.column_map[column];
      rising = rising && (row_.empty() || row_.back().first < column);
      row_.emplace_back(static_cast<std::int32_t>(column), values[i]);
    }
    if (!rising) {
      std::sort(row_.begin(), row_.end(),
                [](const Entry& a, const Entry& b) { return a.first < b.first; });
      for (std::size_t i = 1; i < row_.size(); ++i) {
        if (row_[i].first == row_[i - 1].first) {
          return failure(Code::corrupt, "weights: row %lld holds column %d twice",
                         static_cast<long long>(row), row_[i].first);
        }
      }
    }
    for (const Entry& entry : row_) {
      const float value = entry.second * scale;
      if (value == 0.0f) continue;
      csr_->add_column(static_cast<std::uint32_t>(entry.first));
      csr_->values.push_back(value);
    }
    csr_->pointers.push_back(static_cast<std::int64_t>(csr_->values.size()));
    return {};
  }

  // Whether the row can be taken as it is: columns in range and rising, no zeros.
  bool plain(const std::int32_t* columns, const float* values, std::int32_t count) const {
    if (count == 0) return true;
    bool good = columns[0] >= 0 && columns[count - 1] < csr_->columns();
    for (std::int32_t i = 1; i < count; ++i) good &= columns[i - 1] < columns[i];
    for (std::int32_t i = 0; i < count; ++i) good &= values[i] != 0.0f;
    return good;
  }

  void take(const std::int32_t* columns, const float* values, std::int32_t count) {
    WeightsImpl& w = *csr_;
    const std::size_t begin = w.values.size();
    w.values.insert(w.values.end(), values, values + count);
    if (w.is_narrow()) {
      w.narrow.resize(w.values.size());
      std::transform(columns, columns + count, w.narrow.begin() + static_cast<std::ptrdiff_t>(begin),
                     [](std::int32_t c) { return static_cast<std::uint16_t>(c); });
    } else {
      w.wide.insert(w.wide.end(), columns, columns + count);
    }
    w.pointers.push_back(static_cast<std::int64_t>(w.values.size()));
  }

  using Entry = std::pair<std::int32_t, float>;
  PackOptions options_;
  std::unique_ptr<WeightsImpl> csr_;
  std::vector<Entry> row_;
};

Status start(const ConvGeometry& geometry, const PackOptions& options,
             std::unique_ptr<Builder>* builder) {
  if (const Status status = check_geometry(geometry); !status.ok()) return status;
  *builder = std::make_unique<Builder>(geometry, options);
  return {};
}

// Entry i of an unsigned index array of any width; what does not fit 63 bits becomes INT64_MAX.
std::int64_t index_at(const IndexView& view, std::int64_t i) {
  const auto* bytes = static_cast<const std::uint8_t*>(view.data) + i * view.bytes;
  std::uint64_t value = 0;
  std::memcpy(&value, bytes, static_cast<std::size_t>(view.bytes));  // little-endian hosts only
  return value > INT64_MAX ? INT64_MAX : static_cast<std::int64_t>(value);
}

bool valid(const IndexView& view) {
  return view.data != nullptr &&
         (view.bytes == 1 || view.bytes == 2 || view.bytes == 4 || view.bytes == 8);
}

Status check_pointers(const IndexView& indptr, std::int64_t rows, std::int64_t entries) {
  std::int64_t previous = 0;
  for (std::int64_t i = 0; i <= rows; ++i) {
    const std::int64_t p = index_at(indptr, i);
    if (p < previous || p > entries || (i == 0 && p != 0)) {
      return failure(Code::corrupt, "sparse weights: row pointer %lld is %lld, expected %lld..%lld",
                     static_cast<long long>(i), static_cast<long long>(p),
                     static_cast<long long>(previous),
                     static_cast<long long>(i == 0 ? 0 : entries));
    }
    previous = p;
  }
  if (previous != entries) {
    return failure(Code::corrupt, "sparse weights: the row pointers cover %lld of %lld entries",
                   static_cast<long long>(previous), static_cast<long long>(entries));
  }
  return {};
}

float element(const DenseView& dense, std::int64_t row, std::int64_t column) {
  return dense.data[row * dense.row_stride + column * dense.column_stride];
}

// Straight copy, without the detour over sparse form.
std::unique_ptr<WeightsImpl> copy_dense(const ConvGeometry& g, const DenseView& dense,
                                        const PackOptions& options) {
  auto w = std::make_unique<WeightsImpl>();
  w->shape = g;
  w->kind = Storage::dense;
  const std::int64_t columns = g.columns();
  w->values.resize(static_cast<std::size_t>(g.out_channels * columns));
  for (std::int64_t row = 0; row < g.out_channels; ++row) {
    const float scale = options.row_scale == nullptr ? 1.0f : options.row_scale[row];
    for (std::int64_t c = 0; c < columns; ++c) {
      const float value = element(dense, row, c) * scale;
      w->values[static_cast<std::size_t>(row * columns + c)] = value;
      w->nonzeros += value != 0.0f;
    }
  }
  if (options.bias != nullptr) w->biases.assign(options.bias, options.bias + g.out_channels);
  w->set_label();
  return w;
}

// Rows of a dense matrix, each without gaps, whatever way the matrix lies. Where it lies across, a strip
// of rows is turned at a time.
class RowReader {
 public:
  RowReader(const DenseView& dense, std::int64_t rows, std::int64_t columns, std::int64_t strip)
      : dense_(dense), rows_(rows), columns_(columns), strip_(strip), pitch_(columns + kLane) {}

  const float* row(std::int64_t r) {
    if (dense_.column_stride == 1) return dense_.data + r * dense_.row_stride;
    if (r < first_ || r >= last_) load(r);
    return turned_.data() + (r - first_) * pitch_;
  }

 private:
  void load(std::int64_t first) {
    first_ = first;
    last_ = std::min(first + strip_, rows_);
    turned_.resize(static_cast<std::size_t>(strip_ * pitch_));
    for (std::int64_t c = 0; c < columns_; c += kLane) {
      const std::int64_t end = std::min<std::int64_t>(c + kLane, columns_);
      for (std::int64_t r = first_; r < last_; ++r) {
        float* const to = turned_.data() + (r - first_) * pitch_;
        for (std::int64_t k = c; k < end; ++k) to[k] = element(dense_, r, k);
      }
    }
  }

  const DenseView& dense_;
  std::int64_t rows_, columns_, strip_, pitch_;  // the pitch keeps rows out of the same cache sets
  std::int64_t first_ = 0, last_ = 0;            // rows held
  std::vector<float> turned_;
};

constexpr std::int64_t kStrip = 64;

float scale_of(const PackOptions& options, std::int64_t row) {
  return options.row_scale == nullptr ? 1.0f : options.row_scale[row];
}

// Appends `rows` rows that keep `nnz` weights, in compressed form.
void gather(const DenseView& dense, std::int64_t rows, const PackOptions& options,
            std::int64_t nnz, WeightsImpl* csr) {
  const OpsTable& ops = ops_table(active_isa());
  const std::int64_t columns = csr->columns();
  std::int64_t end = csr->pointers.back();
  const auto room = static_cast<std::size_t>(end + nnz + kLane);
  csr->values.resize(room);
  csr->narrow.resize(csr->is_narrow() ? room : 0);
  csr->wide.resize(csr->is_narrow() ? 0 : room);
  RowReader reader(dense, rows, columns, std::min(kStrip, rows));
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* const row = reader.row(r);
    const float scale = scale_of(options, r);
    float* const values = csr->values.data() + end;
    end += csr->is_narrow()
               ? ops.kept_narrow(row, columns, scale, values, csr->narrow.data() + end)
               : ops.kept_wide(row, columns, scale, values, csr->wide.data() + end);
    csr->pointers.push_back(end);
  }
  const auto found = static_cast<std::size_t>(end);
  csr->values.resize(found);
  csr->narrow.resize(csr->is_narrow() ? found : 0);
  csr->wide.resize(csr->is_narrow() ? 0 : found);
  csr->nonzeros = end;
}

std::int64_t nonzeros_of(const DenseView& dense, std::int64_t rows, std::int64_t columns) {
  const bool gapless = (dense.column_stride == 1 && dense.row_stride == columns) ||
                       (dense.row_stride == 1 && dense.column_stride == rows);
  if (gapless) return count_nonzeros(dense.data, rows * columns);
  std::int64_t nnz = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t c = 0; c < columns; ++c) nnz += element(dense, row, c) != 0.0f;
  }
  return nnz;
}

}  // namespace

std::int64_t count_nonzeros(const float* data, std::int64_t count) {
  std::int64_t total = 0;
  for (std::int64_t begin = 0; begin < count; begin += 4096) {
    const std::int64_t end = std::min<std::int64_t>(count, begin + 4096);
    std::int32_t part = 0;  // narrow, so that the loop becomes vector code
    for (std::int64_t i = begin; i < end; ++i) part += data[i] != 0.0f ? 1 : 0;
    total += part;
  }
  return total;
}

Status make_builder(const ConvGeometry& geometry, const PackOptions& options,
                    std::unique_ptr<WeightsBuilder>* builder) {
  return guarded([&]() -> Status {
    std::unique_ptr<Builder> made;
    const Status status = start(geometry, options, &made);
    *builder = std::move(made);
    return status;
  });
}

Status analyse(const ConvGeometry& geometry, const DenseView& dense, std::int64_t nnz,
               std::int64_t most_rows, Analysis* analysis) {
  return guarded([&]() -> Status {
    if (const Status status = check_geometry(geometry); !status.ok()) return status;
    if (dense.data == nullptr) return failure(Code::invalid_argument, "weights: no data");
    constexpr std::int64_t kHeight = 16;  // blocks of all heights fit in
    const std::int64_t rows = geometry.out_channels, columns = geometry.columns();
    const bool all = most_rows <= 0 || rows <= std::max(most_rows, kHeight);
    const std::int64_t height = all ? rows : kHeight;
    const std::int64_t pieces = all ? 1 : std::max<std::int64_t>(1, most_rows / kHeight);
    WeightsImpl csr;
    csr.shape = geometry;
    csr.shape.in_channels /= geometry.groups;
    csr.shape.groups = 1;
    csr.shape.out_channels = static_cast<std::int32_t>(height * pieces);
    csr.pointers.push_back(0);
    for (std::int64_t piece = 0; piece < pieces; ++piece) {
      const std::int64_t first = rows / kHeight * piece / pieces * kHeight;
      DenseView rest = dense;
      rest.data += all ? 0 : first * dense.row_stride;
      gather(rest, height, {}, nonzeros_of(rest, height, columns), &csr);
    }
    *analysis = analyse_csr(csr);
    analysis->rows = rows;
    analysis->nnz = nnz;
    return {};
  });
}

Status pack_dense(const ConvGeometry& geometry, const DenseView& dense, const PackOptions& options,
                  WeightsPtr* weights) {
  return guarded([&]() -> Status {
    if (const Status status = check_geometry(geometry); !status.ok()) return status;
    if (dense.data == nullptr) return failure(Code::invalid_argument, "weights: no data");
    const std::int64_t nnz = nonzeros_of(dense, geometry.out_channels, geometry.columns());
    Analysis rough;
    rough.rows = geometry.out_channels;
    rough.columns = geometry.columns();
    rough.nnz = nnz;
    std::int32_t unused = 0;
    const bool is_dense =
        options.storage == Storage::dense ||
        (options.storage == Storage::automatic && choose_storage(rough, &unused) == Storage::dense);
    if (is_dense) {
      *weights = copy_dense(geometry, dense, options);
      return {};
    }
    auto csr = std::make_unique<WeightsImpl>();
    csr->shape = geometry;
    csr->pointers.reserve(static_cast<std::size_t>(geometry.out_channels) + 1);
    csr->pointers.push_back(0);
    if (options.bias != nullptr)
      csr->biases.assign(options.bias, options.bias + geometry.out_channels);
    gather(dense, geometry.out_channels, options, nnz, csr.get());
    return convert_storage(options, std::move(csr), weights);
  });
}

Status pack_csr(const ConvGeometry& geometry, IndexView indptr, IndexView indices,
                const float* values, std::int64_t nnz, const PackOptions& options,
                WeightsPtr* weights) {
  return guarded([&]() -> Status {
    std::unique_ptr<Builder> builder;
    if (const Status status = start(geometry, options, &builder); !status.ok()) return status;
    if (!valid(indptr) || (nnz > 0 && (!valid(indices) || values == nullptr)) || nnz < 0) {
      return failure(Code::invalid_argument,
                     "sparse weights: index arrays missing or of odd width");
    }
    if (const Status s = check_pointers(indptr, geometry.out_channels, nnz); !s.ok()) return s;
    builder->reserve(nnz);
    std::vector<std::int32_t> columns;
    // Indices beyond 31 bits come out negative, which no column is.
    const bool aligned = reinterpret_cast<std::uintptr_t>(indices.data) % alignof(std::int32_t) == 0;
    const auto* direct =
        indices.bytes == 4 && aligned ? static_cast<const std::int32_t*>(indices.data) : nullptr;
    for (std::int64_t row = 0; row < geometry.out_channels; ++row) {
      const std::int64_t begin = index_at(indptr, row), end = index_at(indptr, row + 1);
      if (end - begin > geometry.columns()) {
        return failure(Code::corrupt, "sparse weights: row %lld holds more entries than columns",
                       static_cast<long long>(row));
      }
      const std::int32_t* row_columns = direct == nullptr ? nullptr : direct + begin;
      if (direct == nullptr) {
        columns.clear();
        for (std::int64_t i = begin; i < end; ++i) {
          columns.push_back(
              static_cast<std::int32_t>(std::min<std::int64_t>(index_at(indices, i), INT32_MAX)));
        }
        row_columns = columns.data();
      }
      const Status s =
          builder->add_row(row_columns, values + begin, static_cast<std::int32_t>(end - begin));
      if (!s.ok()) return s;
    }
    return builder->finish(weights);
  });
}

Status pack_block_csr(const ConvGeometry& geometry, std::int32_t block_rows,
                      std::int32_t block_columns, IndexView indptr, IndexView indices,
                      const float* values, std::int64_t blocks, const PackOptions& options,
                      WeightsPtr* weights) {
  return guarded([&]() -> Status {
    std::unique_ptr<Builder> builder;
    if (const Status status = start(geometry, options, &builder); !status.ok()) return status;
    if (block_rows < 1 || block_columns < 1 || block_rows > 256 || block_columns > 256 ||
        blocks < 0 || !valid(indptr) || (blocks > 0 && (!valid(indices) || values == nullptr))) {
      return failure(Code::invalid_argument,
                     "block-sparse weights: bad block size or index arrays");
    }
    const std::int64_t rows = geometry.out_channels, columns = geometry.columns();
    const std::int64_t grid = (columns + block_columns - 1) / block_columns;
    if (const Status s = check_pointers(indptr, (rows + block_rows - 1) / block_rows, blocks);
        !s.ok())
      return s;
    std::vector<std::int32_t> kept;
    std::vector<float> row_values;
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t b = row / block_rows, lane = row % block_rows;
      kept.clear();
      row_values.clear();
      for (std::int64_t i = index_at(indptr, b); i < index_at(indptr, b + 1); ++i) {
        const std::int64_t block = index_at(indices, i);
        if (block >= grid) {
          return failure(Code::corrupt,
                         "block-sparse weights: block column %lld is outside 0..%lld",
                         static_cast<long long>(block), static_cast<long long>(grid - 1));
        }
        for (std::int64_t c = 0; c < block_columns && block * block_columns + c < columns; ++c) {
          const float value = values[(i * block_rows + lane) * block_columns + c];
          if (value == 0.0f) continue;
          kept.push_back(static_cast<std::int32_t>(block * block_columns + c));
          row_values.push_back(value);
        }
        if (static_cast<std::int64_t>(kept.size()) > columns) {
          return failure(Code::corrupt,
                         "block-sparse weights: row %lld holds more entries than columns",
                         static_cast<long long>(row));
        }
      }
      const Status s =
          builder->add_row(kept.data(), row_values.data(), static_cast<std::int32_t>(kept.size()));
      if (!s.ok()) return s;
    }
    return builder->finish(weights);
  });
}

Status pack_nm(const ConvGeometry& geometry, std::int32_t n, std::int32_t m, const float* values,
               const std::uint8_t* positions, std::size_t position_bytes, int position_bits,
               int row_align, const PackOptions& options, WeightsPtr* weights) {
  return guarded([&]() -> Status {
    std::unique_ptr<Builder> builder;
    if (const Status status = start(geometry, options, &builder); !status.ok()) return status;
    if (n < 1 || m <= n || m > 256 || values == nullptr || positions == nullptr || row_align < 1 ||
        (position_bits != 1 && position_bits != 2 && position_bits != 4 && position_bits != 8) ||
        (1 << position_bits) < m) {
      return failure(Code::invalid_argument,
                     "n:m weights: bad n, m or width of positions (%d:%d, %d bits)", n, m,
                     position_bits);
    }
    const std::int64_t slots = (geometry.columns() + m - 1) / m * n;
    const std::int64_t row_bytes =
        ((slots * position_bits + 7) / 8 + row_align - 1) / row_align * row_align;
    if (static_cast<std::uint64_t>(row_bytes) * static_cast<std::uint64_t>(geometry.out_channels) !=
        position_bytes) {
      return failure(Code::corrupt, "n:m weights: %zu bytes of positions, expected %lld",
                     position_bytes, static_cast<long long>(row_bytes * geometry.out_channels));
    }
    std::vector<std::int32_t> kept;
    std::vector<float> row_values;
    for (std::int64_t row = 0; row < geometry.out_channels; ++row) {
      kept.clear();
      row_values.clear();
      for (std::int64_t i = 0; i < slots; ++i) {
        const std::int64_t bit = i * position_bits;
        const std::int64_t position =
            (positions[row * row_bytes + bit / 8] >> (bit % 8)) & ((1 << position_bits) - 1);
        const float value = values[row * slots + i];
        if (position >= m) {
          return failure(Code::corrupt, "n:m weights: row %lld: position %lld in a group of %d",
                         static_cast<long long>(row), static_cast<long long>(position), m);
        }
        if (value == 0.0f) continue;
        kept.push_back(static_cast<std::int32_t>(i / n * m + position));
        row_values.push_back(value);
      }
      const Status s =
          builder->add_row(kept.data(), row_values.data(), static_cast<std::int32_t>(kept.size()));
      if (!s.ok()) return s;
    }
    return builder->finish(weights);
  });
}

}  // namespace onnxprune::kernels
