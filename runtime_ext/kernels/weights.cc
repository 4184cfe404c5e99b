// What the zeros look like, which storage fits them, and conversion between storages.
#include <algorithm>
#include <cstdio>

#include "weights_impl.h"

namespace onnxprune::kernels {
namespace {

constexpr std::int32_t kBlockRows[4] = {2, 4, 8, 16};
constexpr std::int32_t kSegment[3] = {4, 8, 16};

// Kept columns of `height` rows together, per block of rows: calls body(block, sorted columns).
// `mark[c]` counts through blocks so that it need not be cleared.
class ColumnUnion {
 public:
  explicit ColumnUnion(std::int64_t columns) : mark_(static_cast<std::size_t>(columns), -1) {}
  std::int64_t count(const WeightsImpl& csr, std::int64_t first_row, std::int64_t last_row) {
    ++stamp_;
    std::int64_t distinct = 0;
    for (std::int64_t i = csr.pointers[first_row]; i < csr.pointers[last_row]; ++i) {
      std::int64_t& mark = mark_[csr.column(i)];
      distinct += mark != stamp_;
      mark = stamp_;
    }
    return distinct;
  }

 private:
  std::vector<std::int64_t> mark_;
  std::int64_t stamp_ = -1;
};

void detect_segments(const WeightsImpl& csr, Analysis* a) {
  std::int32_t most[3] = {0, 0, 0};
  auto possible = [&] {
    bool any = false;
    for (int s = 0; s < 3; ++s) any |= most[s] <= kSegment[s] / 2;
    return any;
  };
  for (std::int64_t row = 0; row < csr.rows() && possible(); ++row) {
    std::int64_t segment[3] = {-1, -1, -1};
    std::int32_t held[3] = {0, 0, 0};
    csr.for_each_in_row(row, [&](std::uint32_t column, float) {
      for (int s = 0; s < 3; ++s) {
        const std::int64_t here = column / kSegment[s];
        held[s] = here == segment[s] ? held[s] + 1 : 1;
        segment[s] = here;
        if (held[s] > most[s]) most[s] = held[s];
      }
    });
  }
  for (int s = 0; s < 3; ++s) {
    if (most[s] > 0 && most[s] <= kSegment[s] / 2 && a->columns >= kSegment[s]) {
      a->nm_m = kSegment[s];
      a->nm_n = most[s];
      return;
    }
  }
}

void to_block(std::int32_t height, WeightsImpl* w) {
  WeightsImpl csr;
  csr.shape = w->shape;
  csr.pointers.swap(w->pointers);
  csr.narrow.swap(w->narrow);
  csr.wide.swap(w->wide);
  csr.values.swap(w->values);
  w->kind = Storage::block;
  w->block_rows = height;
  w->pointers.push_back(0);
  std::vector<std::int64_t> next(static_cast<std::size_t>(height));
  for (std::int64_t row = 0; row < csr.rows(); row += height) {
    const std::int64_t rows = csr.rows() - row < height ? csr.rows() - row : height;
    for (std::int64_t j = 0; j < rows; ++j) next[j] = csr.pointers[row + j];
    while (true) {  // merge of the sorted rows
      std::int64_t column = -1;
      for (std::int64_t j = 0; j < rows; ++j) {
        if (next[j] == csr.pointers[row + j + 1]) continue;
        const std::int64_t c = csr.column(next[j]);
        if (column < 0 || c < column) column = c;
      }
      if (column < 0) break;
      w->add_column(static_cast<std::uint32_t>(column));
      for (std::int64_t j = 0; j < height; ++j) {
        const bool here =
            j < rows && next[j] != csr.pointers[row + j + 1] && csr.column(next[j]) == column;
        w->values.push_back(here ? csr.values[next[j]++] : 0.0f);
      }
    }
    w->pointers.push_back(static_cast<std::int64_t>(w->values.size()) / height);
  }
}

bool to_nm(std::int32_t n, std::int32_t m, WeightsImpl* w) {
  w->n = n;
  w->m = m;
  const std::int64_t slots = w->segments() * n, row_bytes = w->position_row_bytes();
  const auto bits = static_cast<std::uint32_t>(w->position_bits());
  std::vector<float> values(static_cast<std::size_t>(w->rows() * slots), 0.0f);
  std::vector<std::uint8_t> positions(static_cast<std::size_t>(w->rows() * row_bytes), 0);
  std::uint32_t shift = 0;  // m is 1 << shift, or it is divided by
  while ((2u << shift) <= static_cast<std::uint32_t>(m)) ++shift;
  const bool power = (1 << shift) == m;
  for (std::int64_t row = 0; row < w->rows(); ++row) {
    float* const row_values = values.data() + row * slots;
    std::uint8_t* const row_positions = positions.data() + row * row_bytes;
    std::uint32_t segment = UINT32_MAX, slot = 0, most = 0;
    w->for_each_in_row(row, [&](std::uint32_t column, float value) {
      const std::uint32_t here = power ? column >> shift : column / static_cast<std::uint32_t>(m);
      slot = here == segment ? slot + 1 : 0;
      segment = here;
      most = std::max(most, slot);
      if (slot >= static_cast<std::uint32_t>(n)) return;
      const std::uint32_t index = here * static_cast<std::uint32_t>(n) + slot, bit = index * bits;
      row_values[index] = value;
      row_positions[bit / 8] |= static_cast<std::uint8_t>(
          (column - here * static_cast<std::uint32_t>(m)) << bit % 8);
    });
    if (most >= static_cast<std::uint32_t>(n)) return false;
  }
  w->kind = Storage::nm;
  w->values.swap(values);
  w->positions.swap(positions);
  w->pointers = {};
  w->narrow = {};
  w->wide = {};
  return true;
}

}  // namespace

const char* storage_name(Storage storage) {
  switch (storage) {
    case Storage::automatic: return "automatic";
    case Storage::csr: return "csr";
    case Storage::block: return "block";
    case Storage::nm: return "nm";
    default: return "dense";
  }
}

std::int64_t WeightsImpl::bytes() const {
  return static_cast<std::int64_t>(sizeof *this + pointers.capacity() * sizeof(std::int64_t) +
                                   narrow.capacity() * 2 + wide.capacity() * 4 +
                                   positions.capacity() +
                                   (values.capacity() + biases.capacity()) * sizeof(float));
}

void WeightsImpl::set_label() {
  if (kind == Storage::block) {
    std::snprintf(label, sizeof label, "block%dx1", block_rows);
  } else if (kind == Storage::nm) {
    std::snprintf(label, sizeof label, "nm%d:%d", n, m);
  } else {
    std::snprintf(label, sizeof label, "%s", storage_name(kind));
  }
}

void WeightsImpl::to_dense(float* dense) const {
  const std::int64_t k = columns();
  std::memset(dense, 0, static_cast<std::size_t>(rows() * k) * sizeof(float));
  for (std::int64_t row = 0; row < rows(); ++row) {
    for_each_in_row(row,
                    [&](std::uint32_t column, float value) { dense[row * k + column] = value; });
  }
}

namespace {

// Kept weights over weights stored in blocks of `height` rows, of every `step`th sixteen rows.
double fill_of(const WeightsImpl& csr, std::int32_t height, std::int64_t step, ColumnUnion* columns) {
  std::int64_t stored = 0, kept = 0;
  for (std::int64_t first = 0; first < csr.rows(); first += 16 * step) {
    const std::int64_t last = std::min<std::int64_t>(first + 16, csr.rows());
    for (std::int64_t row = first; row < last; row += height) {
      const std::int64_t end = std::min<std::int64_t>(row + height, last);
      stored += columns->count(csr, row, end) * (end - row);
    }
    kept += csr.pointers[last] - csr.pointers[first];
  }
  return stored == 0 ? 0.0 : static_cast<double>(kept) / static_cast<double>(stored);
}

// What the choice of storage needs to know. Zeros that are nowhere near blocks show it in a few rows.
Analysis analyse_for_storage(const WeightsImpl& csr, bool compact) {
  constexpr double kNoBlocks = 0.65;  // half of the weights kept at random fill blocks of four by 0.53
  Analysis a;
  a.rows = csr.rows();
  a.columns = csr.columns();
  a.nnz = csr.nonzeros;
  ColumnUnion columns(a.columns);
  const std::int64_t step = std::max<std::int64_t>(1, a.rows / 16 / 8);
  const bool hopeless = fill_of(csr, 4, step, &columns) < kNoBlocks;
  for (const int i : {1, 2}) a.block_fill[i] = fill_of(csr, kBlockRows[i], hopeless ? step : 1, &columns);
  if (compact) detect_segments(csr, &a);
  return a;
}

}  // namespace

Analysis analyse_csr(const WeightsImpl& csr) {
  Analysis a;
  a.rows = csr.rows();
  a.columns = csr.columns();
  a.nnz = csr.nonzeros;
  ColumnUnion columns(a.columns);
  for (int i = 0; i < 4; ++i) a.block_fill[i] = fill_of(csr, kBlockRows[i], 1, &columns);
  for (std::int64_t row = 0; row < a.rows; ++row)
    a.empty_rows += csr.pointers[row] == csr.pointers[row + 1];
  a.empty_columns = a.columns - columns.count(csr, 0, a.rows);
  detect_segments(csr, &a);
  return a;
}

Storage choose_storage(const Analysis& a, std::int32_t* block_rows) {
  // Shares of the arithmetic peak that the kernels of each storage reach (see kernel_bench): blocks
  // pay when their padding costs less than what they gain.
  constexpr double dense_density = 0.6, block_fill = 0.8;
  *block_rows = 0;
  if (a.rows * a.columns == 0 || 1.0 - a.sparsity() >= dense_density) return Storage::dense;
  for (const int i : {2, 1}) {  // 8 and 4 rows; taller blocks run as blocks of 8
    if (a.block_fill[i] >= block_fill && a.rows >= kBlockRows[i]) {
      *block_rows = kBlockRows[i];
      return Storage::block;
    }
  }
  if (a.nm_m != 0 && static_cast<double>(a.nnz) * a.nm_m >=
                         0.9 * a.nm_n * static_cast<double>(a.rows * a.columns)) {
    return Storage::nm;
  }
  return Storage::csr;
}

Status convert_storage(const PackOptions& options, std::unique_ptr<WeightsImpl> w,
                       WeightsPtr* weights) {
  Storage storage = options.storage;
  std::int32_t block_rows = options.block_rows, n = options.n, m = options.m;
  const bool missing =
      (storage == Storage::block && block_rows == 0) || (storage == Storage::nm && m == 0);
  if (storage == Storage::automatic || missing) {
    const Analysis a = analyse_for_storage(*w, options.compact || storage == Storage::nm);
    std::int32_t best_rows = 0;
    if (storage == Storage::automatic) storage = choose_storage(a, &best_rows);
    if (block_rows == 0)
      block_rows = best_rows != 0 ? best_rows : a.block_fill[2] >= 0.8 * a.block_fill[1] ? 8 : 4;
    if (m == 0) {
      n = a.nm_n;
      m = a.nm_m;
    }
  }
  switch (storage) {
    case Storage::block:
      if (block_rows != 2 && block_rows != 4 && block_rows != 8 && block_rows != 16) {
        return failure(Code::unsupported,
                       "weights: blocks of %d rows; 2, 4, 8 and 16 are supported", block_rows);
      }
      to_block(block_rows, w.get());
      break;
    case Storage::nm:
      if (n < 1 || m < 2 || n >= m || m > 16 || !to_nm(n, m, w.get())) {
        return failure(Code::invalid_argument, "weights: the zeros do not follow a %d:%d pattern",
                       n, m);
      }
      break;
    case Storage::dense: {
      std::vector<float> values(static_cast<std::size_t>(w->rows() * w->columns()));
      w->to_dense(values.data());
      w->kind = Storage::dense;
      w->values.swap(values);
      w->pointers = {};
      w->narrow = {};
      w->wide = {};
      break;
    }
    default: break;
  }
  w->set_label();
  *weights = std::move(w);
  return {};
}

}  // namespace onnxprune::kernels
