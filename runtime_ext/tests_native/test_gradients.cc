// Derivatives of elementwise functions against their definitions.
#include "gradients.h"

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "harness.h"

using namespace onnxprune::kernels;

namespace {

constexpr std::int64_t kCounts[] = {0, 1, 7, 16, 37, 64, 100, 2 * kGapPiece + 5};

std::vector<float> numbers(std::int64_t count, std::uint64_t seed) {
  testing::Random random(seed);
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = random.symmetric();
  return v;
}

bool close(double got, double want) { return std::fabs(got - want) <= 1e-6 * (1 + std::fabs(want)); }

}  // namespace

TEST(clip_gradient_within_the_limits_alone) {
  testing::Random random(3);
  const float inf = std::numeric_limits<float>::infinity();
  for (const std::int64_t count : {0, 1, 7, 16, 37, 100}) {
    std::vector<float> y(static_cast<std::size_t>(count)), g(y.size()), out(y.size(), 9.0f);
    for (std::size_t i = 0; i < y.size(); ++i) {
      y[i] = static_cast<float>(random.between(-1, 7));  // often a limit itself
      g[i] = i % 5 == 0 ? inf : random.symmetric();
    }
    if (count > 3) y[3] = std::numeric_limits<float>::quiet_NaN();
    for (const float high : {6.0f, inf}) {
      clip_gradient(y.data(), g.data(), 0.0f, high, out.data(), count);
      bool same = true;
      for (std::size_t i = 0; i < y.size(); ++i) same = same && out[i] == (y[i] > 0.0f && y[i] < high ? g[i] : 0.0f);
      CHECK(same);
    }
  }
}

TEST(sigmoid_and_silu_gradients) {
  for (const std::int64_t count : kCounts) {
    const std::vector<float> x = numbers(count, 1), g = numbers(count, 2);
    std::vector<float> s(x.size()), out(x.size(), 9.0f), silu(x.size(), 9.0f);
    for (std::size_t i = 0; i < s.size(); ++i) s[i] = 1 / (1 + std::exp(-4 * x[i]));
    sigmoid_gradient(s.data(), g.data(), out.data(), count);
    silu_gradient(x.data(), s.data(), g.data(), silu.data(), count);
    bool good = true;
    for (std::size_t i = 0; i < s.size(); ++i) {
      const double y = s[i];
      good = good && close(out[i], g[i] * y * (1 - y)) && close(silu[i], g[i] * y * (1 + x[i] * (1 - y)));
    }
    CHECK(good);
  }
}

TEST(squared_gap_in_pieces) {
  for (const std::int64_t count : kCounts) {
    const std::vector<float> a = numbers(count, 3), b = numbers(count, 4);
    const std::int64_t pieces = (count + kGapPiece - 1) / kGapPiece;
    std::vector<float> slope(a.size(), 9.0f), sums(static_cast<std::size_t>(pieces), 9.0f);
    squared_gap(a.data(), b.data(), 0.25f, slope.data(), sums.data(), count, 0, pieces / 2);
    squared_gap(a.data(), b.data(), 0.25f, slope.data(), sums.data(), count, pieces / 2, pieces);
    double want = 0, got = 0;
    bool good = true;
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double gap = double{a[i]} - b[i];
      want += gap * gap;
      good = good && close(slope[i], 0.5 * gap);
    }
    for (const float sum : sums) got += sum;
    CHECK(good && std::fabs(got - want) <= 1e-5 * want);
  }
}
