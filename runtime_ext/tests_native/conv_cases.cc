#include "conv_cases.h"

#include <cstdlib>
#include <cstring>

#include "reference.h"
#include "window/winograd.h"

namespace conv_cases {
namespace {

std::vector<float> make_weights(const Case& c, Random* random) {
  const int rows = c.g.out_channels, columns = static_cast<int>(c.g.columns());
  std::vector<float> w(static_cast<std::size_t>(rows) * columns);
  std::vector<char> row_on(static_cast<std::size_t>(rows)),
      column_on(static_cast<std::size_t>(columns));
  for (char& on : row_on) on = random->uniform() < 0.7f;
  for (char& on : column_on) on = random->uniform() < 0.7f;
  for (int r = 0; r < rows; ++r) {
    for (int k = 0; k < columns; ++k) {
      bool keep = random->uniform() < c.density;
      if (c.zeros == Zeros::none) keep = true;
      if (c.zeros == Zeros::all) keep = false;
      if (c.zeros == Zeros::n2m4) keep = k % 4 == r % 4 || k % 4 == (r + k / 4 + 1) % 4;
      if (c.zeros == Zeros::rows_and_columns) keep = keep && row_on[r] && column_on[k];
      if (c.zeros == Zeros::families) keep = keep && r * 7 % 5 == k % 5;
      const int height = c.zeros == Zeros::blocks4 ? 4 : c.zeros == Zeros::blocks8 ? 8 : 1;
      const std::size_t at = static_cast<std::size_t>(r) * columns + k;
      if (height > 1 && r % height != 0) keep = w[at - static_cast<std::size_t>(columns)] != 0.0f;
      float v = random->symmetric();
      if (v == 0.0f) v = 0.5f;
      w[at] = keep ? v : 0.0f;
    }
  }
  return w;
}

constexpr float kCanary = 12345.5f;

// 64-byte aligned floats with nothing accessible (to AddressSanitizer) behind them.
class Buffer {
 public:
  explicit Buffer(std::int64_t floats, float fill) : size_(static_cast<std::size_t>(floats)) {
    void* p = nullptr;
    if (posix_memalign(&p, 64, size_ * sizeof(float)) != 0) std::abort();
    data_ = static_cast<float*>(p);
    for (std::size_t i = 0; i < size_; ++i) data_[i] = fill;
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  float* data() { return data_; }
  std::size_t size() const { return size_; }

 private:
  float* data_ = nullptr;
  std::size_t size_;
};

// Everything in the plane that is not a pixel must be zero after a run.
bool borders_are_zero(const PlaneLayout& l, const float* plane) {
  std::vector<float> copy(plane, plane + l.plane_stride);
  zero_borders(l, copy.data(), 0, 1);
  return std::memcmp(copy.data(), plane, copy.size() * sizeof(float)) == 0;
}

}  // namespace

std::string describe(const Case& c, const char* kernel) {
  char text[400];
  std::snprintf(text, sizeof text,
                "%s: %d x [%d,%d,%d] -> %d, groups %d, kernel %dx%d, stride %dx%d, dilation %dx%d, "
                "pads %d %d %d %d, "
                "zeros %d, density %.2f, %s residual %d, threads %d",
                kernel, c.images, c.g.in_channels, c.height, c.width, c.g.out_channels, c.g.groups,
                c.g.kernel_h, c.g.kernel_w, c.g.stride_h, c.g.stride_w, c.g.dilation_h,
                c.g.dilation_w, c.g.pad_top, c.g.pad_left, c.g.pad_bottom, c.g.pad_right,
                static_cast<int>(c.zeros), c.density, activation_name(c.epilogue.activation),
                static_cast<int>(c.epilogue.residual), c.threads);
  return text;
}

std::vector<float> run_case(const Case& c, const Problem& problem, Isa isa, const char* kernel,
                            const Tuning& tuning) {
  const std::vector<float>& x = problem.x;
  const std::vector<float>& residual = problem.residual;
  const std::vector<double>& expected = problem.expected;
  const std::vector<double>& magnitude = problem.magnitude;
  const int oh = c.g.out_height(c.height), ow = c.g.out_width(c.width);
  const PlaneLayout in = make_layout(c.height, c.width, conv_need(c.g, c.height, c.width));
  const PlaneLayout out = make_layout(oh, ow, c.out_need);
  PlanOptions options;
  options.isa = isa;
  options.kernel = kernel;
  options.threads = c.threads;
  options.epilogue = c.epilogue;
  PlanPtr plan;
  const Status status = make_tuned_plan(*problem.weights, in, out, options, tuning, &plan);
  const std::string what = describe(c, kernel == nullptr ? isa_name(isa) : kernel);
  if (!CHECK_SAY(status.ok(), what + ": " + status.message)) return {};
  Buffer input(in.buffer_floats(c.g.in_channels, c.images), kCanary);
  Buffer output(out.buffer_floats(c.g.out_channels, c.images), kCanary);
  Buffer added(out.buffer_floats(c.g.out_channels, c.images), kCanary);
  const std::int64_t in_image = in.image_floats(c.g.in_channels),
                     out_image = out.image_floats(c.g.out_channels);
  const std::size_t in_pixels = static_cast<std::size_t>(c.height) * c.width * c.g.in_channels;
  const std::size_t out_pixels = static_cast<std::size_t>(oh) * ow * c.g.out_channels;
  for (int n = 0; n < c.images; ++n) {
    import_nchw(x.data() + n * in_pixels, in, input.data() + n * in_image, 0, c.g.in_channels);
    import_nchw(residual.data() + n * out_pixels, out, added.data() + n * out_image, 0,
                c.g.out_channels);
  }
  RunArgs args;
  args.in = input.data();
  args.out = output.data();
  args.residual = added.data();
  static int turn = 0;  // every second plan that may put its output in the residual's place does
  if (plan->residual_in_place() && ++turn % 2 == 0) {
    std::memcpy(output.data(), added.data(),
                static_cast<std::size_t>(out_image) * c.images * sizeof(float));
    args.residual = output.data();
  }
  args.images = c.images;
  args.in_image_stride = in_image;
  args.out_image_stride = out_image;
  Buffer scratch(static_cast<std::int64_t>(plan->scratch_bytes() / sizeof(float)) + 16, 0.0f);
  const std::int64_t items = plan->work_items(c.images);
  if (c.threads == 1) {
    plan->run(args, 0, items, scratch.data());
  } else {  // any order must do: backwards, one at a time
    for (std::int64_t i = items - 1; i >= 0; --i) plan->run(args, i, i + 1, scratch.data());
  }
  std::vector<float> y(expected.size());
  bool clean = true;
  for (int n = 0; n < c.images; ++n) {
    export_nchw(out, output.data() + n * out_image, y.data() + n * out_pixels, 0, c.g.out_channels);
    for (int m = 0; m < c.g.out_channels; ++m) {
      clean = clean && borders_are_zero(out, output.data() + n * out_image + m * out.plane_stride);
    }
  }
  CHECK_SAY(clean, what + ": borders");
  bool canary = true;
  for (std::size_t i = static_cast<std::size_t>(out_image) * c.images; i < output.size(); ++i) {
    canary = canary && output.data()[i] == kCanary;
  }
  CHECK_SAY(canary, what + ": wrote past the last plane");
  // With phases missing some pixels are not stored; compare what is.
  std::vector<char> stored(static_cast<std::size_t>(oh) * ow, 1);
  for (int yy = 0; yy < oh; ++yy) {
    for (int xx = 0; xx < ow; ++xx) {
      stored[static_cast<std::size_t>(yy) * ow + xx] =
          out.phase_slot(yy % out.stride_h * out.stride_w + xx % out.stride_w) >= 0;
    }
  }
  double worst = 0.0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    if (!stored[i % stored.size()]) continue;
    const double error =
        std::fabs(y[i] - expected[i]) / (magnitude[i] + std::fabs(expected[i]) + 1e-3);
    if (!(error <= worst)) worst = error;
  }
  CHECK_SAY(worst <= 3e-6, what + ": error " + std::to_string(worst));
  return y;
}

Problem make_problem(const Case& c, std::uint64_t seed) {
  Problem problem;
  Random random(seed);
  const int oh = c.g.out_height(c.height), ow = c.g.out_width(c.width);
  if (oh < 1 || ow < 1) return problem;
  const std::vector<float> w = make_weights(c, &random);
  problem.x.resize(static_cast<std::size_t>(c.images) * c.g.in_channels * c.height * c.width);
  for (float& v : problem.x) v = random.symmetric();
  problem.residual.resize(static_cast<std::size_t>(c.images) * c.g.out_channels * oh * ow);
  for (float& v : problem.residual) v = random.symmetric();
  std::vector<float> bias(static_cast<std::size_t>(c.g.out_channels));
  for (float& v : bias) v = random.symmetric();
  reference::convolve(c.g, c.images, c.height, c.width, problem.x.data(), w.data(), bias.data(),
                      c.epilogue, problem.residual.data(), &problem.expected, &problem.magnitude);
  PackOptions pack;
  pack.bias = bias.data();
  pack.storage = c.storage;
  DenseView dense{w.data(), c.g.columns(), 1};
  const Status status = pack_dense(c.g, dense, pack, &problem.weights);
  CHECK_SAY(status.ok(), status.message);
  return problem;
}

bool applies(const KernelEntry& kernel, const Case& c) {
  if (!isa_supported(kernel.isa)) return false;
  if (kernel.generated && !code_generation_available(nullptr)) return false;
  if (std::strncmp(kernel.name, "winograd", 8) == 0)
    return winograd_points(c.g) != 0 && c.out_need.stride_h == 1 && c.out_need.stride_w == 1;
  const bool window = std::strncmp(kernel.name, "depthwise", 9) == 0;
  return window == walks_planes(c.g);
}

void check_case(const Case& c, std::uint64_t seed) {
  const Problem problem = make_problem(c, seed);
  if (problem.weights == nullptr) return;
  std::size_t count = 0;
  const KernelEntry* kernels = kernel_list(&count);
  for (std::size_t i = 0; i < count; ++i) {
    if (!applies(kernels[i], c)) continue;
    run_case(c, problem, kernels[i].isa, kernels[i].name);
  }
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (isa_supported(isa)) run_case(c, problem, isa, nullptr);
  }
}

Case conv(int in, int out, int height, int width, int kh, int kw, int pad) {
  Case c;
  c.g.in_channels = in;
  c.g.out_channels = out;
  c.g.kernel_h = kh;
  c.g.kernel_w = kw;
  c.g.pad_top = c.g.pad_left = c.g.pad_bottom = c.g.pad_right = pad;
  c.height = height;
  c.width = width;
  return c;
}

Epilogue random_epilogue(Random* random) {
  Epilogue e;
  e.activation = static_cast<Activation>(random->below(11));
  e.residual = static_cast<Residual>(random->below(3));
  e.alpha = e.activation == Activation::leaky_relu ? 0.1f
            : e.activation == Activation::clip     ? -0.25f
                                                   : 0.2f;
  e.beta = e.activation == Activation::clip ? 0.75f : 0.5f;
  return e;
}

}  // namespace conv_cases
