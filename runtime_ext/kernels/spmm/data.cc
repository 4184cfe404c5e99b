#include "data.h"

#include <algorithm>
#include <utility>

namespace onnxprune::kernels {
namespace {

// The rows of one block, columns merged: which rows keep each column and with what value. Columns
// are absolute (groups multiplied in).
class RowBlock {
 public:
  RowBlock(const WeightsImpl& w, std::int32_t height)
      : w_(w), height_(height), slot_(static_cast<std::size_t>(w.columns()) * w.shape.groups, -1) {}

  void load(std::int32_t row) {
    for (const std::uint32_t c : columns) slot_[c] = -1;
    columns.clear();
    const std::int32_t per_group = w_.shape.out_channels / w_.shape.groups;
    const std::int32_t end = std::min(row + height_, w_.shape.out_channels);
    values_.clear();
    used_.clear();
    for (std::int32_t r = row; r < end; ++r) {
      const auto base = static_cast<std::uint32_t>(r / per_group * w_.columns());
      w_.for_each_in_row(r, [&](std::uint32_t column, float value) {
        const std::uint32_t c = base + column;
        if (slot_[c] < 0) {
          slot_[c] = static_cast<std::int32_t>(columns.size());
          columns.push_back(c);
          values_.resize(values_.size() + static_cast<std::size_t>(height_), 0.0f);
          used_.push_back(0);
        }
        values_[static_cast<std::size_t>(slot_[c]) * height_ + (r - row)] = value;
        used_[static_cast<std::size_t>(slot_[c])] |= static_cast<std::uint8_t>(1u << (r - row));
      });
    }
    std::sort(columns.begin(), columns.end());
  }

  const float* values(std::uint32_t column) const {
    return &values_[static_cast<std::size_t>(slot_[column]) * height_];
  }
  std::uint32_t used(std::uint32_t column) const {
    return used_[static_cast<std::size_t>(slot_[column])];
  }

  std::vector<std::uint32_t> columns;  // kept ones, rising

 private:
  const WeightsImpl& w_;
  std::int32_t height_;
  std::vector<std::int32_t> slot_;
  std::vector<float> values_;
  std::vector<std::uint8_t> used_;
};

class Build {
 public:
  Build(const WeightsImpl& w, const std::vector<std::int32_t>& column_offset,
        const TileDataOptions& options, TileData* data)
      : w_(w), offset_(column_offset), o_(options), d_(*data) {
    const auto all = static_cast<std::int64_t>(offset_.size());
    block_columns_ = o_.block_columns > 0 ? std::min<std::int64_t>(o_.block_columns, all) : all;
    d_.blocks = static_cast<std::int32_t>(
        (static_cast<std::int64_t>(offset_.size()) + block_columns_ - 1) / block_columns_);
  }

  void run() {
    cut_rows();
    d_.list_begin.push_back(0);
    if (o_.family == Family::csr) {
      reserve(w_.nnz(), w_.nnz());
      for (std::int32_t p = 0; p < d_.parts(); ++p) csr_part(d_.part_rows[p], d_.part_rows[p + 1]);
    } else if (is_shared_dense()) {
      reserve(static_cast<std::int64_t>(offset_.size()),
              w_.columns() * (w_.rows() + o_.block_rows));
      dense_offsets();
      for (std::int32_t p = 0; p < d_.parts(); ++p)
        dense_part(d_.part_rows[p], d_.part_rows[p + 1]);
    } else {
      RowBlock block(w_, o_.block_rows);
      for (std::int32_t p = 0; p < d_.parts(); ++p)
        block_part(d_.part_rows[p], d_.part_rows[p + 1], &block);
    }
    d_.wide.shrink_to_fit();
    d_.narrow.shrink_to_fit();
    d_.values.shrink_to_fit();
    d_.spans.shrink_to_fit();
  }

 private:
  std::size_t offset_count() const { return o_.narrow ? d_.narrow.size() : d_.wide.size(); }

  void add_offset(std::uint32_t column) {
    if (o_.narrow) {
      d_.narrow.push_back(static_cast<std::uint16_t>(offset_[column] / kLane));
    } else {
      d_.wide.push_back(offset_[column]);
    }
  }

  void reserve(std::int64_t offsets, std::int64_t values) {
    if (o_.narrow) {
      d_.narrow.reserve(static_cast<std::size_t>(offsets));
    } else {
      d_.wide.reserve(static_cast<std::size_t>(offsets));
    }
    d_.values.reserve(static_cast<std::size_t>(values));
  }

  // Part boundaries with equal shares of the non-zeros, at multiples of the kernel's block height.
  void cut_rows() {
    const auto rows = static_cast<std::int32_t>(w_.rows());
    std::vector<std::int64_t> weight(static_cast<std::size_t>(rows), 0);
    std::int64_t total = 0;
    for (std::int32_t r = 0; r < rows && o_.parts > 1; ++r) {
      w_.for_each_in_row(r, [&](std::uint32_t, float) { ++weight[r]; });
      total += weight[r] += 1;
    }
    d_.part_rows.push_back(0);
    std::int64_t done = 0;
    for (std::int32_t r = 0; r < rows && o_.parts > 1; ++r) {
      done += weight[r];
      const std::int64_t share = total * static_cast<std::int64_t>(d_.part_rows.size()) / o_.parts;
      const std::int32_t cut = r + 1;
      if (cut < rows && cut % o_.block_rows == 0 && done >= share &&
          static_cast<std::int32_t>(d_.part_rows.size()) < o_.parts) {
        d_.part_rows.push_back(cut);
      }
    }
    d_.part_rows.push_back(rows);
  }

  void end_list() { d_.list_begin.push_back(static_cast<std::int64_t>(d_.spans.size())); }

  // One row at a time. Inside a column block the rows come sorted by length: rows are independent,
  // and equal trip counts in a row are predicted.
  void csr_part(std::int32_t first, std::int32_t last) {
    struct Piece {
      std::int64_t begin;  // in the row's columns and values, see below
      std::uint32_t count;
      std::int32_t row;
      std::uint32_t flags;
    };
    // The part's kept weights: where they lie already, or listed here.
    const bool listed = w_.kind != Storage::csr;
    std::vector<std::uint32_t> list;
    std::vector<float> list_values;
    std::vector<std::vector<Piece>> pieces(static_cast<std::size_t>(d_.blocks));
    const std::int32_t per_group = w_.shape.out_channels / w_.shape.groups;
    for (std::int32_t row = first; row < last; ++row) {
      const std::int64_t base = row / per_group * w_.columns();
      std::int64_t at = listed ? static_cast<std::int64_t>(list.size()) : w_.pointers[row];
      if (listed) {
        w_.for_each_in_row(row, [&](std::uint32_t column, float value) {
          list.push_back(column);
          list_values.push_back(value);
        });
      }
      const std::int64_t end = listed ? static_cast<std::int64_t>(list.size()) : w_.pointers[row + 1];
      if (at == end) {  // an empty row still gets its bias and epilogue
        pieces[0].push_back({at, 0, row, kFirst | kLast});
        continue;
      }
      std::uint32_t flags = kFirst;
      while (at < end) {
        auto column = [&](std::int64_t i) -> std::int64_t {
          return base + (listed ? list[static_cast<std::size_t>(i)] : w_.column(i));
        };
        const std::int64_t block = column(at) / block_columns_, limit = (block + 1) * block_columns_;
        std::int64_t stop = end;
        if (column(end - 1) >= limit) {
          stop = at + 1;
          while (column(stop) < limit) ++stop;
        }
        if (stop == end) flags |= kLast;
        pieces[static_cast<std::size_t>(block)].push_back(
            {at, static_cast<std::uint32_t>(stop - at), row, flags});
        flags = 0;
        at = stop;
      }
    }
    for (auto& of_block : pieces) {
      std::stable_sort(of_block.begin(), of_block.end(), [](const Piece& a, const Piece& b) {
        return a.flags != b.flags ? a.flags < b.flags : a.count > b.count;
      });
      for (const Piece& piece : of_block) {
        const auto to = static_cast<std::uint32_t>(offset_count());
        d_.spans.push_back({to, to, piece.count, piece.row, piece.flags});
        const auto base = static_cast<std::uint32_t>(piece.row / per_group * w_.columns());
        for (std::int64_t i = piece.begin; i < piece.begin + piece.count; ++i)
          add_offset(base + (listed ? list[static_cast<std::size_t>(i)] : w_.column(i)));
        const float* const from = (listed ? list_values.data() : w_.values.data()) + piece.begin;
        d_.values.insert(d_.values.end(), from, from + piece.count);
      }
      end_list();
    }
  }

  // What one column block holds of the part, in walking order.
  struct List {
    std::vector<Span> spans;
    std::vector<std::uint32_t> patterns;
    std::vector<std::uint32_t> columns;
    std::vector<float> values;
  };

  // Blocks of rows: all of them visit the first and the last column block, which carry the flags.
  void block_part(std::int32_t first, std::int32_t last, RowBlock* block) {
    std::vector<List> lists(static_cast<std::size_t>(d_.blocks));
    for (std::int32_t row = first; row < last; row += o_.block_rows) {
      block->load(row);
      std::size_t next = 0;
      for (std::int32_t b = 0; b < d_.blocks; ++b) {
        const std::size_t begin = next;
        const std::int64_t limit = static_cast<std::int64_t>(b + 1) * block_columns_;
        while (next < block->columns.size() && block->columns[next] < limit) ++next;
        if (begin == next && b > 0 && b + 1 < d_.blocks) continue;  // nothing to add here
        List& list = lists[static_cast<std::size_t>(b)];
        Span span;
        span.row = row;
        span.flags = (b == 0 ? kFirst : 0) | (b + 1 == d_.blocks ? kLast : 0);
        append(*block, begin, next, span, &list);
      }
    }
    std::size_t columns = offset_count(), values_in_all = d_.values.size();
    for (const List& list : lists) {
      columns += list.columns.size();
      values_in_all += list.values.size();
    }
    reserve(static_cast<std::int64_t>(columns), static_cast<std::int64_t>(values_in_all));
    for (const List& list : lists) {
      const auto offsets = static_cast<std::uint32_t>(offset_count());
      const auto height = static_cast<std::size_t>(o_.family == Family::block ? o_.block_rows : 1);
      const auto values = static_cast<std::uint32_t>(d_.values.size() / height);
      for (Span span : list.spans) {
        span.offsets += offsets;
        span.values += values;
        d_.spans.push_back(span);
      }
      d_.patterns.insert(d_.patterns.end(), list.patterns.begin(), list.patterns.end());
      for (const std::uint32_t column : list.columns) add_offset(column);
      d_.values.insert(d_.values.end(), list.values.begin(), list.values.end());
      end_list();
    }
  }

  void append(const RowBlock& block, std::size_t begin, std::size_t end, Span span, List* list) {
    span.offsets = static_cast<std::uint32_t>(list->columns.size());
    span.count = static_cast<std::uint32_t>(end - begin);
    const auto height = static_cast<std::size_t>(o_.block_rows);
    if (o_.family == Family::block) {
      span.values = static_cast<std::uint32_t>(list->values.size() / height);
      for (std::size_t i = begin; i < end; ++i) {
        list->columns.push_back(block.columns[i]);
        const float* v = block.values(block.columns[i]);
        list->values.insert(list->values.end(), v, v + height);
      }
    } else {
      span.values = static_cast<std::uint32_t>(list->values.size());
      // Columns by pattern, rising within each: a counting sort.
      std::uint32_t next[16] = {};
      for (std::size_t i = begin; i < end; ++i) ++next[block.used(block.columns[i])];
      std::uint32_t first = span.offsets;
      for (int pattern = 1; pattern <= 15; ++pattern) {
        list->patterns.push_back(next[pattern]);
        first += std::exchange(next[pattern], first);
      }
      list->columns.resize(first);
      for (std::size_t i = begin; i < end; ++i) {
        const std::uint32_t c = block.columns[i];
        list->columns[next[block.used(c)]++] = c;
      }
      for (std::size_t i = span.offsets; i < first; ++i) {
        const float* v = block.values(list->columns[i]);
        for (std::uint32_t used = block.used(list->columns[i]), r = 0; used != 0; used >>= 1, ++r)
          if (used & 1) list->values.push_back(v[r]);
      }
    }
    list->spans.push_back(span);
  }

  // Dense weights whose blocks do not straddle groups share one list of offsets per group.
  bool is_shared_dense() const {
    const std::int32_t per_group = w_.shape.out_channels / w_.shape.groups;
    return w_.kind == Storage::dense && o_.family == Family::block &&
           (w_.shape.groups == 1 || per_group % o_.block_rows == 0);
  }

  void dense_offsets() {
    for (std::uint32_t c = 0; c < offset_.size(); ++c) add_offset(c);
  }

  void dense_part(std::int32_t first, std::int32_t last) {
    const std::int32_t per_group = w_.shape.out_channels / w_.shape.groups;
    const std::int64_t columns = w_.columns();
    for (std::int32_t b = 0; b < d_.blocks; ++b) {
      const std::int64_t block_begin = static_cast<std::int64_t>(b) * block_columns_;
      const std::int64_t block_end = std::min<std::int64_t>(
          block_begin + block_columns_, static_cast<std::int64_t>(offset_.size()));
      for (std::int32_t row = first; row < last; row += o_.block_rows) {
        const std::int64_t base = row / per_group * columns;  // the group's columns
        const std::int64_t begin = std::max(block_begin, base),
                           end = std::min(block_end, base + columns);
        if (begin >= end) continue;
        Span span;
        span.offsets = static_cast<std::uint32_t>(begin);
        span.values =
            static_cast<std::uint32_t>(d_.values.size() / static_cast<std::size_t>(o_.block_rows));
        span.count = static_cast<std::uint32_t>(end - begin);
        span.row = row;
        span.flags = (begin == base ? kFirst : 0) | (end == base + columns ? kLast : 0);
        d_.spans.push_back(span);
        for (std::int64_t c = begin; c < end; ++c) {
          for (std::int32_t r = 0; r < o_.block_rows; ++r) {
            const bool inside = row + r < w_.shape.out_channels;
            d_.values.push_back(
                inside ? w_.values[static_cast<std::size_t>((row + r) * columns + (c - base))]
                       : 0.0f);
          }
        }
      }
      end_list();
    }
  }

  const WeightsImpl& w_;
  const std::vector<std::int32_t>& offset_;
  TileDataOptions o_;
  TileData& d_;
  std::int64_t block_columns_ = 0;
};

}  // namespace

bool build_tile_data(const WeightsImpl& weights, const std::vector<std::int32_t>& column_offset,
                     const TileDataOptions& options, TileData* data) {
  if (weights.stored() + weights.columns() * weights.shape.groups >= INT32_MAX) return false;
  Build(weights, column_offset, options, data).run();
  return true;
}

}  // namespace onnxprune::kernels
