// Convolutions and the products they sum, for tests against plain sums.
#pragma once

#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <string>
#include <vector>

#include "harness.h"
#include "layout.h"

namespace testing {

using onnxprune::kernels::ConvGeometry;

struct Case {
  ConvGeometry g;
  int images, height, width;

  std::string text() const {
    std::string s = std::to_string(images) + " images of " + std::to_string(g.groups) + " x " + std::to_string(height) +
                    " x " + std::to_string(width) + ", kernel";
    for (const int v : {g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.dilation_h, g.dilation_w, g.pad_top,
                        g.pad_left, g.pad_bottom, g.pad_right})
      s += " " + std::to_string(v);
    return s;
  }
};

inline Case make_case(int images, int channels, int height, int width, int kh, int kw, int sh, int sw, int dh, int dw, int top,
               int left, int bottom, int right) {
  Case c{{}, images, height, width};
  c.g.in_channels = c.g.out_channels = c.g.groups = channels;
  c.g.kernel_h = kh, c.g.kernel_w = kw, c.g.stride_h = sh, c.g.stride_w = sw;
  c.g.dilation_h = dh, c.g.dilation_w = dw;
  c.g.pad_top = top, c.g.pad_left = left, c.g.pad_bottom = bottom, c.g.pad_right = right;
  return c;
}

// Odd kernels on squares, padded on all sides alike.
inline Case square_case(int images, int channels, int size, int kernel, int stride) {
  const int pad = kernel / 2;
  return make_case(images, channels, size, size, kernel, kernel, stride, stride, 1, 1, pad, pad, pad, pad);
}

inline Case row_case(int width, int stride) { return make_case(2, 2, 1, width, 1, 4, 1, stride, 1, 2, 0, 5, 0, 3); }

// No image, a kernel that does not fit, and no pixel.
inline std::vector<Case> cases_of_nothing() {
  return {make_case(0, 2, 5, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1), make_case(1, 2, 2, 2, 5, 5, 1, 1, 1, 1, 0, 0, 0, 0),
          make_case(1, 2, 0, 4, 3, 3, 2, 2, 1, 1, 2, 2, 2, 2)};
}

// From the least to the most of each.
struct Sizes {
  int images[2], channels[2], height[2], width[2], kernel = 7, stride = 4;
};

inline Case awkward_case(Random* random, const Sizes& sizes) {
  const auto one = [&](const int (&range)[2]) { return random->between(range[0], range[1]); };
  int v[14] = {};
  int* at = v;
  for (const auto* range : {&sizes.images, &sizes.channels, &sizes.height, &sizes.width}) *at++ = one(*range);
  for (const int most : {sizes.kernel, sizes.kernel, sizes.stride, sizes.stride, 3, 3}) *at++ = random->between(1, most);
  while (at != v + 14) *at++ = random->below(6);
  return make_case(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], v[12], v[13]);
}

inline std::vector<float> filled(Random* random, std::size_t count) {
  std::vector<float> v(count);
  for (float& x : v) x = random->symmetric();
  return v;
}

// Conv takes `good`, but not with any of the changes.
template <class Conv>
void check_refused(const Case& good, std::initializer_list<void (*)(Case*)> changes) {
  CHECK(Conv::check(good.g, good.images, good.height, good.width).ok());
  for (const auto change : changes) {
    Case c = good;
    change(&c);
    CHECK_SAY(!Conv::check(c.g, c.images, c.height, c.width).ok(), c.text());
  }
}

// use(index of y, of x, of w) for every product that the convolution sums.
template <class Use>
void products(const Case& c, int oh, int ow, Use&& use) {
  const ConvGeometry& g = c.g;
  for (int p = 0; p < c.images * g.groups; ++p)
    for (int oy = 0; oy < oh; ++oy)
      for (int ox = 0; ox < ow; ++ox)
        for (int ky = 0; ky < g.kernel_h; ++ky)
          for (int kx = 0; kx < g.kernel_w; ++kx) {
            const int y = oy * g.stride_h + ky * g.dilation_h - g.pad_top;
            const int x = ox * g.stride_w + kx * g.dilation_w - g.pad_left;
            if (y < 0 || y >= c.height || x < 0 || x >= c.width) continue;
            use(static_cast<std::size_t>((p * oh + oy) * ow + ox), static_cast<std::size_t>((p * c.height + y) * c.width + x),
                static_cast<std::size_t>((p % g.groups * g.kernel_h + ky) * g.kernel_w + kx));
          }
}

struct Sums {
  std::vector<double> sum, size;
  explicit Sums(std::size_t count) : sum(count), size(count) {}
  void add(std::size_t at, double v) { sum[at] += v, size[at] += std::fabs(v); }
  bool near(const std::vector<float>& got, double tolerance) const {
    for (std::size_t i = 0; i < sum.size(); ++i)
      if (!(std::fabs(got[i] - sum[i]) <= tolerance * size[i])) return false;
    return true;
  }
};

}  // namespace testing
