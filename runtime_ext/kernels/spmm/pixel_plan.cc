#include "pixel_plan.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "../phases.h"

namespace onnxprune::kernels {
namespace {

// Runs of zeros by the tile whose last pixels of a row lie before them, so that their lines are in the
// caches; those before all pixels go with the first tile.
std::vector<std::vector<FloatRun>> borders_by_tile(
    const PlaneLayout& out, const std::vector<std::vector<ScatterRun>>& scatter) {
  std::vector<std::pair<std::int64_t, std::size_t>> ends;  // of runs of pixels in the plane, and the tile
  for (std::size_t tile = 0; tile < scatter.size(); ++tile) {
    for (const ScatterRun& run : scatter[tile]) {
      ends.emplace_back(run.to + run.pixels, tile);
      if (run.others > 0) ends.emplace_back(run.other + run.others, tile);
    }
  }
  std::sort(ends.begin(), ends.end());
  std::vector<std::vector<FloatRun>> borders(scatter.size());
  for (const FloatRun& run : border_runs(out)) {
    const auto before = std::lower_bound(ends.begin(), ends.end(), std::make_pair(run.begin, std::size_t{0}));
    const bool found = before != ends.end() && before->first == run.begin;
    borders[found ? before->second : 0].push_back(run);
  }
  return borders;
}

}  // namespace

std::vector<Tile> cut_pixels(std::int64_t pixels, int width, const TileCut& cut) {
  const std::int64_t step = static_cast<std::int64_t>(width) * cut.unit;
  const std::int64_t units = (pixels + step - 1) / step;
  std::int64_t count = (units * cut.unit + cut.most - 1) / cut.most;
  if (cut.threads > 1 && units * cut.unit >= static_cast<std::int64_t>(cut.threads) * cut.least) {
    // Much shorter tiles would cost more than threads that share rows instead (`shares_rows`).
    const std::int64_t even = (count + cut.threads - 1) / cut.threads * cut.threads;
    if (8 * (even - count) <= count || units * cut.unit >= even * cut.even) count = even;
  }
  std::vector<Tile> tiles;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t begin = units * i / count * cut.unit,
                       end = units * (i + 1) / count * cut.unit;
    if (end > begin) tiles.push_back({begin * width, static_cast<int>(end - begin), false});
  }
  return tiles;
}

PixelPlan::PixelPlan(const PlanRequest& request) : PlanBase(request) {
  rows_ = request.weights.shape.out_channels;
  direct_ = flat_compatible(request.weights.shape, in_, out_);
  clamp_ = clamp_of(epilogue_);
  bias_ = padded_bias(request.weights);
  factor_ = padded_factor(request);
  info_.flat = direct_;
}

void PixelPlan::cut(int width, const TileCut& how) {
  width_ = width;
  tiles_ = cut_pixels(flat_pixels(out_.height, out_.width, in_.pitch), width, how);
  mask_.clear();
  if (direct_) mask_ = pixel_mask(out_.height, out_.width, in_.pitch, width);
  const Tile& last = tiles_.back();
  const auto vectors = static_cast<std::size_t>(last.q / width + last.vectors);
  if (direct_ && (!mask_.empty() || static_cast<std::int64_t>(vectors) * width >
                                        flat_pixels(out_.height, out_.width, in_.pitch))) {
    if (mask_.empty())
      mask_.assign(
          static_cast<std::size_t>(flat_pixels(out_.height, out_.width, in_.pitch) / width),
          static_cast<std::uint16_t>((1u << width) - 1u));
    mask_.resize(vectors, 0);
  }
  widen_mask();
  longest_ = 1;
  for (const Tile& tile : tiles_) longest_ = std::max(longest_, tile.vectors);
  scatter_.clear();
  borders_.clear();
  if (direct_) return;
  for (const Tile& tile : tiles_) {
    scatter_.push_back(scatter_runs(out_, in_.pitch, tile.q,
                                    static_cast<std::int64_t>(tile.vectors) * width));
  }
  borders_ = borders_by_tile(out_, scatter_);
}

// AVX2 has no lane masks: eight floats of all ones or zeros a vector.
void PixelPlan::widen_mask() {
  wide_mask_.assign(width_ == 8 ? mask_.size() * 8 : 0, 0.0f);
  for (std::size_t i = 0; i < wide_mask_.size(); ++i) {
    const std::uint32_t bits = mask_[i / 8] >> (i % 8) & 1 ? 0xffffffffu : 0u;
    std::memcpy(&wide_mask_[i], &bits, sizeof bits);
  }
}

// Threads take tiles, or parts of tiles, from the same end as before: in a chain of convolutions each
// then works on what it wrote itself, and few lines have to be taken from another's cache. Parts let
// them share evenly, whatever the number of tiles, and help each other out in the end.
std::int32_t PixelPlan::wanted_parts(std::int32_t threads, std::int32_t block_rows) const {
  if (threads <= 1) return 1;
  constexpr std::int32_t kItems = 8;  // for each thread
  const auto tiles = static_cast<std::int32_t>(std::min<std::size_t>(tiles_.size(), 1 << 20));
  const std::int32_t unit = shares_rows(threads) ? threads : 1;  // to each thread as many of a tile
  const auto multiple = [unit](std::int32_t parts) { return std::max(unit, parts / unit * unit); };
  const std::int32_t most = (rows_ + block_rows - 1) / block_rows;
  return std::min(multiple(std::min((kItems * threads + tiles - 1) / tiles, most)), std::max(1, rows_));
}

void PixelPlan::place_rows(std::vector<std::int32_t> rows) {
  for (std::vector<float>* list : {&bias_, &factor_}) {
    if (list->empty()) continue;
    std::vector<float> placed(list->size(), 0.0f);
    for (std::size_t i = 0; i < rows.size(); ++i) placed[i] = (*list)[static_cast<std::size_t>(rows[i])];
    *list = std::move(placed);
  }
  // What comes after passes over the rows of a part: in place, one after the other in memory.
  for (std::int32_t p = 0; p < parts() && direct_; ++p)
    std::sort(rows.begin() + part_rows_[p], rows.begin() + part_rows_[p + 1]);
  if (!std::is_sorted(rows.begin(), rows.end())) placed_ = std::move(rows);
}

std::int64_t PixelPlan::bytes_per_channel(const ConvGeometry& g) const {
  // Each distinct (phase, row) it reads, or the whole plane when that is less.
  std::vector<std::int64_t> rows;
  for (const std::int64_t offset : tap_offsets(g, in_))
    rows.push_back(offset / std::max(in_.pitch, 1));
  std::sort(rows.begin(), rows.end());
  const std::int64_t distinct = std::unique(rows.begin(), rows.end()) - rows.begin();
  const std::int64_t run = tile_floats() * 4 + (g.taps() > 1 ? 64 : 0);
  return std::max<std::int64_t>(1, std::min(distinct * run, in_.plane_stride * 4));
}

bool PixelPlan::packing_pays(const WeightsImpl& w) const {
  // Packed, every tap has its own copy, so fewer columns fit the cache; measured, this pays only
  // for images of a few vectors with many uses of every input (7 x 7 with 512 channels at 90 %
  // zeros), and not on processors that split vectors (Zen 4: 13 % slower).
  const double uses =
      static_cast<double>(w.nnz()) / (static_cast<double>(w.columns()) * w.shape.groups);
  return !wide_is_split() && w.shape.groups == 1 && w.shape.taps() > 1 && longest_ <= 4 && tiles_.size() == 1 &&
         uses >= 40.0;
}

std::int64_t PixelPlan::exact_columns(const WeightsImpl& w) {
  constexpr double kChain = 256;
  const double kept = static_cast<double>(w.nnz()) / std::max(1.0, static_cast<double>(w.rows()));
  return static_cast<std::int64_t>(kChain * static_cast<double>(w.columns()) / std::max(1.0, kept));
}

bool PixelPlan::plan_input(const ConvGeometry& g, std::int64_t budget, std::int64_t most_columns,
                           bool packed, bool by_vector) {
  std::vector<std::int32_t> absolute;
  if (!column_offsets(g, in_, &absolute)) return false;
  const auto columns = static_cast<std::int64_t>(absolute.size());
  Input& in = input_;
  in.packed = packed;
  const std::int64_t vector_bytes = static_cast<std::int64_t>(width_) * 4;
  if (packed) {
    const std::int64_t fit = std::max<std::int64_t>(
        std::min(budget / (longest_ * vector_bytes), most_columns), 32);
    const std::int64_t blocks = (columns + fit - 1) / fit;
    in.block_columns = (columns + blocks - 1) / blocks;
  } else {
    const std::int64_t fit = std::max<std::int64_t>(
        std::min(budget / bytes_per_channel(g), most_columns / g.taps()), 8);
    const std::int64_t blocks = g.groups > 1 ? 1 : (g.in_channels + fit - 1) / fit;
    in.block_columns = (g.in_channels + blocks - 1) / blocks * g.taps();
  }
  in.blocks = static_cast<std::int32_t>((columns + in.block_columns - 1) / in.block_columns);
  in.column_stride = by_vector ? width_ : tile_floats();
  in.vector_stride = by_vector ? in.block_columns * width_ : width_;
  in.offset.resize(absolute.size());
  std::int64_t most = 0;
  bool lines = true;
  for (std::int64_t first = 0; first < columns; first += in.block_columns) {
    const std::int64_t last = std::min(columns, first + in.block_columns);
    // Bases are whole lines, so that the alignment of every offset is that of its address.
    const std::int64_t base =
        packed
            ? 0
            : *std::min_element(absolute.begin() + first, absolute.begin() + last) / kLane * kLane;
    if (!packed) in.base.push_back(base);
    for (std::int64_t c = first; c < last; ++c) {
      const std::int64_t offset =
          packed ? (c - first) * in.column_stride : absolute[static_cast<std::size_t>(c)] - base;
      in.offset[static_cast<std::size_t>(c)] = static_cast<std::int32_t>(offset);
      most = std::max(most, offset);
      lines = lines && offset % kLane == 0;
    }
  }
  in.narrow = lines && most / kLane <= 0xffff;
  if (packed) in.source = std::move(absolute);
  return true;
}

const float* PixelPlan::block_input(std::int32_t b, const float* tile_input, const Tile& tile,
                                    float* area) const {
  if (!input_.packed) return tile_input + input_.base[static_cast<std::size_t>(b)];
  const std::int64_t first = b * input_.block_columns;
  const std::int64_t last = std::min<std::int64_t>(first + input_.block_columns,
                                                   static_cast<std::int64_t>(input_.source.size()));
  ops_.pack(tile_input, input_.source.data() + first, last - first, tile.vectors, area,
            input_.column_stride, input_.vector_stride);
  return area;
}

std::int64_t PixelPlan::packed_floats() const {
  return input_.packed ? input_.block_columns * tile_floats() : 0;
}

std::int64_t PixelPlan::shared_bytes() const {
  return static_cast<std::int64_t>((bias_.capacity() + factor_.capacity()) * 4 + mask_.capacity() * 2 +
                                   wide_mask_.capacity() * 4 +
                                   tiles_.capacity() * sizeof(Tile) + part_rows_.capacity() * 4 +
                                   placed_.capacity() * 4 +
                                   input_.base.capacity() * 8 +
                                   (input_.offset.capacity() + input_.source.capacity()) * 4);
}

std::int64_t PixelPlan::work_items(std::int32_t images) const {
  return static_cast<std::int64_t>(images) * parts() * static_cast<std::int64_t>(tiles_.size());
}

std::size_t PixelPlan::scratch_bytes() const {
  const std::size_t packed = static_cast<std::size_t>(packed_floats()) * sizeof(float);
  if (direct_) return packed;
  std::int32_t most = 0;
  for (std::int32_t p = 0; p < parts(); ++p)
    most = std::max(most, part_rows_[p + 1] - part_rows_[p]);
  return packed + static_cast<std::size_t>(most + 1) * scratch_stride() *
                      sizeof(float);  // one more for a residual
}

void PixelPlan::run(const RunArgs& args, std::int64_t first, std::int64_t last,
                    void* scratch) const {
  const auto tiles = static_cast<std::int64_t>(tiles_.size());
  const auto part_of = [&](std::int64_t item) {
    return static_cast<std::int32_t>(tile_first_ ? item % parts() : item / tiles % parts());
  };
  if (first < last) prepare(part_of(first));
  for (std::int64_t item = first; item < last; ++item) {
    const auto tile = static_cast<std::size_t>(tile_first_ ? item / parts() % tiles : item % tiles);
    const std::int32_t part = part_of(item);
    const std::int64_t image = item / tiles / parts();
    RunArgs one = args;
    one.in += image * args.in_image_stride;
    one.out += image * args.out_image_stride;
    one.residual = args.residual == nullptr || epilogue_.residual == Residual::none
                       ? nullptr
                       : args.residual + image * args.out_image_stride;
    auto* const area = static_cast<float*>(scratch);
    if (direct_) {
      run_direct(one, part, tile, area);
    } else {
      run_scattered(one, part, tile, area, area + packed_floats());
    }
  }
}

void PixelPlan::run_direct(const RunArgs& args, std::int32_t part, std::size_t index,
                           float* area) const {
  const Tile& tile = tiles_[index];
  TileJob job;
  job.in = args.in + tile.q;
  job.out = args.out + out_.lead + tile.q;
  job.out_stride = out_.plane_stride;
  const std::uint16_t* const mask = mask_.empty() ? nullptr : mask_.data() + tile.q / width_;
  job.lanes = wide_mask_.empty() ? static_cast<const void*>(mask) : wide_mask_.data() + tile.q;
  const float* residual = args.residual == nullptr ? nullptr : args.residual + out_.lead + tile.q;
  if (clamp_.enough) {
    job.residual = residual;
    job.residual_after = epilogue_.residual == Residual::after_activation;
    job.low = clamp_.low;
    job.high = clamp_.high;
    job.rounds = clamp_.rounds;
  } else {
    job.low = -std::numeric_limits<float>::infinity();
    job.high = std::numeric_limits<float>::infinity();
  }
  multiply(&job, part, tile, area);
  const std::int32_t first = part_rows_[part], last = part_rows_[part + 1];
  const std::int64_t count = static_cast<std::int64_t>(tile.vectors) * width_;
  if (!clamp_.enough) {
    for (std::int64_t place = first; place < last; ++place) {
      const std::int64_t r = row_at(place);
      const float* add = residual == nullptr ? nullptr : residual + r * out_.plane_stride;
      ops_.finish(epilogue_, job.out + r * out_.plane_stride, add, mask, count);
    }
  }
  if (index == 0) zero_rows(args.out, first, last, 0, out_.lead);
  if (index + 1 == tiles_.size())
    zero_rows(args.out, first, last, out_.lead + tile.q + count - (tile.half ? width_ / 2 : 0),
              out_.plane_stride);
}

void PixelPlan::zero_rows(float* out, std::int64_t first, std::int64_t last, std::int64_t begin,
                          std::int64_t end) const {
  if (begin >= end) return;
  for (std::int64_t place = first; place < last; ++place) {
    std::memset(out + row_at(place) * out_.plane_stride + begin, 0,
                static_cast<std::size_t>(end - begin) * sizeof(float));
  }
}

void PixelPlan::run_scattered(const RunArgs& args, std::int32_t part, std::size_t index,
                              float* area, float* scratch) const {
  const Tile& tile = tiles_[index];
  const std::int64_t stride = scratch_stride(),
                     count = static_cast<std::int64_t>(tile.vectors) * width_;
  const std::int32_t first = part_rows_[part], last = part_rows_[part + 1];
  float* const added = scratch + (last - first) * stride;
  TileJob job;
  job.in = args.in + tile.q;
  job.out = scratch - first * stride;  // place `first` lies at the start of the scratch
  job.out_stride = stride;
  job.low = clamps() ? clamp_.low : -std::numeric_limits<float>::infinity();
  job.high = clamps() ? clamp_.high : std::numeric_limits<float>::infinity();
  job.rounds = clamps() && clamp_.rounds;
  multiply(&job, part, tile, area);
  const std::vector<ScatterRun>& runs = scatter_[index];
  for (std::int64_t place = first; place < last; ++place) {
    const std::int64_t r = row_at(place);
    float* row = scratch + (place - first) * stride;
    float* plane = args.out + r * out_.plane_stride;
    if (args.residual != nullptr)
      scatter_load(runs, args.residual + r * out_.plane_stride, added, count);
    if (!clamps())
      ops_.finish(epilogue_, row, args.residual == nullptr ? nullptr : added, nullptr, count);
    zero_runs(borders_[index], plane);
  }
  // Rows that follow each other, all at once.
  for (std::int64_t place = first, end; place < last; place = end) {
    for (end = place + 1; end < last && row_at(end) == row_at(end - 1) + 1; ++end) {}
    ops_.scatter(runs.data(), static_cast<std::int64_t>(runs.size()),
                 scratch + (place - first) * stride, stride,
                 args.out + row_at(place) * out_.plane_stride, out_.plane_stride, end - place);
  }
}

}  // namespace onnxprune::kernels
