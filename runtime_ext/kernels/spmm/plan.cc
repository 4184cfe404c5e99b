// Plans made of tile kernels: sparse (or dense) matrix times flat pixel vectors.
#include <algorithm>
#include <cstring>
#include <limits>

#include "../dispatch.h"
#include "../phases.h"
#include "../plan_impl.h"
#include "data.h"
#include "scatter.h"

namespace onnxprune::kernels {
namespace {

// Rows whose tiles wait in scratch at once when the output cannot be stored in place.
constexpr std::int32_t kScratchRows = 64;

struct Tile {
  std::int64_t q = 0;  // first pixel
  int vectors = 0;
};

// Equal tiles of at most `most` vectors.
std::vector<Tile> cut_pixels(std::int64_t pixels, int width, int most) {
  const std::int64_t vectors = (pixels + width - 1) / width;
  const std::int64_t count = (vectors + most - 1) / most;
  std::vector<Tile> tiles;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t begin = vectors * i / count, end = vectors * (i + 1) / count;
    tiles.push_back({begin * width, static_cast<int>(end - begin)});
  }
  return tiles;
}

class TilePlan final : public PlanBase {
 public:
  explicit TilePlan(const PlanRequest& request) : PlanBase(request) {}

  Status build(const PlanRequest& request, const KernelRecord& kernel) {
    const ConvGeometry& g = request.weights.shape;
    set_ = kernel.tiles();
    rows_ = g.out_channels;
    direct_ = flat_compatible(g, in_, out_);
    clamp_ = clamp_of(epilogue_);
    scatter_ = Scatter(out_, in_.pitch);
    const int most = request.tuning.max_vectors > 0 ? std::min(request.tuning.max_vectors, set_.max_vectors)
                                                    : set_.max_vectors;
    tiles_ = cut_pixels(flat_pixels(out_.height, out_.width, in_.pitch), set_.width, most);
    if (direct_) mask_ = pixel_mask(out_.height, out_.width, in_.pitch, set_.width);
    for (const Tile& tile : tiles_) longest_ = std::max(longest_, tile.vectors);

    TileDataOptions options;
    options.family = kernel.family;
    options.block_rows = set_.block_rows;
    options.parts = wanted_parts(request.options.threads);
    options.channels_per_block = channels_per_block(g, kernel.family, request.tuning);
    std::vector<std::int32_t> offsets;
    if (!column_offsets(g, in_, &offsets) || !build_tile_data(request.weights, offsets, options, &data_)) {
      return failure(Code::unsupported, "plan: more than 2^31 floats or weights in one image");
    }
    bias_ = padded_bias(request.weights);
    info_.kernel = kernel.entry.name;
    info_.flat = direct_;
    info_.bytes = static_cast<std::int64_t>(sizeof *this + bias_.capacity() * 4 + mask_.capacity() * 2 +
                                            tiles_.capacity() * sizeof(Tile)) + data_.bytes();
    return {};
  }

  std::int64_t work_items(std::int32_t images) const override {
    return static_cast<std::int64_t>(images) * data_.parts() * static_cast<std::int64_t>(tiles_.size());
  }

  std::size_t scratch_bytes() const override {
    if (direct_) return 0;  // one row more, for a gathered residual
    return static_cast<std::size_t>(most_part_rows() + 1) * tile_floats() * sizeof(float);
  }

  void run(const RunArgs& args, std::int64_t first, std::int64_t last, void* scratch) const override {
    const auto tiles = static_cast<std::int64_t>(tiles_.size());
    for (std::int64_t item = first; item < last; ++item) {
      const std::int64_t tile = item % tiles, part = item / tiles % data_.parts();
      const std::int64_t image = item / tiles / data_.parts();
      RunArgs one = args;
      one.in += image * args.in_image_stride;
      one.out += image * args.out_image_stride;
      if (one.residual != nullptr) one.residual += image * args.out_image_stride;
      if (epilogue_.residual == Residual::none) one.residual = nullptr;
      if (direct_) {
        run_direct(one, static_cast<std::int32_t>(part), static_cast<std::size_t>(tile));
      } else {
        run_scattered(one, static_cast<std::int32_t>(part), static_cast<std::size_t>(tile), static_cast<float*>(scratch));
      }
    }
  }

 private:
  std::int32_t wanted_parts(std::int32_t threads) const {
    const auto tiles = static_cast<std::int32_t>(std::min<std::size_t>(tiles_.size(), 1 << 20));
    std::int32_t parts = 1;
    if (threads > 1 && tiles < 4 * threads) parts = (4 * threads + tiles - 1) / std::max(tiles, 1);
    if (!direct_) parts = std::max(parts, (rows_ + kScratchRows - 1) / kScratchRows);
    return std::max(1, std::min(parts, (rows_ + set_.block_rows - 1) / set_.block_rows));
  }

  // So many input channels that what a tile reads of them stays in the first-level cache while all
  // rows pass over it.
  std::int32_t channels_per_block(const ConvGeometry& g, Family family, const Tuning& tuning) const {
    if (g.groups > 1) return 0;
    const CacheSizes caches = cache_sizes();
    std::int64_t budget = tuning.input_budget;
    if (budget == 0) budget = family == Family::csr ? caches.l1_data * 3 / 4 : caches.l2 / 2;
    // Lines a tile touches in one channel: each distinct (phase, row) it reads, or the whole plane.
    std::vector<std::int64_t> rows;
    for (const std::int64_t offset : tap_offsets(g, in_)) rows.push_back(offset / std::max(in_.pitch, 1));
    std::sort(rows.begin(), rows.end());
    const std::int64_t distinct = std::unique(rows.begin(), rows.end()) - rows.begin();
    const std::int64_t run = static_cast<std::int64_t>(longest_) * set_.width * 4;
    const std::int64_t per_channel = std::min<std::int64_t>(distinct * (run + (g.taps() > 1 ? 64 : 0)), in_.plane_stride * 4);
    const std::int64_t fit = std::max<std::int64_t>(budget / std::max<std::int64_t>(per_channel, 1), 8);
    if (fit >= g.in_channels) return 0;
    const std::int64_t blocks = (g.in_channels + fit - 1) / fit;
    return static_cast<std::int32_t>((g.in_channels + blocks - 1) / blocks);
  }

  std::int64_t tile_floats() const { return static_cast<std::int64_t>(longest_) * set_.width; }
  std::int32_t most_part_rows() const {
    std::int32_t most = 0;
    for (std::int32_t p = 0; p < data_.parts(); ++p) most = std::max(most, data_.part_rows[p + 1] - data_.part_rows[p]);
    return most;
  }

  void multiply(TileJob* job, std::int32_t part, int vectors) const {
    job->bias = bias_.data();
    job->offsets = data_.offsets.data();
    job->values = data_.values.data();
    job->rows = rows_;
    for (std::int32_t b = 0; b < data_.blocks; ++b) {
      const auto list = static_cast<std::size_t>(part) * data_.blocks + b;
      const std::int64_t begin = data_.list_begin[list];
      job->spans = data_.spans.data() + begin;
      job->span_count = data_.list_begin[list + 1] - begin;
      job->patterns = data_.patterns.data() + (data_.patterns.empty() ? 0 : begin * 15);
      set_.run[vectors - 1](*job);
    }
  }

  void run_direct(const RunArgs& args, std::int32_t part, std::size_t index) const {
    const Tile& tile = tiles_[index];
    TileJob job;
    job.in = args.in + tile.q;
    job.out = args.out + out_.lead + tile.q;
    job.out_stride = out_.plane_stride;
    job.mask = mask_.empty() ? nullptr : mask_.data() + tile.q / set_.width;
    const float* residual = args.residual == nullptr ? nullptr : args.residual + out_.lead + tile.q;
    if (clamp_.enough) {
      job.residual = residual;
      job.residual_after = epilogue_.residual == Residual::after_activation;
      job.low = clamp_.low;
      job.high = clamp_.high;
    } else {
      job.low = -std::numeric_limits<float>::infinity();
      job.high = std::numeric_limits<float>::infinity();
    }
    multiply(&job, part, tile.vectors);
    const std::int32_t first = data_.part_rows[part], last = data_.part_rows[part + 1];
    if (!clamp_.enough) {
      for (std::int64_t r = first; r < last; ++r) {
        const float* add = residual == nullptr ? nullptr : residual + r * out_.plane_stride;
        ops_.finish(epilogue_, job.out + r * out_.plane_stride, add, job.mask,
                    static_cast<std::int64_t>(tile.vectors) * set_.width);
      }
    }
    if (index == 0) zero_rows(args.out, first, last, 0, out_.lead);
    if (index + 1 == tiles_.size()) {
      const std::int64_t end = out_.lead + tile.q + static_cast<std::int64_t>(tile.vectors) * set_.width;
      zero_rows(args.out, first, last, end, out_.plane_stride);
    }
  }

  void zero_rows(float* out, std::int64_t first, std::int64_t last, std::int64_t begin, std::int64_t end) const {
    if (begin >= end) return;
    for (std::int64_t r = first; r < last; ++r) {
      std::memset(out + r * out_.plane_stride + begin, 0, static_cast<std::size_t>(end - begin) * sizeof(float));
    }
  }

  void run_scattered(const RunArgs& args, std::int32_t part, std::size_t index, float* scratch) const {
    const Tile& tile = tiles_[index];
    const std::int64_t stride = tile_floats(), count = static_cast<std::int64_t>(tile.vectors) * set_.width;
    const std::int32_t first = data_.part_rows[part], last = data_.part_rows[part + 1];
    float* const added = scratch + (last - first) * stride;
    TileJob job;
    job.in = args.in + tile.q;
    job.out = scratch - first * stride;  // row `first` lies at the start of the scratch
    job.out_stride = stride;
    job.low = -std::numeric_limits<float>::infinity();
    job.high = std::numeric_limits<float>::infinity();
    multiply(&job, part, tile.vectors);
    for (std::int64_t r = first; r < last; ++r) {
      float* row = scratch + (r - first) * stride;
      float* plane = args.out + r * out_.plane_stride;
      if (args.residual != nullptr) scatter_.load(tile.q, count, args.residual + r * out_.plane_stride, added);
      ops_.finish(epilogue_, row, args.residual == nullptr ? nullptr : added, nullptr, count);
      scatter_.store(tile.q, count, row, plane);
      if (index == 0) zero_around(out_, plane);
    }
  }

  TileSet set_;
  TileData data_;
  std::vector<Tile> tiles_;
  std::vector<std::uint16_t> mask_;
  std::vector<float> bias_;
  Scatter scatter_;
  Clamp clamp_;
  std::int32_t rows_ = 0;
  int longest_ = 1;
  bool direct_ = true;
};

}  // namespace

Status make_tile_plan(const PlanRequest& request, std::size_t kernel, PlanPtr* plan) {
  auto made = std::make_unique<TilePlan>(request);
  const Status status = made->build(request, kernel_record(kernel));
  if (status.ok()) *plan = std::move(made);
  return status;
}

}  // namespace onnxprune::kernels
