// Plans made of generated column kernels.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../dispatch.h"
#include "../spmm/pixel_plan.h"
#include "column_code.h"

namespace onnxprune::kernels {
namespace {

class ColumnPlan final : public PixelPlan {
 public:
  explicit ColumnPlan(const PlanRequest& request) : PixelPlan(request) {}

  Status build(const PlanRequest& request, const KernelRecord& kernel) {
    const ConvGeometry& g = request.weights.shape;
    ColumnShape shape = choose_shape(request);
    const int width = shape.wide ? 16 : 8;
    cut(width, tile_cut(request, shape));
    // Whole groups of vectors may reach past the pixels; they must stay inside the plane.
    const std::int64_t end =
        tiles_.back().q + static_cast<std::int64_t>(tiles_.back().vectors) * width;
    if (direct_ && out_.lead + end > out_.plane_stride) {
      shape.pixels = 1;
      cut(width, tile_cut(request, shape));
    }
    const Tuning& tuning = request.tuning;
    const bool packed = tuning.pack > 0 && g.groups == 1;  // did not pay on any layer tried
    const std::int64_t budget =
        tuning.input_budget != 0 ? tuning.input_budget : input_budget(request, shape, packed);
    if (!plan_input(g, budget, exact_columns(request.weights), packed, true))
      return failure(Code::unsupported, "plan: more than 2^31 floats in one image");
    shape.block_columns = input_.block_columns;
    shape.shift = shape.wide && shape.pixels == 1 && !packed && g.kernel_w > 1 && tuning.shift;
    shape.input_step = packed ? input_.vector_stride : width;
    ColumnEpilogue epilogue;
    epilogue.low = clamps() && std::isfinite(clamp_.low);
    epilogue.high = clamps() && std::isfinite(clamp_.high);
    epilogue.rounds = clamps() && clamp_.rounds;
    if (!factor_.empty()) epilogue.factor = static_cast<std::int32_t>(bias_.size());
    if (direct_) {
      epilogue.masked = !mask_.empty();
      epilogue.residual = clamp_.enough && epilogue_.residual != Residual::none;
      epilogue.residual_after = epilogue_.residual == Residual::after_activation;
    }
    // Scattered rows wait in scratch: a group of them at a time, as high as the registers allow.
    const std::int32_t height = std::min(shape.rows, column_rows_limit(shape));
    // Every part brings each column block near again, which is to serve several groups.
    std::int32_t row_parts =
        wanted_parts(request.options.threads, input_.blocks > 1 ? 4 * height : height);
    if (!direct_) row_parts = std::max(row_parts, (rows_ + height - 1) / height);
    shape.threads = shares_rows(request.options.threads) ? request.options.threads : 1;
    shape.alike = tuning.alike;
    shape.by_place = !direct_;
    shape.row_parts = direct_ ? shape.threads : row_parts;
    shape.iterations = tuning.fetch ? (longest_ + shape.pixels - 1) / shape.pixels : 0;
    shape.fetch_second =
        tuning.fetch_second >= 0 ? tuning.fetch_second > 0 : shape.wide && !wide_is_split();
    shape.claim = tuning.fetch && (tuning.claim >= 0 ? tuning.claim > 0 : large_output(g));
    const Status status =
        generate_columns(request.weights, input_.offset, shape, epilogue, out_stride(), &code_);
    if (!status.ok()) return status;
    input_.offset = {};
    pixels_ = shape.pixels;
    const std::int32_t parts = std::min(row_parts, code_.groups());
    for (std::int32_t p = 0; p <= parts; ++p) {
      part_groups_.push_back(
          static_cast<std::int32_t>(static_cast<std::int64_t>(code_.groups()) * p / parts));
      part_rows_.push_back(code_.order.begin[static_cast<std::size_t>(part_groups_.back())]);
    }
    place_rows(std::move(code_.order.rows));
    bias_.insert(bias_.end(), factor_.begin(), factor_.end());
    factor_ = {};
    info_.kernel = kernel.entry.name;
    info_.code_bytes = static_cast<std::int64_t>(code_.code_bytes);
    info_.bytes = static_cast<std::int64_t>(
                      sizeof *this + code_.memory.size() +
                      code_.pieces.capacity() * sizeof(ColumnPiece) +
                      (code_.base.capacity() + code_.order.begin.capacity()) * 4) +
                  shared_bytes();
    return {};
  }

 protected:
  // The first function has nobody before it that would fetch it.
  void prepare(std::int32_t part) const override {
    const ColumnPiece& first = code_.pieces[static_cast<std::size_t>(part_groups_[part])];
    for (std::uint32_t at = first.code; at < first.end; at += 64)
      __builtin_prefetch(code_.memory.data() + at, 0, 2);
  }

  void multiply(TileJob* job, std::int32_t part, const Tile& tile, float* area) const override {
    const float limits[2] = {job->low, job->high};
    ColumnArgs args;
    args.count = tile.vectors / pixels_;
    args.mask = job->lanes;
    args.limits = limits;
    const std::int32_t groups = code_.groups(), begin = part_groups_[part], end = part_groups_[part + 1];
    const auto following = static_cast<std::size_t>(end % groups);  // of the next part for this tile
    for (std::int32_t b = 0; b < code_.blocks; ++b) {
      args.in = block_input(b, job->in, tile, area);
      const ColumnPiece* const pieces = code_.pieces.data() + static_cast<std::size_t>(b) * groups;
      for (std::int32_t g = begin; g < end; ++g) {
        const ColumnPiece& piece = pieces[g];
        if (piece.code == kNoCode) continue;
        const ColumnPiece& next = g + 1 < end            ? pieces[g + 1]
                                  : b + 1 < code_.blocks ? pieces[groups + begin]
                                                         : code_.pieces[following];
        const std::int64_t row = code_.base[static_cast<std::size_t>(g)];
        args.weights = code_.weights(piece);
        args.next = code_.memory.data() + (next.code == kNoCode ? piece.end : next.code);
        args.out = job->out + row * job->out_stride;
        args.residual = job->residual == nullptr ? nullptr : job->residual + row * job->out_stride;
        args.bias = bias_.data() + code_.order.begin[static_cast<std::size_t>(g)];
        code_.function(piece)(&args);
      }
    }
  }

 private:
  static ColumnShape choose_shape(const PlanRequest& request) {
    ColumnShape shape;
    shape.wide = request.options.isa == Isa::avx512;
    shape.pixels = std::clamp(request.tuning.pixels, 1, 4);  // the slack of buffers covers four
    shape.embedded = shape.wide && request.tuning.embedded;
    shape.rows = request.tuning.rows > 0 ? request.tuning.rows : 64;
    return shape;
  }

  // Code runs once through per tile and loops over its vectors: long tiles fetch it seldom.
  static TileCut tile_cut(const PlanRequest& request, const ColumnShape& shape) {
    TileCut how;
    const int wanted = request.tuning.max_vectors > 0 ? request.tuning.max_vectors : 16;
    how.unit = shape.pixels;
    how.most = (wanted + shape.pixels - 1) / shape.pixels * shape.pixels;
    how.least = 6;
    // Code is fetched from afar once a tile, so that short ones cost time: less than lines do that come
    // from another's cache, unless windows make much code of few inputs.
    if (request.weights.shape.taps() == 1) how.even = 7;
    how.threads = request.options.threads;
    return how;
  }

  // Bytes of input per column block. One pass over an input vector serves all weights of its
  // column, so that the second-level cache is fast enough for 1x1 windows. Larger ones read every
  // line for several taps and want the first, as long as sums are not loaded and stored for too few
  // weights.
  std::int64_t input_budget(const PlanRequest& request, const ColumnShape& shape, bool packed) const {
    const WeightsImpl& w = request.weights;
    const CacheSizes caches = cache_sizes();
    const std::int64_t first = caches.l1_data * 17 / 20, second = caches.l2 * 7 / 20;
    if (packed) return first;
    const double density =
        std::max(1e-4, static_cast<double>(w.nnz()) /
                           (static_cast<double>(w.columns()) * static_cast<double>(w.rows())));
    const double per_column = static_cast<double>(bytes_per_channel(w.shape)) / w.shape.taps();
    std::int64_t budget = second;
    if (w.shape.taps() > 1)
      budget = std::clamp(static_cast<std::int64_t>(25.0 / density * per_column), first,
                          std::max(first, second));
    if (!shape.wide || wide_is_split()) return budget;
    // Two multiply-adds a cycle outrun what brings code and input. A function that stays in the
    // nearest caches for all vectors of a tile is fetched at 16 bytes a cycle, any other at 11; inputs
    // want to be in few pages, and of short tiles, whose functions do not run often, in the first
    // cache (measured on Emerald Rapids: 10 to 45 % of the time of layers of ResNet-50 and BERT).
    constexpr double kFunction = 16 << 10;  // bytes of code
    constexpr std::int64_t kInput = 256 << 10;
    const std::int32_t height = std::min({shape.rows, column_rows_limit(shape), rows_});
    const double code = 8.0 + 7.0 * height * density;  // bytes a column
    return std::min({budget, longest_ <= 6 ? first * 4 / 5 : kInput,
                     static_cast<std::int64_t>(kFunction / code * per_column)});
  }

  ColumnCode code_;
  std::vector<std::int32_t> part_groups_;
  int pixels_ = 1;
};

}  // namespace

Status make_column_plan(const PlanRequest& request, std::size_t kernel, PlanPtr* plan) {
  auto made = std::make_unique<ColumnPlan>(request);
  const Status status = made->build(request, kernel_record(kernel));
  if (status.ok()) *plan = std::move(made);
  return status;
}

}  // namespace onnxprune::kernels
