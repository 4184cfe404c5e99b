#include "row_tiles.h"

#include <algorithm>
#include <cmath>

#include "../ops/table.h"
#include "../weights_impl.h"

namespace onnxprune::kernels {
namespace {

constexpr int kRows = RowTiles::kRows, kColumns = RowTiles::kColumns;

// Measured on Emerald Rapids: what a tile costs, and a slot, alone and where several vectors share it.
constexpr double kTileCycles = 3.0;
double slot_cycles(Isa isa, double batch) {
  const double alone = isa == Isa::avx512 ? 2.8 : isa == Isa::avx2 ? 12.0 : 24.0;
  const double shared = isa == Isa::avx512 ? 1.7 : isa == Isa::avx2 ? 9.0 : 24.0;
  return batch >= 4 ? shared : batch >= 2 ? (alone + shared) / 2 : alone;
}

double tile_count(double rows, double columns) {
  return std::ceil(rows / kRows) * std::ceil(columns / kColumns);
}

// The weights of one group of rows, as the lists of each tile.
class Group {
 public:
  explicit Group(RowTiles* tiles) : tiles_(*tiles), lists_(static_cast<std::size_t>(tiles->blocks() * kRows)) {}

  void add(std::int64_t lane, std::uint32_t column, float value) {
    lists_[column / kColumns * kRows + static_cast<std::size_t>(lane)].push_back(
        {static_cast<std::uint8_t>(column % kColumns), value});
  }

  void finish() {
    for (std::int64_t block = 0; block < tiles_.blocks(); ++block) {
      List* lists = lists_.data() + block * kRows;
      std::size_t longest = 0;
      for (int i = 0; i < kRows; ++i) longest = std::max(longest, lists[i].size());
      tiles_.slots.push_back(static_cast<std::uint8_t>(longest));
      for (std::size_t slot = 0; slot < longest; ++slot) {
        for (int i = 0; i < kRows; ++i) {
          const bool there = slot < lists[i].size();
          tiles_.places.push_back(there ? lists[i][slot].place : 0);
          tiles_.values.push_back(there ? lists[i][slot].value : 0.0f);
        }
      }
      for (int i = 0; i < kRows; ++i) lists[i].clear();
    }
    tiles_.begin.push_back(static_cast<std::int64_t>(tiles_.values.size()) / kRows);
  }

 private:
  struct Kept {
    std::uint8_t place;
    float value;
  };
  using List = std::vector<Kept>;
  RowTiles& tiles_;
  std::vector<List> lists_;  // [block][row]
};

bool all_finite(const OpsTable& ops, const float* x, std::int64_t x_stride, std::int64_t batch,
                std::int64_t count) {
  for (std::int64_t b = 0; b < batch; ++b)
    if (!ops.finite(x + b * x_stride, count)) return false;
  return true;
}

// Where the vector holds infinities, the zeros that fill up the lists must be left out.
void exact_products(const RowTiles& t, std::int64_t first, std::int64_t last, const float* x,
                    std::int64_t x_stride, std::int64_t batch, float* y, std::int64_t y_stride) {
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t g = first; g < last; ++g) {
      float* out = y + b * y_stride + (g - first) * kRows;
      std::fill(out, out + kRows, 0.0f);
      std::int64_t slot = t.begin[static_cast<std::size_t>(g)];
      for (std::int64_t block = 0; block < t.blocks(); ++block) {
        const std::int64_t end = slot + t.slots[static_cast<std::size_t>(g * t.blocks() + block)];
        for (; slot < end; ++slot) {
          for (int i = 0; i < kRows; ++i) {
            const auto at = static_cast<std::size_t>(slot * kRows + i);
            if (t.values[at] != 0.0f)
              out[i] += t.values[at] * x[b * x_stride + block * kColumns + t.places[at]];
          }
        }
      }
    }
  }
}

}  // namespace

std::int64_t RowTiles::bytes() const {
  return static_cast<std::int64_t>(sizeof *this + begin.capacity() * 8 + slots.capacity() +
                                   values.capacity() * 4 + places.capacity());
}

RowTiles make_row_tiles(const Weights& weights, std::int64_t first, std::int64_t last,
                        std::int64_t section) {
  const auto& w = static_cast<const WeightsImpl&>(weights);
  const std::int64_t padded = (section + kRows - 1) / kRows * kRows;
  RowTiles tiles;
  tiles.columns = static_cast<std::int32_t>(w.columns());
  tiles.rows = static_cast<std::int32_t>((last - first + section - 1) / section * padded);
  tiles.begin.push_back(0);
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
  if (!all_finite(ops, x, x_stride, batch, tiles.columns))
    return exact_products(tiles, first, last, x, x_stride, batch, y, y_stride);
  for (std::int64_t g = first; g < last; ++g) {
    TileGroup group;
    group.blocks = tiles.blocks();
    group.slots = tiles.slots.data() + g * group.blocks;
    const std::int64_t begin = tiles.begin[static_cast<std::size_t>(g)];
    group.values = tiles.values.data() + begin * kRows;
    group.places = tiles.places.data() + begin * kRows;
    ops.tile_group(group, x, x_stride, batch, y + (g - first) * kRows, y_stride);
  }
}

double row_tiles_slots(double rows, double columns, double density, int n, int m, int block_rows) {
  // The longest of the lists of a tile, which are as good as normal: the largest of 16, 8, 4, 2, 1 of them
  // lies so many deviations above the middle.
  const int lists = RowTiles::kRows / std::max(1, std::min(block_rows, RowTiles::kRows));
  const double above = lists >= 16 ? 1.77 : lists >= 8 ? 1.42 : lists >= 4 ? 1.03 : lists >= 2 ? 0.56 : 0.0;
  const double across = std::min<double>(columns, RowTiles::kColumns);
  double slots = across * density + above * std::sqrt(across * density * (1.0 - density));
  if (m > 0) slots = std::min(slots, across * n / m);
  return tile_count(rows, columns) * std::min(slots, across);
}

double row_tiles_cycles(double rows, double columns, double density, int n, int m, int block_rows,
                        double batch, Isa isa) {
  return kTileCycles * tile_count(rows, columns) +
         slot_cycles(isa, batch) * row_tiles_slots(rows, columns, density, n, m, block_rows);
}

double row_tiles_cycles(const RowTiles& tiles, double batch, Isa isa) {
  return kTileCycles * static_cast<double>(tiles.slots.size()) +
         slot_cycles(isa, batch) * static_cast<double>(tiles.begin.back());
}

}  // namespace onnxprune::kernels
