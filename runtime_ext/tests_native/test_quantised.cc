// Integer arithmetic in floats: whole inputs and weights, sums multiplied by a factor of the row, clamped
// and rounded. Every kernel must give exactly what 64-bit integers and one float multiplication give.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "harness.h"
#include "kernels.h"
#include "ops/table.h"

namespace {

using namespace onnxprune::kernels;
using testing::Random;

struct Case {
  ConvGeometry g;
  int height = 1, width = 1;
  double density = 0.2;
  Storage storage = Storage::automatic;
  Activation activation = Activation::round;
  PadNeed out_need = {};
  int threads = 1;
};

struct Aligned {
  float* data;
  explicit Aligned(std::int64_t floats) {
    void* p = nullptr;
    if (posix_memalign(&p, 64, static_cast<std::size_t>(floats) * sizeof(float)) != 0) std::abort();
    data = static_cast<float*>(p);
    std::memset(p, 0, static_cast<std::size_t>(floats) * sizeof(float));
  }
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
};

struct Problem {
  WeightsPtr weights;
  std::vector<float> x, factor, expected;
  Epilogue epilogue;
};

Problem make_problem(const Case& c, std::uint64_t seed) {
  Problem p;
  Random random(seed);
  const ConvGeometry& g = c.g;
  const auto columns = static_cast<std::size_t>(g.columns());
  std::vector<float> w(columns * static_cast<std::size_t>(g.out_channels)), bias;
  for (float& v : w) v = random.uniform() < c.density ? static_cast<float>(random.between(-255, 255)) : 0.0f;
  p.x.resize(static_cast<std::size_t>(g.in_channels) * c.height * c.width);
  for (float& v : p.x) v = static_cast<float>(random.between(-255, 255));
  for (int m = 0; m < g.out_channels; ++m) {
    bias.push_back(static_cast<float>(random.between(-40000, 40000)));
    // Powers of two make many sums end in a half; others few.
    p.factor.push_back(m % 2 == 0 ? std::ldexp(1.0f, -random.between(4, 12)) : 0.003f * random.uniform() + 1e-5f);
  }
  p.epilogue.activation = c.activation;
  p.epilogue.alpha = -100.0f;
  p.epilogue.beta = 140.0f;
  const int oh = g.out_height(c.height), ow = g.out_width(c.width);
  const int in_group = g.in_channels / g.groups, out_group = g.out_channels / g.groups;
  for (int m = 0; m < g.out_channels; ++m) {
    for (int i = 0; i < oh * ow; ++i) {
      auto sum = static_cast<std::int64_t>(bias[static_cast<std::size_t>(m)]);
      for (int k = 0; k < static_cast<int>(columns); ++k) {
        const int channel = m / out_group * in_group + k / (g.kernel_h * g.kernel_w);
        const int iy = i / ow * g.stride_h + k / g.kernel_w % g.kernel_h * g.dilation_h - g.pad_top;
        const int ix = i % ow * g.stride_w + k % g.kernel_w * g.dilation_w - g.pad_left;
        if (iy < 0 || ix < 0 || iy >= c.height || ix >= c.width) continue;
        sum += static_cast<std::int64_t>(p.x[(static_cast<std::size_t>(channel) * c.height + iy) * c.width + ix]) *
               static_cast<std::int64_t>(w[static_cast<std::size_t>(m) * columns + k]);
      }
      float v = static_cast<float>(sum) * p.factor[static_cast<std::size_t>(m)];
      if (c.activation == Activation::round)
        v = std::nearbyint(std::fmin(std::fmax(v, p.epilogue.alpha), p.epilogue.beta));
      if (c.activation == Activation::relu) v = std::fmax(v, 0.0f);
      p.expected.push_back(v);
    }
  }
  PackOptions pack;
  pack.bias = bias.data();
  pack.storage = c.storage;
  const Status status = pack_dense(g, {w.data(), g.columns(), 1}, pack, &p.weights);
  CHECK_SAY(status.ok(), status.message);
  return p;
}

// False where the kernel does not do such convolutions.
bool exact(const Case& c, const Problem& p, Isa isa, const char* kernel) {
  const ConvGeometry& g = c.g;
  const int oh = g.out_height(c.height), ow = g.out_width(c.width);
  const bool vector = c.height * c.width == 1 && g.taps() == 1;
  const PlaneLayout in = vector ? vector_layout() : make_layout(c.height, c.width, conv_need(g, c.height, c.width));
  const PlaneLayout out = vector ? vector_layout() : make_layout(oh, ow, c.out_need);
  PlanOptions options;
  options.isa = isa;
  options.kernel = kernel;
  options.threads = c.threads;
  options.epilogue = p.epilogue;
  options.factor = p.factor.data();
  PlanPtr plan;
  if (!make_plan(*p.weights, in, out, options, &plan).ok()) return false;
  Aligned input(in.buffer_floats(g.in_channels)), output(out.buffer_floats(g.out_channels));
  import_nchw(p.x.data(), in, input.data, 0, g.in_channels);
  RunArgs args;
  args.in = input.data;
  args.out = output.data;
  args.in_image_stride = in.image_floats(g.in_channels);
  args.out_image_stride = out.image_floats(g.out_channels);
  Aligned scratch(static_cast<std::int64_t>(plan->scratch_bytes() / sizeof(float)) + 16);
  for (std::int64_t i = plan->work_items(1) - 1; i >= 0; --i) plan->run(args, i, i + 1, scratch.data);
  std::vector<float> y(p.expected.size());
  export_nchw(out, output.data, y.data(), 0, g.out_channels);
  std::size_t different = 0;
  for (std::size_t i = 0; i < y.size(); ++i) different += y[i] != p.expected[i];
  char text[200];
  std::snprintf(text, sizeof text, "%s: %dx%dx%d -> %d, kernel %d, stride %d, %s: %zu of %zu differ", plan->info().kernel,
                g.in_channels, c.height, c.width, g.out_channels, g.kernel_h, g.stride_h,
                activation_name(c.activation), different, y.size());
  CHECK_SAY(different == 0, text);
  return kernel == nullptr || std::strcmp(plan->info().kernel, kernel) == 0;  // vectors have their own
}

ConvGeometry geometry(int in, int out, int kernel, int stride, int pad, int groups = 1) {
  ConvGeometry g;
  g.in_channels = in;
  g.out_channels = out;
  g.kernel_h = g.kernel_w = kernel;
  g.stride_h = g.stride_w = stride;
  g.pad_top = g.pad_left = pad;
  g.pad_bottom = g.pad_right = kernel - 1 - pad;
  g.groups = groups;
  return g;
}

}  // namespace

TEST(quantised_sums_are_exact) {
  std::vector<Case> cases;
  PadNeed phases;
  phases.stride_h = phases.stride_w = 2;
  phases.phase_mask = 15;
  for (const Storage storage : {Storage::automatic, Storage::csr, Storage::block, Storage::dense}) {
    cases.push_back({geometry(24, 37, 1, 1, 0), 9, 11, 0.2, storage});
    cases.push_back({geometry(7, 33, 3, 1, 1), 13, 10, 0.3, storage, Activation::round, {}, 2});
    cases.push_back({geometry(9, 20, 3, 2, 0), 15, 17, 0.3, storage});
    cases.push_back({geometry(16, 40, 1, 1, 0), 8, 8, 0.1, storage, Activation::round, phases});
    cases.push_back({geometry(300, 70, 1, 1, 0), 1, 1, 0.1, storage});
    cases.push_back({geometry(700, 31, 1, 1, 0), 7, 7, 0.1, storage, Activation::none});
    cases.push_back({geometry(12, 12, 1, 1, 0), 6, 20, 0.4, storage, Activation::relu});
  }
  for (const int stride : {1, 2}) {
    for (const int kernel : {3, 5}) {
      cases.push_back({geometry(5, 5, kernel, stride, 1, 5), 14, 21, 1.0});
      cases.push_back({geometry(6, 6, kernel, stride, 1, 6), 20, 40, 1.0, Storage::automatic, Activation::round, phases});
    }
  }
  std::size_t count = 0;
  const KernelEntry* const kernels = kernel_list(&count);
  std::vector<bool> used(count, false);
  std::uint64_t seed = 1;
  for (const Case& c : cases) {
    const Problem p = make_problem(c, seed++);
    for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512})
      if (isa_supported(isa)) CHECK(exact(c, p, isa, nullptr));
    for (std::size_t k = 0; k < count; ++k)
      if (isa_supported(kernels[k].isa) && walks_planes(c.g) == (std::strncmp(kernels[k].name, "depthwise", 9) == 0))
        used[k] = exact(c, p, kernels[k].isa, kernels[k].name) || used[k];
  }
  for (std::size_t k = 0; k < count; ++k) {
    const bool possible = isa_supported(kernels[k].isa) && (!kernels[k].generated || code_generation_available(nullptr));
    const bool filters = std::strncmp(kernels[k].name, "winograd", 8) == 0;  // rounds on the way
    CHECK_SAY(used[k] == (possible && !filters), kernels[k].name);
  }
}

TEST(quantising_rounds_halves_to_even) {
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (!isa_supported(isa)) continue;
    const OpsTable& ops = ops_table(isa);
    Epilogue e;
    e.activation = Activation::quantise;
    e.alpha = -128.0f;
    e.beta = 127.0f;
    e.step = 0.3f;
    std::vector<float> x, y(401);
    for (int i = -200; i <= 200; ++i) x.push_back(0.15f * static_cast<float>(i) * (i % 7 == 0 ? 40.0f : 1.0f));
    ops.affine(e, x.data(), 1.0f, 0.0f, y.data(), nullptr, 401);
    for (std::size_t i = 0; i < x.size(); ++i)
      CHECK(y[i] == std::nearbyint(std::fmin(std::fmax(x[i] / 0.3f, -128.0f), 127.0f)));
    QuantisedSum s;
    s.a_factor = 0.5f;
    s.b_factor = 0.25f;
    s.a_zero = 128.0f;
    s.b_zero = 3.0f;
    s.shift = 7.0f - (0.5f * 128.0f + 0.25f * 3.0f);
    s.low = -7.0f;
    s.high = 248.0f;
    s.zero = 7.0f;
    std::vector<float> a(256), b(256), out(256);
    for (int i = 0; i < 256; ++i) {
      a[static_cast<std::size_t>(i)] = static_cast<float>(i - 128);
      b[static_cast<std::size_t>(i)] = static_cast<float>((i * 37 + 11) % 256 - 3);
    }
    ops.quantised_sum(s, a.data(), b.data(), out.data(), nullptr, 255);
    for (std::size_t i = 0; i < 255; ++i) {
      const double sum = 0.5 * a[i] + 0.25 * b[i] + 7.0;
      CHECK(out[i] == std::nearbyint(std::fmin(std::fmax(sum, 0.0), 255.0)) - 7.0);
    }
    s.step = 0.7f;
    s.a_factor = 0.11f;
    ops.quantised_sum(s, a.data(), b.data(), out.data(), nullptr, 255);
    for (std::size_t i = 0; i < 255; ++i) {
      volatile float left = a[i] * 0.11f, right = b[i] * 0.25f;  // each rounded
      CHECK(out[i] == std::nearbyint(std::fmin(std::fmax((left + right) / 0.7f, -7.0f), 248.0f)));
    }
  }
}

TEST(quantised_pooling) {
  const PlaneLayout in = make_layout(7, 9);
  Aligned planes(in.buffer_floats(5));
  std::vector<float> x(5 * 63);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 29 % 256);
  import_nchw(x.data(), in, planes.data, 0, 5);
  Epilogue e;
  e.activation = Activation::round;
  e.beta = 255.0f;
  float means[5];
  global_sum_pool(in, planes.data, 0.037f, e, means, 0, 5);
  for (int c = 0; c < 5; ++c) {
    std::int64_t sum = 0;
    for (int i = 0; i < 63; ++i) sum += static_cast<std::int64_t>(x[static_cast<std::size_t>(c * 63 + i)]);
    CHECK(means[c] == std::nearbyint(std::fmin(static_cast<float>(sum) * 0.037f, 255.0f)));
  }
}
