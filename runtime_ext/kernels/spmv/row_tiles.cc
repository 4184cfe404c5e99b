#include "row_tiles.h"

#include <algorithm>
#include <cmath>

#include "../ops/table.h"
#include "../weights_impl.h"

namespace onnxprune::kernels {
namespace {

constexpr int kRows = RowTiles::kRows, kColumns = RowTiles::kColumns;

// Measured on Emerald Rapids, cycles: of a tile, and of a slot alone and where several vectors share it.
constexpr double kTileCycles = 3.0;
// What a change of length costs.
constexpr double kRunCycles = 20.0;
double slot_cycles(Isa isa, double batch) {
  const double alone = isa == Isa::avx512 ? 2.0 : isa == Isa::avx2 ? 10.0 : 24.0;
  const double shared = isa == Isa::avx512 ? 1.4 : isa == Isa::avx2 ? 9.0 : 24.0;
  return batch >= 4 ? shared : batch >= 2 ? (alone + shared) / 2 : alone;
}

double block_count(double columns) { return std::ceil(columns / kColumns); }

// The weights of one group of rows, as the lists of each tile.
class Group {
 public:
  explicit Group(RowTiles* tiles)
      : tiles_(*tiles), blocks_(static_cast<std::size_t>(tiles->padded_columns() / kColumns)), lists_(blocks_ * kRows) {}

  void add(std::int64_t lane, std::uint32_t column, float value) {
    lists_[column / kColumns * kRows + static_cast<std::size_t>(lane)].push_back(
        {static_cast<std::uint8_t>(column % kColumns), value});
  }

  void finish() {
    std::vector<std::pair<std::size_t, std::size_t>> order;  // longest list, block
    for (std::size_t block = 0; block < blocks_; ++block) {
      std::size_t longest = 0;
      for (int i = 0; i < kRows; ++i) longest = std::max(longest, list(block, i).size());
      if (longest > 0) order.emplace_back(longest, block);
    }
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    for (const std::size_t tiles : run_lengths(order)) {
      const std::size_t first = done_;
      tiles_.runs.push_back({static_cast<std::uint16_t>(order[first].first), static_cast<std::uint16_t>(tiles)});
      for (; done_ < first + tiles; ++done_) write(order[done_].second, order[first].first);
    }
    done_ = 0;
    for (List& l : lists_) l.clear();
    tiles_.begin.push_back({static_cast<std::int64_t>(tiles_.values.size()),
                            static_cast<std::int64_t>(tiles_.blocks.size()),
                            static_cast<std::int64_t>(tiles_.runs.size())});
  }

 private:
  struct Kept {
    std::uint8_t place;
    float value;
  };
  using List = std::vector<Kept>;
  const List& list(std::size_t block, int lane) const { return lists_[block * kRows + static_cast<std::size_t>(lane)]; }

  // How many tiles of falling length make up each run, so that filling up and changing cost least (a
  // shortest path over the ends of runs).
  static std::vector<std::size_t> run_lengths(const std::vector<std::pair<std::size_t, std::size_t>>& order) {
    const std::size_t count = order.size();
    std::vector<double> cost(count + 1, 0.0);
    std::vector<std::size_t> from(count + 1, 0);
    for (std::size_t end = 1; end <= count; ++end) {
      for (std::size_t begin = 0; begin < end; ++begin) {
        const double all = cost[begin] + kRunCycles + 2.0 * static_cast<double>((end - begin) * order[begin].first);
        if (begin > 0 && all >= cost[end]) continue;
        cost[end] = all;
        from[end] = begin;
      }
    }
    std::vector<std::size_t> lengths;
    for (std::size_t end = count; end > 0; end = from[end]) lengths.insert(lengths.begin(), end - from[end]);
    return lengths;
  }

  void write(std::size_t block, std::size_t slots) {
    tiles_.blocks.push_back(static_cast<std::uint16_t>(block));
    for (std::size_t slot = 0; slot < slots; ++slot) {
      tiles_.values.emplace_back();
      for (int i = 0; i < kRows; ++i) {
        const List& l = list(block, i);
        const bool there = slot < l.size();
        tiles_.places.push_back(there ? l[slot].place : 0);
        tiles_.values.back().values[i] = there ? l[slot].value : 0.0f;
      }
    }
  }

  RowTiles& tiles_;
  std::size_t blocks_, done_ = 0;
  std::vector<List> lists_;  // [block][row]
};

}  // namespace

std::int64_t RowTiles::bytes() const {
  return static_cast<std::int64_t>(sizeof *this + begin.capacity() * sizeof(Begin) + runs.capacity() * sizeof(TileRun) +
                                   blocks.capacity() * 2 + values.capacity() * sizeof(Slot) + places.capacity());
}

RowTiles make_row_tiles(const Weights& weights, std::int64_t first, std::int64_t last,
                        std::int64_t section) {
  const auto& w = static_cast<const WeightsImpl&>(weights);
  const std::int64_t padded = (section + kRows - 1) / kRows * kRows;
  RowTiles tiles;
  tiles.columns = static_cast<std::int32_t>(w.columns());
  tiles.rows = static_cast<std::int32_t>((last - first + section - 1) / section * padded);
  tiles.begin.push_back({});
  Group group(&tiles);
  for (std::int64_t r = first; r < last; ++r) {
    const std::int64_t at = (r - first) % section;
    w.for_each_in_row(r, [&](std::uint32_t column, float value) { group.add(at % kRows, column, value); });
    if (at % kRows == kRows - 1 || at == section - 1 || r == last - 1) group.finish();
  }
  tiles.values.shrink_to_fit();
  tiles.places.shrink_to_fit();
  return tiles;
}

void tile_products(const OpsTable& ops, const RowTiles& tiles, std::int64_t first,
                   std::int64_t last, const float* x, std::int64_t x_stride, std::int64_t batch,
                   float* y, std::int64_t y_stride) {
  for (std::int64_t g = first; g < last; ++g) {
    const RowTiles::Begin &begin = tiles.begin[static_cast<std::size_t>(g)], &end = tiles.begin[static_cast<std::size_t>(g) + 1];
    TileGroup group;
    group.runs = tiles.runs.data() + begin.run;
    group.run_count = end.run - begin.run;
    group.blocks = tiles.blocks.data() + begin.tile;
    if (begin.slot == end.slot) group.run_count = 0;  // nothing to point to
    else group.values = tiles.values[static_cast<std::size_t>(begin.slot)].values;
    group.places = tiles.places.data() + begin.slot * kRows;
    ops.tile_group(group, x, x_stride, batch, y + (g - first) * kRows, y_stride);
  }
}

void exact_tile_products(const RowTiles& t, std::int64_t first, std::int64_t last, const float* x,
                         float* y) {
  for (std::int64_t g = first; g < last; ++g) {
    float* out = y + (g - first) * kRows;
    std::fill(out, out + kRows, 0.0f);
    const RowTiles::Begin& begin = t.begin[static_cast<std::size_t>(g)];
    std::int64_t slot = begin.slot, tile = begin.tile;
    for (std::int64_t run = begin.run; run < t.begin[static_cast<std::size_t>(g) + 1].run; ++run) {
      const TileRun r = t.runs[static_cast<std::size_t>(run)];
      for (const std::int64_t end = tile + r.tiles; tile < end; ++tile) {
        const std::int64_t column = std::int64_t{t.blocks[static_cast<std::size_t>(tile)]} * kColumns;
        for (const std::int64_t behind = slot + r.slots; slot < behind; ++slot) {
          for (int i = 0; i < kRows; ++i) {
            const float value = t.values[static_cast<std::size_t>(slot)].values[i];
            if (value != 0.0f)
              out[i] += value * x[column + t.places[static_cast<std::size_t>(slot * kRows + i)]];
          }
        }
      }
    }
  }
}

double row_tiles_slots(double rows, double columns, double density, int n, int m, int block_rows) {
  // The longest of the lists of a group, which are as good as normal: the largest of so many of them lies
  // so many deviations above the middle (to some per cent, from tables of order statistics). A run takes
  // about eight tiles.
  const double lists = static_cast<double>(kRows / std::max(1, std::min(block_rows, kRows))) *
                       std::min(8.0, block_count(columns));
  const double above = lists <= 1 ? 0.0 : std::sqrt(2.0 * std::log(lists)) - 0.45;
  const double across = std::min<double>(columns, kColumns);
  double slots = across * density + above * std::sqrt(across * density * (1.0 - density));
  if (m > 0) slots = std::min(slots, across * n / m);
  return std::ceil(rows / kRows) * block_count(columns) * std::min(slots, across);
}

double row_tiles_cycles(double rows, double columns, double density, int n, int m, int block_rows,
                        double batch, Isa isa) {
  const double groups = std::ceil(rows / kRows), blocks = block_count(columns);
  return groups * (kRunCycles * std::ceil(blocks / 8.0) + kTileCycles * blocks) +
         slot_cycles(isa, batch) * row_tiles_slots(rows, columns, density, n, m, block_rows);
}

double row_tiles_cycles(const RowTiles& t, double batch, Isa isa) {
  return kRunCycles * static_cast<double>(t.runs.size()) + kTileCycles * static_cast<double>(t.tiles()) +
         slot_cycles(isa, batch) * static_cast<double>(t.slots());
}

}  // namespace onnxprune::kernels
