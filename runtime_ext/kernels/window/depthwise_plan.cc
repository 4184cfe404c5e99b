// Plans of depth-wise convolutions that walk planes: channel by channel, rows of windows.
#include <algorithm>
#include <limits>

#include "../phases.h"
#include "../plan_impl.h"
#include "../spmm/scatter.h"

namespace onnxprune::kernels {
namespace {

class DepthwisePlan final : public PlanBase {
 public:
  DepthwisePlan(const PlanRequest& request, const char* kernel)
      : PlanBase(request),
        shape_(request.weights.shape),
        clamp_(clamp_of(epilogue_)),
        weights_(static_cast<std::size_t>(shape_.out_channels) * shape_.taps()),
        bias_(padded_bias(request.weights)),
        factor_(padded_factor(request)) {
    if (!out_.plain()) borders_ = border_runs(out_);  // else they are written with the pixels
    request.weights.to_dense(weights_.data());
    fused_ = clamp_.enough && epilogue_.residual == Residual::none;
    if (!fused_) {
      clamp_.low = -std::numeric_limits<float>::infinity();
      clamp_.high = std::numeric_limits<float>::infinity();
      clamp_.rounds = false;
    }
    // Rows of few pixels leave most of a vector empty. Where input and output have the same pitch the plane
    // is one row, padding included, if that takes fewer vectors.
    const std::int64_t flat = flat_pixels(out_.height, out_.width, out_.pitch);
    flat_ = out_.plain() && shape_.stride_h == 1 && in_.pitch == out_.pitch &&
            5 * vectors(flat) <= 4 * out_.height * vectors(out_.width);
    if (flat_) mask_ = pixel_mask(out_.height, out_.width, out_.pitch, ops_.width);
    if (!out_.plain()) scatter_ = scatter_runs(out_, out_.width, 0, plane_floats());
    info_.kernel = kernel;
    info_.bytes = static_cast<std::int64_t>(
        sizeof *this + (weights_.capacity() + bias_.capacity() + factor_.capacity()) * sizeof(float) +
        mask_.capacity() * sizeof(std::uint16_t) + borders_.capacity() * sizeof(FloatRun) + scatter_.capacity() * sizeof(ScatterRun));
  }

  std::int64_t work_items(std::int32_t images) const override {
    return static_cast<std::int64_t>(images) * shape_.out_channels;
  }

  // Where the output has phases: a plane of sums and one of the residual.
  std::size_t scratch_bytes() const override {
    return out_.plain() ? 0 : static_cast<std::size_t>(2 * plane_floats()) * sizeof(float);
  }

  void run(const RunArgs& args, std::int64_t first, std::int64_t last,
           void* scratch) const override {
    for (std::int64_t item = first; item < last; ++item) {
      const std::int64_t image = item / shape_.out_channels, c = item % shape_.out_channels;
      const std::int64_t to = image * args.out_image_stride + c * out_.plane_stride;
      const bool added = args.residual != nullptr && epilogue_.residual != Residual::none;
      channel(c, args.in + image * args.in_image_stride + c * in_.plane_stride, args.out + to,
              added ? args.residual + to : nullptr, static_cast<float*>(scratch));
    }
  }

 private:
  std::int64_t plane_floats() const {
    return static_cast<std::int64_t>(out_.height) * out_.width;
  }

  std::int64_t vectors(std::int64_t pixels) const { return (pixels + ops_.width - 1) / ops_.width; }

  void channel(std::int64_t c, const float* in, float* out, const float* residual,
               float* scratch) const {
    WindowRun run;
    run.in = in + in_.lead - static_cast<std::int64_t>(shape_.pad_top) * in_.pitch - shape_.pad_left;
    run.in_pitch = in_.pitch;
    run.out = out_.plain() ? out + out_.lead : scratch;
    run.out_pitch = out_.plain() ? out_.pitch : out_.width;
    run.rows = flat_ ? 1 : out_.height;
    const std::int64_t flat = flat_pixels(out_.height, out_.width, out_.pitch);
    run.width = flat_ ? flat : out_.width;
    run.mask = mask_.empty() ? nullptr : mask_.data();
    if (out_.plain()) {
      run.before = out_.lead;
      run.behind = out_.plane_stride - out_.lead - flat;
    }
    run.weights = weights_.data() + c * shape_.taps();
    run.bias = bias_[static_cast<std::size_t>(c)];
    run.low = clamp_.low;
    run.high = clamp_.high;
    run.rounds = clamp_.rounds;
    run.scaled = !factor_.empty();
    if (run.scaled) run.factor = factor_[static_cast<std::size_t>(c)];
    ops_.window_sums(shape_.kernel_h, shape_.stride_h, run);
    const float* add = residual == nullptr ? nullptr : residual + out_.lead;
    if (!out_.plain() && residual != nullptr) {
      add = scratch + plane_floats();
      scatter_load(scatter_, residual, scratch + plane_floats(), plane_floats());
    }
    for (std::int64_t y = 0; y < run.rows && !fused_; ++y) {
      const std::int64_t row = y * run.out_pitch;
      ops_.finish(epilogue_, run.out + row, add == nullptr ? nullptr : add + row, run.mask,
                  run.width);
    }
    if (!out_.plain())
      ops_.scatter(scatter_.data(), static_cast<std::int64_t>(scatter_.size()), scratch, 0, out, 0, 1);
    zero_runs(borders_, out);
  }

  ConvGeometry shape_;
  Clamp clamp_;
  bool fused_ = true;  // the clamp is the whole epilogue
  bool flat_ = false;
  std::vector<float> weights_, bias_, factor_;
  std::vector<std::uint16_t> mask_;  // of a plane that is one row: where there are pixels
  std::vector<ScatterRun> scatter_;  // of a whole plane, when the output has phases
  std::vector<FloatRun> borders_;    // then, of the plane
};

}  // namespace

PlanPtr make_window_plan(const PlanRequest& request, const char* kernel) {
  return std::make_unique<DepthwisePlan>(request, kernel);
}

}  // namespace onnxprune::kernels
