// Normalisations of images against their definitions in double precision.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "harness.h"
#include "ops/table.h"
#include "planes.h"
#include "reference.h"

namespace {

using namespace onnxprune::kernels;
using testing::only_pixels_differ;
using testing::Random;
using testing::random_floats;

PadNeed pads(Random* random) {
  PadNeed need;
  need.top = random->below(3);
  need.left = random->below(3);
  need.bottom = random->below(3);
  need.right = random->below(3);
  return need;
}

}  // namespace

TEST(response_norm_over_the_whole_range) {
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (!isa_supported(isa)) continue;
    for (const float beta : {0.75f, 0.5f, 1.0f, 0.1f, 1.9f, 4.0f}) {
      ResponseNorm norm;
      norm.size = 1;
      norm.alpha = 1.0f;
      norm.beta = beta;
      norm.bias = 1e-9f;
      const int count = 20003;
      std::vector<float> x(static_cast<std::size_t>(count)), y(x.size());
      for (int i = 0; i < count; ++i)
        x[i] = static_cast<float>(std::exp2(-20.0 + 83.0 * i / (count - 1)));
      ops_table(isa).response_norm(norm, x.data(), 0, 1, x.data(), y.data(), count);
      double worst = 0.0;
      for (int i = 0; i < count; ++i) {
        const double power = std::pow(1.0 * x[i] * x[i] + norm.bias, -1.0 * beta);
        if (power < std::ldexp(1.0, -126)) continue;
        // What the sum was rounded by comes back times beta.
        worst = std::max(worst, std::fabs(y[i] / (x[i] * power) - 1.0) / std::max(1.0f, beta));
      }
      char text[160];
      std::snprintf(text, sizeof text, "beta %g on %s: relative error %.3g", beta, isa_name(isa), worst);
      CHECK_SAY(worst <= 5e-7, text);
      const float infinity = std::numeric_limits<float>::infinity();
      float special[4] = {std::numeric_limits<float>::quiet_NaN(), infinity, 1e25f, -0.0f};
      ops_table(isa).response_norm(norm, special, 0, 1, special, special, 4);
      CHECK(std::isnan(special[0]) && std::isnan(special[1]) && special[2] == 0.0f && special[3] == 0.0f);
    }
  }
}

TEST(response_norm_of_planes) {
  Random random(31);
  for (int i = 0; i < 200; ++i) {
    const int height = random.between(1, 40), width = random.between(1, 40), channels = random.between(1, 9);
    const bool vector = i % 8 == 0;
    const PlaneLayout l = vector ? vector_layout() : make_layout(height, width, pads(&random));
    const int pixels = vector ? 1 : height * width;
    const std::vector<float> x = random_floats(static_cast<std::size_t>(channels) * pixels, &random);
    std::vector<float> in(static_cast<std::size_t>(l.buffer_floats(channels)), 3.0f), out = in, got(x.size());
    import_nchw(x.data(), l, in.data(), 0, channels);
    ResponseNorm norm;
    norm.size = random.between(1, 12);  // even ones too
    norm.alpha = 2.0f;
    norm.bias = 0.5f;
    const int cut = random.below(channels + 1);  // two workers
    response_norm(norm, l, channels, in.data(), out.data(), 0, cut);
    response_norm(norm, l, channels, in.data(), out.data(), cut, channels);
    export_nchw(l, out.data(), got.data(), 0, channels);
    bool right = true;
    for (int c = 0; c < channels; ++c) {
      for (int p = 0; p < pixels; ++p) {
        double sum = 0.0;
        for (int k = std::max(0, c - (norm.size - 1) / 2); k <= std::min(channels - 1, c + norm.size / 2); ++k)
          sum += 1.0 * x[k * pixels + p] * x[k * pixels + p];
        const double want = x[c * pixels + p] / std::pow(0.5 + 2.0 / norm.size * sum, 0.75);
        right = right && std::fabs(got[c * pixels + p] - want) <= 1e-6 * std::fabs(want);
      }
      if (!vector) {
        const float* plane = out.data() + c * l.plane_stride;
        right = right && only_pixels_differ(l, std::vector<float>(plane, plane + l.plane_stride));
      }
    }
    CHECK(right);
  }
}

TEST(group_norm_of_planes) {
  Random random(32);
  for (int i = 0; i < 200; ++i) {
    const int height = random.between(1, 90), width = random.between(1, 90);
    const int channels = random.between(1, 4), groups = random.between(1, 4), all = channels * groups;
    const bool vector = i % 8 == 0;
    PadNeed need = pads(&random);
    need.stride_h = random.between(1, 2);
    need.phase_mask = (std::uint64_t{1} << need.stride_h) - 1;
    const PlaneLayout l = vector ? vector_layout() : make_layout(height, width, need);
    const int pixels = vector ? 1 : height * width;
    std::vector<float> x = random_floats(static_cast<std::size_t>(all) * pixels, &random);
    const float far = i % 3 == 0 ? 100.0f : 0.0f;
    for (float& v : x) v += far;
    const std::vector<float> scale = random_floats(static_cast<std::size_t>(all), &random),
                             shift = random_floats(scale.size(), &random);
    const bool plain = i % 5 == 0;
    std::vector<float> planes(static_cast<std::size_t>(l.buffer_floats(all)), 3.0f), got(x.size());
    import_nchw(x.data(), l, planes.data(), 0, all);
    Epilogue e;
    e.activation = Activation::sigmoid;  // sigmoid(0) is not 0: borders must be masked
    const int cut = random.below(groups + 1);
    for (const auto& range : {std::pair<int, int>{0, cut}, std::pair<int, int>{cut, groups}})
      group_norm(l, channels, planes.data(), plain ? nullptr : scale.data(), plain ? nullptr : shift.data(), 1e-3f, e,
                 planes.data(), range.first, range.second);  // in place
    export_nchw(l, planes.data(), got.data(), 0, all);
    bool right = true;
    for (int g = 0; g < groups; ++g) {
      const int first = g * channels * pixels, last = first + channels * pixels;
      double mean = 0.0, variance = 0.0;
      for (int p = first; p < last; ++p) mean += x[p] / (1.0 * last - first);
      for (int p = first; p < last; ++p) variance += (x[p] - mean) * (x[p] - mean) / (1.0 * last - first);
      for (int p = first; p < last; ++p) {
        const int c = p / pixels;
        const double normal = (x[p] - mean) / std::sqrt(variance + 1e-3);
        const double v = plain ? normal : normal * scale[c] + shift[c];
        right = right && std::fabs(got[p] - reference::activate(e, v)) < (far > 0 ? 1e-4 : 2e-6);
      }
    }
    CHECK(right);
    if (!vector)
      for (int c = 0; c < all; ++c) {
        const float* plane = planes.data() + c * l.plane_stride;
        CHECK(only_pixels_differ(l, std::vector<float>(plane, plane + l.plane_stride)));
      }
  }
}
