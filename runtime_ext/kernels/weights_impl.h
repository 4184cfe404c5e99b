// The one concrete Weights: canonical storage of every kind.
#pragma once

#include <cstring>
#include <vector>

#include "weights.h"

namespace onnxprune::kernels {

// Columns are relative to the group, as in DenseView. Storage by kind:
//   csr    pointers[row], columns (rising in a row), values
//   block  pointers[row / block_rows], columns, values[block][block_rows] (zeros past the last row)
//   nm     values[row][segments][n] and positions, position_bits each, rows byte-aligned
//   dense  values[row][columns]
struct WeightsImpl final : Weights {
  ConvGeometry shape;
  Storage kind = Storage::csr;
  std::int32_t block_rows = 1;
  std::int32_t n = 0, m = 0;
  std::int64_t nonzeros = 0;
  std::vector<std::int64_t> pointers;
  std::vector<std::uint16_t> narrow;  // columns when the matrix has at most 65536
  std::vector<std::uint32_t> wide;    // otherwise
  std::vector<std::uint8_t> positions;
  std::vector<float> values;
  std::vector<float> biases;
  char label[24] = {};

  const ConvGeometry& geometry() const override { return shape; }
  Storage storage() const override { return kind; }
  const char* name() const override { return label; }
  std::int64_t nnz() const override { return nonzeros; }
  std::int64_t stored() const override { return static_cast<std::int64_t>(values.size()); }
  std::int64_t bytes() const override;
  const float* bias() const override { return biases.empty() ? nullptr : biases.data(); }
  void to_dense(float* dense) const override;
  std::size_t blob_bytes() const override;
  void write_blob(std::uint8_t* blob) const override;

  std::int64_t rows() const { return shape.out_channels; }
  std::int64_t columns() const { return shape.columns(); }
  std::int64_t block_count() const { return (rows() + block_rows - 1) / block_rows; }
  std::int64_t segments() const { return (columns() + m - 1) / m; }
  int position_bits() const { return m <= 2 ? 1 : m <= 4 ? 2 : m <= 16 ? 4 : 8; }
  std::int64_t position_row_bytes() const { return (segments() * n * position_bits() + 7) / 8; }
  bool is_narrow() const { return columns() <= 65536; }
  std::uint32_t column(std::int64_t i) const {
    return is_narrow() ? narrow[static_cast<std::size_t>(i)] : wide[static_cast<std::size_t>(i)];
  }
  void add_column(std::uint32_t c) {
    if (is_narrow()) {
      narrow.push_back(static_cast<std::uint16_t>(c));
    } else {
      wide.push_back(c);
    }
  }
  std::uint32_t position(std::int64_t row, std::int64_t slot) const {
    const int bits = position_bits();
    const std::int64_t bit = slot * bits;
    const std::uint8_t byte =
        positions[static_cast<std::size_t>(row * position_row_bytes() + bit / 8)];
    return (byte >> (bit % 8)) & ((1u << bits) - 1u);
  }
  void set_label();

  // body(column, value) for each stored weight of the row that is not zero, columns rising.
  template <class Body>
  void for_each_in_row(std::int64_t row, Body&& body) const {
    const auto r = static_cast<std::size_t>(row);
    switch (kind) {
      case Storage::block: {
        const std::size_t block = r / block_rows, lane = r % block_rows;
        for (std::int64_t i = pointers[block]; i < pointers[block + 1]; ++i) {
          const float v = values[static_cast<std::size_t>(i) * block_rows + lane];
          if (v != 0.0f) body(column(i), v);
        }
        break;
      }
      case Storage::nm: {
        const std::int64_t groups = segments();
        const int bits = position_bits();
        const std::uint32_t mask = (1u << bits) - 1u;
        const std::uint8_t* const place = positions.data() + row * position_row_bytes();
        const float* value = values.data() + row * groups * n;
        std::int64_t bit = 0;
        for (std::int64_t group = 0; group < groups; ++group) {
          for (std::int32_t i = 0; i < n; ++i, ++value, bit += bits) {
            if (*value == 0.0f) continue;
            const std::uint32_t shifted = static_cast<std::uint32_t>(place[bit / 8]) >> (bit % 8);
            body(static_cast<std::uint32_t>(group * m) + (shifted & mask), *value);
          }
        }
        break;
      }
      case Storage::dense: {
        const std::int64_t k = columns();
        for (std::int64_t i = 0; i < k; ++i) {
          const float v = values[r * static_cast<std::size_t>(k) + static_cast<std::size_t>(i)];
          if (v != 0.0f) body(static_cast<std::uint32_t>(i), v);
        }
        break;
      }
      default:
        for (std::int64_t i = pointers[r]; i < pointers[r + 1]; ++i) {
          body(column(i), values[static_cast<std::size_t>(i)]);
        }
    }
  }
};

// Finishes `csr` (kind csr, complete) as the storage that the options ask for.
Status convert_storage(const PackOptions& options, std::unique_ptr<WeightsImpl> csr,
                       WeightsPtr* weights);
Analysis analyse_csr(const WeightsImpl& csr);
// What automatic storage means for such zeros; `block_rows` receives the block height.
Storage choose_storage(const Analysis& analysis, std::int32_t* block_rows);

// Runs `body`, turning what it may throw into a status: nothing leaves the library as an exception.
template <class Body>
Status guarded(Body&& body) {
  try {
    return body();
  } catch (...) {
    return failure(Code::out_of_memory, "kernels: out of memory");
  }
}

}  // namespace onnxprune::kernels
