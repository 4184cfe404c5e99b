// What all plans over flat pixel vectors share: tiles of pixels, parts of rows, in-place or
// scattered output, masks, borders, and activations that the kernels cannot fuse.
#pragma once

#include <vector>

#include "../phases.h"
#include "../plan_impl.h"
#include "scatter.h"
#include "tile.h"

namespace onnxprune::kernels {

struct Tile {
  std::int64_t q = 0;  // first pixel
  int vectors = 0;
  bool half = false;  // only the first half of the last vector is computed
};

// How pixels are cut into tiles: at most `most` vectors each, multiples of `unit`; their number a
// multiple of `threads` where that leaves each at least `least` vectors and not much fewer than it
// would have otherwise, or at least `even`.
struct TileCut {
  int most = 1, unit = 1, least = 1, even = kMaxVectors, threads = 1;
};
std::vector<Tile> cut_pixels(std::int64_t pixels, int width, const TileCut& cut);

class PixelPlan : public PlanBase {
 public:
  std::int64_t work_items(std::int32_t images) const override;
  bool residual_in_place() const override {
    return direct_ && clamp_.enough && epilogue_.residual == Residual::before_activation;
  }
  std::size_t scratch_bytes() const override;
  void run(const RunArgs& args, std::int64_t first, std::int64_t last,
           void* scratch) const override;

 protected:
  explicit PixelPlan(const PlanRequest& request);
  // Cuts the pixels into tiles. Called first by a derived `build`.
  void cut(int width, const TileCut& how);
  std::int32_t parts() const { return static_cast<std::int32_t>(part_rows_.size()) - 1; }
  // Whether threads share the rows of a tile, as there are too few tiles to go round.
  bool shares_rows(std::int32_t threads) const {
    return static_cast<std::int64_t>(tiles_.size()) < 2 * static_cast<std::int64_t>(threads);
  }
  // Into how many parts rows are cut for threads to share, at heights of `block_rows`.
  std::int32_t wanted_parts(std::int32_t threads, std::int32_t block_rows) const;
  std::int64_t tile_floats() const { return static_cast<std::int64_t>(longest_) * width_; }
  // Whether kernels apply the clamp themselves; if not, a pass over their sums does all of it.
  bool clamps() const {
    return clamp_.enough && (direct_ || epilogue_.residual == Residual::none);
  }
  // Floats from row to row of what `multiply` writes.
  std::int64_t out_stride() const { return direct_ ? out_.plane_stride : scratch_stride(); }
  // ... in scratch: an odd number of lines, as for planes, so that rows fall on different sets.
  std::int64_t scratch_stride() const {
    const std::int64_t lines = (tile_floats() + kLane - 1) / kLane;
    return (lines + 1 - lines % 2) * kLane;
  }
  // Whether the output is stored in place and too large to be in the caches already.
  bool large_output(const ConvGeometry& geometry) const {
    return direct_ && 4 * out_.image_floats(geometry.out_channels) > cache_sizes().l2;
  }
  // Bytes of input that a tile touches in one channel.
  std::int64_t bytes_per_channel(const ConvGeometry& geometry) const;
  std::int64_t shared_bytes() const;

  // How kernels see the input: in blocks of columns, in place or packed. Packing copies what a tile
  // reads of a block, column by column, next to each other: every load is then aligned and in the
  // first-level cache, for the price of one copy per column and tile.
  struct Input {
    bool packed = false;
    bool narrow = false;             // `offset` holds whole lines, fewer than 2^16 per block
    std::int64_t block_columns = 0;  // columns in a block
    std::int32_t blocks = 1;
    std::vector<std::int32_t> offset;  // of each column from the block's base, floats
    std::vector<std::int64_t> base;    // in place: of each block from the tile's first pixel
    std::vector<std::int32_t> source;  // packed: of each column from the tile's first pixel
    std::int64_t column_stride = 0, vector_stride = 0;  // packed: floats
  };
  // `budget` bytes of input per block and tile, and at most about `most` columns; `by_vector`: packed
  // [vector][column] instead of [column][vector]. False when an offset does not fit 31 bits.
  bool plan_input(const ConvGeometry& geometry, std::int64_t budget, std::int64_t most, bool packed,
                  bool by_vector);
  // Columns in which a row keeps some 256 weights, for `plan_input`: longer chains of additions lose
  // digits that the CPU provider, which adds in short ones, has.
  static std::int64_t exact_columns(const WeightsImpl& weights);
  // Whether packing pays: every packed vector is used for enough multiply-adds.
  bool packing_pays(const WeightsImpl& weights) const;
  // Where block `b` of the tile begins, packing it into `area` first if need be.
  const float* block_input(std::int32_t b, const float* tile_input, const Tile& tile,
                           float* area) const;

  // `rows[i]` is computed at place i. Output in place is stored by row, to be scattered by place.
  void place_rows(std::vector<std::int32_t> rows);
  std::int64_t row_at(std::int64_t place) const {
    return placed_.empty() ? place : placed_[static_cast<std::size_t>(place)];
  }

  // Called before the first item of a run: what that needs may be fetched into the caches.
  virtual void prepare(std::int32_t) const {}
  // The whole sum of the part's rows over one tile, with the clamp and residual of the job. `area`:
  // room for a packed block.
  virtual void multiply(TileJob* job, std::int32_t part, const Tile& tile, float* area) const = 0;

  Input input_;

  std::vector<Tile> tiles_;
  std::vector<std::uint16_t> mask_;      // empty: all pixels of all tiles are real
  std::vector<float> wide_mask_;         // the same for vectors of eight: a float of bits a lane
  // Rows are computed at places; `part_rows_` are parts + 1 boundaries of places, set by the derived
  // `build`. The row at place i is row i unless `place_rows` said otherwise.
  std::vector<std::int32_t> part_rows_;
  std::vector<float> bias_, factor_;  // by place; factors may be missing
  Clamp clamp_;
  std::int32_t rows_ = 0;
  int width_ = 1, longest_ = 1;
  bool direct_ = true;
  bool tile_first_ = true;  // all parts pass over a tile before the next one; else all tiles over a part

 private:
  std::vector<std::int32_t> placed_;  // rows by place; empty where they are the same
  std::int64_t packed_floats() const;
  void run_direct(const RunArgs& args, std::int32_t part, std::size_t index, float* area) const;
  void run_scattered(const RunArgs& args, std::int32_t part, std::size_t index, float* area,
                     float* scratch) const;
  void widen_mask();
  void zero_rows(float* out, std::int64_t first, std::int64_t last, std::int64_t begin,
                 std::int64_t end) const;
  std::vector<std::vector<ScatterRun>> scatter_;  // of each tile, when not direct
  std::vector<std::vector<FloatRun>> borders_;    // what is not a pixel, by tile, when not direct
};

}  // namespace onnxprune::kernels
