// Plans made of tile kernels: sparse (or dense) matrix times flat pixel vectors.
#include <algorithm>

#include "../dispatch.h"
#include "data.h"
#include "pixel_plan.h"

namespace onnxprune::kernels {
namespace {

class TilePlan final : public PixelPlan {
 public:
  explicit TilePlan(const PlanRequest& request) : PixelPlan(request) {}

  Status build(const PlanRequest& request, const KernelRecord& kernel) {
    const ConvGeometry& g = request.weights.shape;
    set_ = kernel.tiles();
    const int asked = request.tuning.max_vectors;
    cut(set_.width, asked > 0 ? std::min(asked, set_.max_vectors) : set_.max_vectors, 1);
    TileDataOptions options;
    options.family = kernel.family;
    options.block_rows = set_.block_rows;
    options.parts = wanted_parts(request.options.threads, set_.block_rows);
    // So many input channels that what a tile reads of them stays in cache while all rows pass over it.
    const CacheSizes caches = cache_sizes();
    std::int64_t budget = request.tuning.input_budget;
    if (budget == 0) budget = kernel.family == Family::csr ? caches.l1_data * 3 / 4 : caches.l2 / 2;
    options.channels_per_block = channels_for(g, bytes_per_channel(g, longest_), budget);
    std::vector<std::int32_t> offsets;
    if (!column_offsets(g, in_, &offsets) || !build_tile_data(request.weights, offsets, options, &data_)) {
      return failure(Code::unsupported, "plan: more than 2^31 floats or weights in one image");
    }
    part_rows_ = data_.part_rows;
    info_.kernel = kernel.entry.name;
    info_.bytes = static_cast<std::int64_t>(sizeof *this) + shared_bytes() + data_.bytes();
    return {};
  }

 protected:
  void multiply(TileJob* job, std::int32_t part, const Tile& tile) const override {
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
      set_.run[tile.vectors - 1](*job);
    }
  }

 private:
  TileSet set_;
  TileData data_;
};

}  // namespace

Status make_tile_plan(const PlanRequest& request, std::size_t kernel, PlanPtr* plan) {
  auto made = std::make_unique<TilePlan>(request);
  const Status status = made->build(request, kernel_record(kernel));
  if (status.ok()) *plan = std::move(made);
  return status;
}

}  // namespace onnxprune::kernels
