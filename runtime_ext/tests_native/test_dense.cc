// Convolutions of all channels with weights of the moment, and their derivatives, against plain sums.
#include "window/dense.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "harness.h"
#include "window/dense_tiles.h"
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

// A convolution of `c`, whose channels are the input's, to so many others.
void check_case(Case c, int outputs, std::uint64_t seed) {
  const Case plane = [&] {
    Case one = c;
    one.images = one.g.groups = 1;
    return one;
  }();
  const int inputs = c.g.groups, taps = c.g.taps();
  const std::string text = std::to_string(outputs) + " outputs of " + c.text();
  c.g.out_channels = outputs, c.g.groups = 1;
  if (!CHECK_SAY(Dense::check(c.g, c.images, c.height, c.width).ok(), text)) return;
  const Dense d(c.g, c.images, c.height, c.width);
  const int oh = static_cast<int>(d.out_height()), ow = static_cast<int>(d.out_width());
  testing::Random random(seed);
  const auto filled = [&](std::int64_t count) { return testing::filled(&random, static_cast<std::size_t>(count)); };
  const auto in_area = static_cast<std::size_t>(c.height * c.width), out_area = static_cast<std::size_t>(oh * ow);
  const std::vector<float> x = filled(c.images * inputs * c.height * c.width), w = filled(outputs * inputs * taps);
  const std::vector<float> g = filled(c.images * outputs * oh * ow), bias = filled(outputs);
  Sums y_want(g.size()), dx_want(x.size()), dw_want(w.size());
  for (std::size_t i = 0; i < g.size(); ++i) y_want.add(i, bias[i / out_area % static_cast<std::size_t>(outputs)]);
  products(plane, oh, ow, [&](std::size_t at, std::size_t from, std::size_t tap) {
    for (int image = 0; image < c.images; ++image)
      for (int m = 0; m < outputs; ++m)
        for (int k = 0; k < inputs; ++k) {
          const std::size_t y_at = static_cast<std::size_t>(image * outputs + m) * out_area + at;
          const std::size_t x_at = static_cast<std::size_t>(image * inputs + k) * in_area + from;
          const std::size_t w_at = static_cast<std::size_t>((m * inputs + k) * taps) + tap;
          y_want.add(y_at, double{x[x_at]} * w[w_at]);
          dx_want.add(x_at, double{g[y_at]} * w[w_at]);
          dw_want.add(w_at, double{g[y_at]} * x[x_at]);
        }
  });
  // In as many parts as threads would make of it.
  const float stale = std::numeric_limits<float>::quiet_NaN();
  const auto run = [&](const auto& conv, const std::vector<float>& from, bool turned, const float* b, std::size_t size,
                       std::int64_t parts) {
    std::vector<float> packed(static_cast<std::size_t>(conv.packed_floats()), stale), to(size, stale);
    for (std::int64_t i = 0; i < parts; ++i)
      conv.pack(w.data(), turned, packed.data(), conv.blocks() * i / parts, conv.blocks() * (i + 1) / parts);
    for (std::int64_t i = 0; i < parts; ++i)
      conv.run(from.data(), packed.data(), b, to.data(), conv.bands() * i / parts, conv.bands() * (i + 1) / parts);
    return to;
  };
  const auto slopes = [&](std::int64_t parts) {
    std::vector<float> lines(static_cast<std::size_t>(c.images * oh * ow * d.lines()), stale), dw(w.size(), stale);
    for (std::int64_t i = 0; i < parts; ++i)
      d.turn_out(g.data(), lines.data(), c.images * i / parts, c.images * (i + 1) / parts);
    for (std::int64_t i = 0; i < parts; ++i)
      d.weight_gradient(x.data(), lines.data(), dw.data(), inputs * i / parts, inputs * (i + 1) / parts);
    return dw;
  };
  const auto tile_slopes = [&](const DenseTiles& t, std::int64_t parts) {
    std::vector<float> lines(static_cast<std::size_t>(c.images * oh * ow * d.lines()), stale), dw(w.size(), stale);
    std::vector<float> sums(static_cast<std::size_t>(t.pieces() * t.slope_floats()), stale);
    d.turn_out(g.data(), lines.data(), 0, c.images);
    for (std::int64_t i = 0; i < parts; ++i)
      t.slopes(x.data(), lines.data(), sums.data(), t.pieces() * i / parts, t.pieces() * (i + 1) / parts);
    for (std::int64_t i = 0; i < parts; ++i)
      t.weight_gradient(sums.data(), dw.data(), inputs * i / parts, inputs * (i + 1) / parts);
    return dw;
  };
  const std::vector<float> y = run(d, x, false, bias.data(), g.size(), 1), dw = slopes(1);
  CHECK_SAY(y_want.near(y, 1e-5), "values: " + text);
  CHECK_SAY(dw_want.near(dw, 1e-5), "derivative of the weight: " + text);
  CHECK_SAY(y == run(d, x, false, bias.data(), g.size(), 3), "values in parts: " + text);
  CHECK_SAY(dw == slopes(3), "weight in parts: " + text);
  if (DenseTiles::fits(c.g, c.height, c.width)) {
    const DenseTiles t(c.g, c.images, c.height, c.width);
    const std::vector<float> ty = run(t, x, false, bias.data(), g.size(), 1), tdw = tile_slopes(t, 1);
    CHECK_SAY(y_want.near(ty, 1e-5), "values by tiles: " + text);
    // Of all nine taps the same: they come out of the same sums, even those that meet padding alone.
    Sums together = dw_want;
    for (std::size_t i = 0; i < w.size(); ++i) {
      const auto first = dw_want.size.begin() + static_cast<std::ptrdiff_t>(i / 9 * 9);
      together.size[i] = *std::max_element(first, first + 9);
    }
    CHECK_SAY(together.near(tdw, 1e-5), "derivative of the weight by tiles: " + text);
    CHECK_SAY(ty == run(t, x, false, bias.data(), g.size(), 3), "values by tiles in parts: " + text);
    CHECK_SAY(tdw == tile_slopes(t, 3), "weight by tiles in parts: " + text);
  }
  if (!Dense::turns(c.g)) return;
  const ConvGeometry back = Dense::turned(c.g, d);
  if (!CHECK_SAY(Dense::check(back, c.images, oh, ow).ok(), "back: " + text)) return;
  const Dense turned(back, c.images, oh, ow);
  if (!CHECK_SAY(turned.out_height() == c.height && turned.out_width() == c.width, text)) return;
  const std::vector<float> dx = run(turned, g, true, nullptr, x.size(), 1);
  CHECK_SAY(dx_want.near(dx, 1e-5), "derivative of the input: " + text);
  CHECK_SAY(dx == run(turned, g, true, nullptr, x.size(), 3), "input in parts: " + text);
  if (!DenseTiles::fits(back, oh, ow)) return;
  const DenseTiles t(back, c.images, oh, ow);
  CHECK_SAY(dx_want.near(run(t, g, true, nullptr, x.size(), 2), 1e-5), "derivative of the input by tiles: " + text);
}

}  // namespace

TEST(dense_in_the_usual_shapes) {
  std::uint64_t seed = 1;
  for (const int kernel : {1, 3, 5})
    for (const int stride : {1, 2})
      for (const int size : {1, 2, 7, 8, 16, 33})
        for (const int outputs : {3, 16, 37})
          check_case(square_case(2, 5, size, kernel, stride), outputs, ++seed);
}

TEST(dense_of_one_row) {
  std::uint64_t seed = 100;
  for (const int width : {1, 5, 64, 3000})
    for (const int stride : {1, 2, 3})
      check_case(row_case(width, stride), 7, ++seed);
}

TEST(dense_by_tiles) {
  testing::Random random(17);
  for (int i = 0; i < 50; ++i) {
    const Case c = make_case(random.between(1, 9), random.between(8, 12), random.between(1, 12), random.between(1, 35),
                             3, 3, 1, 1, 1, 1, random.below(4), random.below(4), random.below(4), random.below(4));
    check_case(c, random.between(8, 20), static_cast<std::uint64_t>(200 + i));
  }
}

TEST(dense_in_bands) {
  check_case(make_case(2, 40, 60, 50, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1), 5, 1);
  check_case(make_case(1, 40, 60, 50, 3, 3, 1, 1, 2, 2, 2, 2, 2, 2), 35, 2);
  check_case(make_case(1, 60, 50, 62, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1), 6, 3);
}

TEST(dense_in_awkward_shapes) {
  testing::Random random(7);
  for (int i = 0; i < 400; ++i) {
    const Case c = awkward_case(&random, {{1, 5}, {1, 9}, {1, 12}, {1, 24}, 7, 3});
    check_case(c, random.between(1, 20), static_cast<std::uint64_t>(1000 + i));
  }
}

TEST(dense_of_nothing) {
  std::uint64_t seed = 0;
  for (const Case& c : testing::cases_of_nothing()) check_case(c, 3, ++seed);
}

TEST(dense_refuses_what_is_not) {
  Case good = make_case(1, 4, 5, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1);
  good.g.groups = 1;
  testing::check_refused<Dense>(
      good, {[](Case* c) { c->g.groups = 2; }, [](Case* c) { c->g.in_channels = 0; }, [](Case* c) { c->g.pad_left = -1; },
             [](Case* c) { c->g.stride_w = 0; }, [](Case* c) { c->height = -1; }, [](Case* c) { c->width = 1 << 30; }});
}
