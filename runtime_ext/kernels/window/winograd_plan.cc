// Plans of dense convolutions by Winograd's minimal filtering, see ops/winograd.h: strip by strip of
// tile rows, the input is transformed once for all output channels. A convolution of stride 2 is the
// sum of four of stride 1, one for each phase of its input, with a quarter of the taps each.
//
// Infinite inputs give NaN where a plain sum would give infinity: differences of inputs are taken.
#include <algorithm>
#include <limits>

#include "../dispatch.h"
#include "../phases.h"
#include "../plan_impl.h"
#include "winograd.h"

namespace onnxprune::kernels {

int winograd_points(const ConvGeometry& g) {
  if (g.groups != 1 || g.kernel_h != g.kernel_w || g.stride_h != g.stride_w || g.stride_h > 2 ||
      g.dilation_h != 1 || g.dilation_w != 1)
    return 0;
  const std::int32_t taps = (g.kernel_h + g.stride_h - 1) / g.stride_h;
  return taps == 3 ? 4 : taps == 4 ? 6 : 0;
}

std::int64_t winograd_inputs(const ConvGeometry& g) {
  return static_cast<std::int64_t>(g.in_channels) * g.stride_h * g.stride_w;
}

namespace {

constexpr std::int64_t kStripTiles = 128;  // their transformed input stays in the second-level cache

// G of both sets of points.
constexpr double kG4[4][4] = {{1, 0, 0, 0}, {0.5, 0.5, 0.5, 0}, {0.5, -0.5, 0.5, 0}, {0, 0, 1, 0}};
constexpr double kG6[6][4] = {{0.5, 0, 0, 0},
                              {1.0 / 6, 1.0 / 6, 1.0 / 6, 1.0 / 6},
                              {1.0 / 6, -1.0 / 6, 1.0 / 6, -1.0 / 6},
                              {1.0 / 30, 1.0 / 15, 2.0 / 15, 4.0 / 15},
                              {16.0 / 15, -8.0 / 15, 4.0 / 15, -2.0 / 15},
                              {0, 0, 0, 0.5}};

constexpr std::int32_t floor_div(std::int32_t a, std::int32_t b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

// The taps of one direction that fall on a phase, in order: the first one's place in the phase, and
// its index in the window; the others follow at every `stride`.
struct PhaseTaps {
  std::int32_t start = 0, first = 0, count = 0;
};
PhaseTaps phase_taps(std::int32_t phase, std::int32_t kernel, std::int32_t stride, std::int32_t pad) {
  PhaseTaps taps;
  for (std::int32_t k = kernel - 1; k >= 0; --k) {
    const std::int32_t at = floor_div(k - pad, stride);
    if (k - pad - at * stride != phase) continue;
    taps.start = at;
    taps.first = k;
    ++taps.count;
  }
  return taps;
}

class WinogradPlan final : public PlanBase {
 public:
  explicit WinogradPlan(const PlanRequest& request)
      : PlanBase(request),
        shape_(request.weights.shape),
        clamp_(clamp_of(epilogue_)),
        bias_(padded_bias(request.weights)),
        borders_(border_runs(out_)),
        points_(winograd_points(shape_)),
        outputs_(points_ / 2) {}

  Status build(const PlanRequest& request, const KernelRecord& kernel) {
    if (points_ == 0 || !out_.plain())
      return failure(Code::unsupported, "plan: no tiles of this convolution");
    fused_ = clamp_.enough && epilogue_.residual == Residual::none;
    if (!fused_) {
      clamp_.low = -std::numeric_limits<float>::infinity();
      clamp_.high = std::numeric_limits<float>::infinity();
    }
    const std::int64_t half = ops_.width / 2;
    const auto tiles = [&](std::int64_t pixels) { return (pixels + outputs_ - 1) / outputs_; };
    tile_rows_ = tiles(out_.height);
    tiles_ = (tiles(out_.width) + half - 1) / half * half;  // a half vector never leaves its row
    strip_rows_ = std::max<std::int64_t>(1, kStripTiles / tiles_);
    if (strip_rows_ > 1) strip_rows_ = strip_rows_ / 2 * 2;  // whole vectors
    strip_rows_ = std::min<std::int64_t>(strip_rows_, tile_rows_);
    strips_ = (tile_rows_ + strip_rows_ - 1) / strip_rows_;
    const std::int64_t threads = request.options.threads;  // which share strips evenly
    if (strips_ >= 2 * threads) strips_ = std::min((strips_ + threads - 1) / threads * threads, tile_rows_);
    const std::int64_t vectors = (strip_rows_ * tiles_ + ops_.width - 1) / ops_.width;
    stride_ = (vectors * ops_.width + kLane - 1) / kLane * kLane;
    if (stride_ / kLane % 2 == 0) stride_ += kLane;
    transform_weights(request.weights);
    info_.kernel = kernel.entry.name;
    info_.bytes = static_cast<std::int64_t>(
        sizeof *this + (weights_.capacity() + bias_.capacity()) * sizeof(float) +
        borders_.capacity() * sizeof(FloatRun) + planes_.capacity() * sizeof(Plane));
    return {};
  }

  std::int64_t work_items(std::int32_t images) const override { return images * strips_; }

  std::size_t scratch_bytes() const override {
    return static_cast<std::size_t>(points_ * points_ * inputs() * stride_) * sizeof(float);
  }

  void run(const RunArgs& args, std::int64_t first, std::int64_t last,
           void* scratch) const override {
    for (std::int64_t item = first; item < last; ++item) {
      const std::int64_t image = item / strips_;
      const std::int64_t to = image * args.out_image_stride;
      const bool added = args.residual != nullptr && epilogue_.residual != Residual::none;
      strip(item % strips_, args.in + image * args.in_image_stride, args.out + to,
            added ? args.residual + to : nullptr, static_cast<float*>(scratch));
    }
  }

 private:
  // A phase of an input channel: from the channel's plane to the input of its first tap.
  struct Plane {
    std::int64_t first = 0, end = 0;
  };

  std::int64_t inputs() const { return static_cast<std::int64_t>(planes_.size()) * shape_.in_channels; }

  // [outputs / n][point row][input][point column][n], the products of G with the taps of each phase.
  void transform_weights(const WeightsImpl& weights) {
    std::vector<float> dense(static_cast<std::size_t>(weights.rows() * weights.columns()));
    weights.to_dense(dense.data());
    std::vector<PhaseTaps> down, across;
    for (std::int32_t py = 0; py < shape_.stride_h; ++py) {
      for (std::int32_t px = 0; px < shape_.stride_w; ++px) {
        const PhaseTaps y = phase_taps(py, shape_.kernel_h, shape_.stride_h, shape_.pad_top);
        const PhaseTaps x = phase_taps(px, shape_.kernel_w, shape_.stride_w, shape_.pad_left);
        if (y.count == 0 || x.count == 0) continue;
        const std::int64_t base =
            in_.phase_slot(py * shape_.stride_w + px) * in_.phase_stride;
        planes_.push_back({base + in_.lead + y.start * std::int64_t{in_.pitch} + x.start,
                           base + in_.phase_stride});
        down.push_back(y);
        across.push_back(x);
      }
    }
    const auto g = [&](int point, int tap) {
      return points_ == 4 ? kG4[point][tap] : kG6[point][tap];
    };
    const std::int64_t n = ops_.winograd_outputs(points_), rows = (shape_.out_channels + n - 1) / n * n;
    bias_.resize(std::max(bias_.size(), static_cast<std::size_t>(rows)), 0.0f);
    weights_.assign(static_cast<std::size_t>(rows * points_ * points_ * inputs()), 0.0f);
    for (std::int64_t o = 0; o < shape_.out_channels; ++o) {
      for (std::int64_t input = 0; input < inputs(); ++input) {
        const auto phases = static_cast<std::int64_t>(planes_.size());
        const PhaseTaps &y = down[static_cast<std::size_t>(input % phases)],
                        &x = across[static_cast<std::size_t>(input % phases)];
        const float* w = dense.data() + (o * shape_.in_channels + input / phases) * shape_.taps();
        for (int i = 0; i < points_; ++i) {
          for (int j = 0; j < points_; ++j) {
            double sum = 0.0;
            for (int a = 0; a < y.count; ++a) {
              for (int b = 0; b < x.count; ++b) {
                sum += g(i, a) * g(j, b) *
                       w[(y.first + a * shape_.stride_h) * shape_.kernel_w + x.first +
                         b * shape_.stride_w];
              }
            }
            const std::int64_t at =
                (((o / n * points_ + i) * inputs() + input) * points_ + j) * n + o % n;
            weights_[static_cast<std::size_t>(at)] = static_cast<float>(sum);
          }
        }
      }
    }
  }

  void strip(std::int64_t index, const float* in, float* out, const float* residual,
             float* scratch) const {
    const std::int64_t begin = tile_rows_ * index / strips_,
                       end = tile_rows_ * (index + 1) / strips_;
    const auto phases = static_cast<std::int64_t>(planes_.size());
    for (std::int64_t input = 0; input < inputs(); ++input) {
      const Plane& plane = planes_[static_cast<std::size_t>(input % phases)];
      const float* channel = in + input / phases * in_.plane_stride;
      WinogradInput job;
      job.end = channel + plane.end;
      job.pitch = in_.pitch;
      job.tiles = tiles_;
      job.out_stride = inputs() * stride_;
      for (std::int64_t ty = begin; ty < end; ++ty) {
        job.in = channel + plane.first + outputs_ * ty * in_.pitch;
        job.out = scratch + input * stride_ + (ty - begin) * tiles_;
        ops_.winograd_input(points_, job);
      }
    }
    WinogradSums job;
    job.in_stride = stride_;
    job.inputs = inputs();
    job.outputs = shape_.out_channels;
    job.weights = weights_.data();
    job.bias = bias_.data();
    job.out = out;
    job.out_stride = out_.plane_stride;
    job.out_pitch = out_.pitch;
    job.low = clamp_.low;
    job.high = clamp_.high;
    const std::int64_t half = ops_.width / 2, tiles = (end - begin) * tiles_;
    for (std::int64_t t = 0; t < tiles; t += ops_.width) {
      job.in = scratch + t;
      for (int h = 0; h < 2; ++h) {
        const std::int64_t tile = t + h * half, y = (begin + tile / tiles_) * outputs_,
                           x = tile % tiles_ * outputs_;
        const auto part = [](std::int64_t left, std::int64_t most) {
          return static_cast<int>(std::clamp<std::int64_t>(left, 0, most));
        };
        WinogradSums::Half& to = job.halves[h];
        to.to = out_.lead + y * out_.pitch + x;
        to.lanes = part(out_.width - x, half * outputs_);
        to.rows = tile < tiles ? part(out_.height - y, outputs_) : 0;
      }
      ops_.winograd_sums(points_, job);
    }
    const std::int64_t last = std::min<std::int64_t>(out_.height, outputs_ * end);
    for (std::int64_t c = 0; c < shape_.out_channels; ++c) {
      float* plane = out + c * out_.plane_stride;
      for (std::int64_t y = outputs_ * begin; y < last && !fused_; ++y) {
        const std::int64_t row = out_.lead + y * out_.pitch;
        ops_.finish(epilogue_, plane + row,
                    residual == nullptr ? nullptr : residual + c * out_.plane_stride + row, nullptr,
                    out_.width);
      }
      if (index == 0) zero_runs(borders_, plane);
    }
  }

  ConvGeometry shape_;
  Clamp clamp_;
  bool fused_ = true;  // the clamp is the whole epilogue
  std::vector<float> weights_, bias_;
  std::vector<FloatRun> borders_;
  std::vector<Plane> planes_;  // phases
  int points_ = 0, outputs_ = 0;  // of a tile in each direction
  std::int64_t tile_rows_ = 0, tiles_ = 0, strip_rows_ = 1;  // tiles in a row; most rows of a strip
  std::int64_t strips_ = 1;
  std::int64_t stride_ = 0;  // floats from input to input of the transformed strip
};

}  // namespace

Status make_winograd_plan(const PlanRequest& request, std::size_t kernel, PlanPtr* plan) {
  // Transformed inputs and weights are larger and no longer whole.
  if (request.options.factor != nullptr || clamp_of(request.options.epilogue).rounds)
    return failure(Code::unsupported, "plan: minimal filtering of whole numbers");
  auto made = std::make_unique<WinogradPlan>(request);
  const Status status = made->build(request, kernel_record(kernel));
  if (status.ok()) *plan = std::move(made);
  return status;
}

}  // namespace onnxprune::kernels
