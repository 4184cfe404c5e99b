// Plans made of tile kernels: sparse (or dense) matrix times flat pixel vectors.
#include <algorithm>
#include <cmath>

#include "../dispatch.h"
#include "data.h"
#include "pixel_plan.h"

namespace onnxprune::kernels {
namespace {

// Rows whose tiles wait in scratch at once when the output cannot be stored in place.
constexpr std::int32_t kScratchRows = 64;

class TilePlan final : public PixelPlan {
 public:
  explicit TilePlan(const PlanRequest& request) : PixelPlan(request) {}

  Status build(const PlanRequest& request, const KernelRecord& kernel) {
    const ConvGeometry& g = request.weights.shape;
    set_ = kernel.tiles();
    const int asked = request.tuning.max_vectors;
    TileCut how;
    how.most = asked > 0 ? std::min(asked, set_.max_vectors) : set_.max_vectors;
    how.least = std::min(set_.max_vectors, 6);
    how.threads = request.options.threads;
    cut(set_.width, how);
    Tile& last = tiles_.back();
    const std::int64_t left = flat_pixels(out_.height, out_.width, in_.pitch) - last.q -
                              static_cast<std::int64_t>(last.vectors - 1) * set_.width;
    last.half = wide_is_split() && 2 * left <= set_.width && set_.wide_half[last.vectors - 1] != nullptr;
    // So much input that what a tile reads of it stays in cache while all rows pass over it.
    const Tuning& tuning = request.tuning;
    const bool packed =
        tuning.pack < 0 ? packing_pays(request.weights) : tuning.pack > 0 && g.groups == 1;
    const std::int64_t budget = tuning.input_budget != 0
                                    ? tuning.input_budget
                                    : input_budget(request, kernel.family, packed);
    const bool fits = plan_input(g, budget, exact_columns(request.weights), packed, false);
    TileDataOptions options;
    options.family = kernel.family;
    options.block_rows = set_.block_rows;
    const std::int32_t threads = request.options.threads;
    // What is packed is packed again for every part.
    options.parts = packed ? (shares_rows(threads) ? threads : 1) : wanted_parts(threads, 4 * set_.block_rows);
    // Scattered rows wait in scratch.
    if (!direct_) options.parts = std::max(options.parts, (rows_ + kScratchRows - 1) / kScratchRows);
    // Few rows a group share no input, so a few planes at a time are walked to their end; sums of many
    // rows are to stay in the caches.
    const std::int32_t together =
        g.out_channels / g.groups < 4 && tiles_.size() >= 8 ? (g.out_channels + 3) / 4 : cached_parts(g);
    tile_first_ = !direct_ || together <= 1;
    options.parts = std::max(options.parts, together);
    options.block_columns = static_cast<std::int32_t>(input_.block_columns);
    options.narrow = input_.narrow;
    if (!fits || !build_tile_data(request.weights, input_.offset, options, &data_)) {
      return failure(Code::unsupported, "plan: more than 2^31 floats or weights in one image");
    }
    input_.offset = {};
    part_rows_ = data_.part_rows;
    claim_ = tuning.claim >= 0 ? tuning.claim > 0 : large_output(g);
    info_.kernel = kernel.entry.name;
    info_.bytes = static_cast<std::int64_t>(sizeof *this) + shared_bytes() + data_.bytes();
    return {};
  }

 protected:
  void multiply(TileJob* job, std::int32_t part, const Tile& tile, float* area) const override {
    const float* const tile_input = job->in;
    const TileFn run = (tile.half ? input_.narrow ? set_.narrow_half : set_.wide_half
                        : input_.narrow ? set_.narrow : set_.wide)[tile.vectors - 1];
    job->bias = bias_.data();
    job->factor = factor_.empty() ? nullptr : factor_.data();
    job->wide = data_.wide.data();
    job->narrow = data_.narrow.data();
    job->values = data_.values.data();
    job->rows = rows_;
    job->claim = claim_;
    job->capped = std::isfinite(job->high);
    for (std::int32_t b = 0; b < data_.blocks; ++b) {
      const auto list = static_cast<std::size_t>(part) * data_.blocks + b;
      const std::int64_t begin = data_.list_begin[list];
      job->spans = data_.spans.data() + begin;
      job->span_count = data_.list_begin[list + 1] - begin;
      job->patterns = data_.patterns.data() + (data_.patterns.empty() ? 0 : begin * 15);
      if (job->span_count == 0) continue;
      job->in = block_input(b, tile_input, tile, area);
      run(*job);
    }
  }

 private:
  // Parts so small that the sums of one stay in the second-level cache from one column block to the
  // next and to the activation, where that does not cost reading much input more often.
  std::int32_t cached_parts(const ConvGeometry& g) const {
    const std::int64_t share = cache_sizes().l2 / 2;
    const std::int64_t sums = static_cast<std::int64_t>(rows_) * tile_floats() * 4;
    if (!direct_ || bytes_per_channel(g) * g.in_channels > share) return 1;
    return static_cast<std::int32_t>(std::min<std::int64_t>((sums + share - 1) / share, 16));
  }

  // Bytes of input per column block. The first-level cache is best unless rows are so sparse that
  // sums would be loaded and stored for a handful of weights each.
  std::int64_t input_budget(const PlanRequest& request, Family family, bool packed) const {
    const WeightsImpl& w = request.weights;
    const CacheSizes caches = cache_sizes();
    const std::int64_t first = caches.l1_data * 3 / 4;
    if (packed) return first;
    if (family == Family::block) {
      // Where two multiply-adds start every cycle, inputs of several taps want to be in few pages and
      // near (measured on Emerald Rapids: 10 to 20 %); elsewhere the second-level cache is near enough.
      const bool near = w.shape.taps() > 1 && request.options.isa == Isa::avx512 && !wide_is_split();
      return near ? 2 * caches.l1_data : caches.l2 / 2;
    }
    const double density =
        std::max(1e-4, static_cast<double>(w.nnz()) /
                           (static_cast<double>(w.columns()) * static_cast<double>(w.rows())));
    if (family == Family::rows4) return density >= 0.4 ? first : 2 * first;
    const double columns = 16.0 / density;  // sixteen weights a row and block
    const double per_column = static_cast<double>(bytes_per_channel(w.shape)) / w.shape.taps();
    return std::max(first, static_cast<std::int64_t>(
                               std::min(columns * per_column, static_cast<double>(caches.l2) / 3)));
  }

  TileSet set_;
  TileData data_;
  bool claim_ = false;
};

}  // namespace

Status make_tile_plan(const PlanRequest& request, std::size_t kernel, PlanPtr* plan) {
  auto made = std::make_unique<TilePlan>(request);
  const Status status = made->build(request, kernel_record(kernel));
  if (status.ok()) *plan = std::move(made);
  return status;
}

}  // namespace onnxprune::kernels
