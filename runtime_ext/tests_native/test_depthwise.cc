// Depth-wise convolutions with weights of the moment, and their derivatives, against plain sums.
#include "window/depthwise.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu.h"
#include "harness.h"
#include "window/columns.h"
#include "windows.h"

using namespace onnxprune::kernels;
using testing::awkward_case;
using testing::Case;
using testing::make_case;
using testing::products;
using testing::row_case;
using testing::square_case;
using testing::Sums;

namespace {

void check_case(const Case& c, std::uint64_t seed) {
  if (!CHECK_SAY(Depthwise::check(c.g, c.images, c.height, c.width).ok(), c.text())) return;
  const Depthwise d(c.g, c.images, c.height, c.width);
  const int oh = static_cast<int>(d.out_height()), ow = static_cast<int>(d.out_width());
  CHECK_SAY(oh == std::max(0, c.g.out_height(c.height)) && ow == std::max(0, c.g.out_width(c.width)), c.text());
  testing::Random random(seed);
  const auto filled = [&](std::int64_t count) { return testing::filled(&random, static_cast<std::size_t>(count)); };
  const std::vector<float> x = filled(d.planes() * c.height * c.width), w = filled(d.channels() * c.g.taps());
  const std::vector<float> g = filled(d.planes() * oh * ow), bias = filled(d.channels());
  Sums y_want(g.size()), dx_want(x.size()), dw_want(w.size());
  for (std::size_t i = 0; i < g.size(); ++i)
    y_want.add(i, bias[i / static_cast<std::size_t>(oh * ow) % static_cast<std::size_t>(c.g.groups)]);
  products(c, oh, ow, [&](std::size_t at, std::size_t from, std::size_t tap) {
    y_want.add(at, double{x[from]} * w[tap]);
    dx_want.add(from, double{g[at]} * w[tap]);
    dw_want.add(tap, double{g[at]} * x[from]);
  });
  const float stale = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> y(g.size(), stale), dx(x.size(), stale), dw(w.size(), stale);
  // In two parts, as two threads would.
  const std::int64_t half = d.planes() / 2, some = d.channels() / 2;
  d.run(x.data(), w.data(), bias.data(), y.data(), 0, half);
  d.run(x.data(), w.data(), bias.data(), y.data(), half, d.planes());
  d.input_gradient(g.data(), w.data(), dx.data(), 0, half);
  d.input_gradient(g.data(), w.data(), dx.data(), half, d.planes());
  d.weight_gradient(x.data(), g.data(), dw.data(), 0, some);
  d.weight_gradient(x.data(), g.data(), dw.data(), some, d.channels());
  CHECK_SAY(y_want.near(y, 1e-5), "values: " + c.text());
  CHECK_SAY(dx_want.near(dx, 1e-5), "derivative of the input: " + c.text());
  CHECK_SAY(dw_want.near(dw, 1e-5), "derivative of the weight: " + c.text());
  // Other parts, the same bits.
  std::vector<float> again(std::max({y.size(), dx.size(), dw.size()}), stale);
  d.run(x.data(), w.data(), bias.data(), again.data(), 0, d.planes());
  CHECK_SAY(std::equal(y.begin(), y.end(), again.begin()), "values in one part: " + c.text());
  d.input_gradient(g.data(), w.data(), again.data(), 0, d.planes());
  CHECK_SAY(std::equal(dx.begin(), dx.end(), again.begin()), "input in one part: " + c.text());
  d.weight_gradient(x.data(), g.data(), again.data(), 0, d.channels());
  CHECK_SAY(std::equal(dw.begin(), dw.end(), again.begin()), "weight in one part: " + c.text());
}

}  // namespace

TEST(depthwise_in_the_usual_shapes) {
  std::uint64_t seed = 1;
  for (const int kernel : {3, 5, 7})
    for (const int stride : {1, 2})
      for (const int size : {1, 2, 7, 14, 33, 112})
        check_case(square_case(2, 3, size, kernel, stride), ++seed);
}

TEST(depthwise_of_one_row) {
  std::uint64_t seed = 100;
  for (const int width : {1, 5, 64, 3000})
    for (const int stride : {1, 2, 3, 5})
      check_case(row_case(width, stride), ++seed);
}

TEST(depthwise_in_awkward_shapes) {
  testing::Random random(7);
  for (int i = 0; i < 400; ++i)
    check_case(awkward_case(&random, {{1, 3}, {1, 3}, {1, 24}, {1, 40}}), static_cast<std::uint64_t>(1000 + i));
}

TEST(depthwise_of_nothing) {
  std::uint64_t seed = 0;
  for (const Case& c : testing::cases_of_nothing()) check_case(c, ++seed);
}

TEST(depthwise_refuses_what_is_not) {
  const Case good = make_case(1, 4, 5, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1);
  testing::check_refused<Depthwise>(
      good, {[](Case* c) { c->g.groups = 2; }, [](Case* c) { c->g.out_channels = 8; }, [](Case* c) { c->g.pad_left = -1; },
             [](Case* c) { c->g.stride_w = 0; }, [](Case* c) { c->height = -1; },
             [](Case* c) { c->g.stride_h = c->g.kernel_h = 1 << 12; }});
  ConvGeometry g = good.g;
  g.pad_left = g.pad_right = g.pad_top = g.pad_bottom = 1 << 20;
  CHECK(!Depthwise::check(g, std::int64_t{1} << 31, std::int64_t{1} << 31, std::int64_t{1} << 31).ok());
}

TEST(window_columns_are_what_the_taps_meet) {
  testing::Random random(9);
  for (int i = 0; i < 200; ++i) {
    const Case c = awkward_case(&random, {{0, 3}, {1, 3}, {0, 9}, {1, 20}, 5, 4});
    if (!CHECK(check_window(c.g, c.images, c.height, c.width).ok())) return;
    const int oh = static_cast<int>(rows_of(c.g, c.height).out), ow = static_cast<int>(columns_of(c.g, c.width).out);
    const std::vector<float> x = testing::filled(&random, static_cast<std::size_t>(c.images * c.g.groups * c.height * c.width));
    const int lines = c.g.groups * c.g.taps(), pixels = c.images * oh * ow;
    std::vector<float> want(static_cast<std::size_t>(lines * pixels)), got(want.size(), 9.0f);
    products(c, oh, ow, [&](std::size_t at, std::size_t from, std::size_t tap) {
      const int plane = static_cast<int>(at) / (oh * ow), image = plane / c.g.groups;
      want[tap * static_cast<std::size_t>(pixels) + static_cast<std::size_t>(image * oh * ow) +
           at % static_cast<std::size_t>(oh * ow)] = x[from];
    });
    window_columns(c.g, c.images, c.height, c.width, x.data(), got.data(), 0, lines / 2);
    window_columns(c.g, c.images, c.height, c.width, x.data(), got.data(), lines / 2, lines);
    CHECK_SAY(want == got, c.text());
  }
}
