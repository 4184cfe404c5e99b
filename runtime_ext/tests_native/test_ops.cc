// Pooling, pointwise, normalisation, softmax, dense products and data movement.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "harness.h"
#include "planes.h"
#include "reference.h"
#include "resize.h"

namespace {

using namespace onnxprune::kernels;
using testing::only_pixels_differ;
using testing::Random;
using testing::random_floats;

PadNeed random_need(Random* random) {
  PadNeed need;
  need.top = random->below(3);
  need.left = random->below(3);
  need.bottom = random->below(3);
  need.right = random->below(3);
  need.stride_h = random->between(1, 3);
  need.stride_w = random->between(1, 3);
  const int grid = need.stride_h * need.stride_w;
  need.phase_mask = (std::uint64_t{1} << grid) - 1;
  return need;
}

}  // namespace

TEST(move_round_trips) {
  Random random(5);
  for (int i = 0; i < 300; ++i) {
    const int height = random.between(1, 19), width = random.between(1, 37),
              channels = random.between(1, 19);  // several at a time, and a rest
    const PlaneLayout a = make_layout(height, width, random_need(&random)),
                      b = make_layout(height, width, random_need(&random));
    const std::vector<float> image =
        random_floats(static_cast<std::size_t>(channels) * height * width, &random);
    std::vector<float> in_a(static_cast<std::size_t>(a.buffer_floats(channels)), 7.0f),
        in_b(static_cast<std::size_t>(b.buffer_floats(channels)), 7.0f);
    std::vector<float> back(image.size());
    import_nchw(image.data(), a, in_a.data(), 0, channels);
    convert_planes(a, in_a.data(), b, in_b.data(), 0, channels);
    export_nchw(b, in_b.data(), back.data(), 0, channels);
    CHECK(back == image);
    for (int c = 0; c < channels; ++c) {
      const auto* plane = in_b.data() + c * b.plane_stride;
      CHECK(only_pixels_differ(b, std::vector<float>(plane, plane + b.plane_stride)));
    }
    CHECK(a.plane_stride % kLane == 0 && a.plane_stride / kLane % 2 == 1 && a.lead % kLane == 0);
  }
}

TEST(move_tokens) {
  Random random(6);
  for (const int tokens : {1, 5, 16, 33}) {
    for (const int features : {1, 16, 37}) {
      const PlaneLayout l = make_layout(1, tokens);
      const std::vector<float> rows =
          random_floats(static_cast<std::size_t>(tokens) * features, &random);
      std::vector<float> planes(static_cast<std::size_t>(l.buffer_floats(features)), 9.0f),
          back(rows.size());
      import_tokens(rows.data(), features, l, planes.data(), 0, features);
      CHECK(
          planes[static_cast<std::size_t>(l.plane_stride * (features - 1) + l.lead + tokens - 1)] ==
          rows.back());
      export_tokens(l, planes.data(), back.data(), features, 0, features);
      CHECK(back == rows);
      CHECK(only_pixels_differ(
          l, std::vector<float>(planes.begin(), planes.begin() + l.plane_stride)));
    }
  }
}

TEST(natural_layout_is_nchw) {
  PlaneLayout l;
  CHECK(!natural_layout(7, 7, &l).ok());
  CHECK(natural_layout(4, 8, &l).ok());
  Random random(8);
  const std::vector<float> image = random_floats(3 * 32, &random);
  std::vector<float> planes(static_cast<std::size_t>(l.buffer_floats(3)));
  import_nchw(image.data(), l, planes.data(), 0, 3);
  CHECK(std::memcmp(planes.data(), image.data(), image.size() * sizeof(float)) == 0);
}

TEST(pooling) {
  Random random(9);
  for (int i = 0; i < 400; ++i) {
    ConvGeometry g;
    g.in_channels = g.out_channels = g.groups = random.between(1, 3);
    g.kernel_h = random.between(1, 4);
    g.kernel_w = random.between(1, 4);
    g.stride_h = random.between(1, 3);
    g.stride_w = random.between(1, 3);
    g.dilation_h = random.between(1, 2);
    g.pad_top = random.between(0, g.kernel_h - 1);
    g.pad_left = random.between(0, g.kernel_w - 1);
    g.pad_bottom = random.between(0, g.kernel_h - 1);
    g.pad_right = random.between(0, g.kernel_w - 1);
    const int height = random.between(1, 17), width = random.between(1, 40);
    const int oh = g.out_height(height), ow = g.out_width(width), channels = g.in_channels;
    if (oh < 1 || ow < 1) continue;
    g.dilation_w = random.between(1, 2);
    if (g.out_width(width) != ow) g.dilation_w = 1;
    const PlaneLayout in = make_layout(height, width), out = make_layout(oh, ow, random_need(&random));
    std::vector<float> image =
        random_floats(static_cast<std::size_t>(channels) * height * width, &random);
    for (float& v : image) v -= 2.0f;  // all negative: zero padding must not win
    std::vector<float> source(static_cast<std::size_t>(in.buffer_floats(channels))),
        target(static_cast<std::size_t>(out.buffer_floats(channels)), 5.0f);
    import_nchw(image.data(), in, source.data(), 0, channels);
    std::vector<float> got(static_cast<std::size_t>(channels) * oh * ow);
    for (int kind = 0; kind < 3; ++kind) {
      const Status status =
          kind == 0
              ? max_pool(g, in, source.data(), out, target.data(), 0, channels)
              : average_pool(g, kind == 1, in, source.data(), out, target.data(), 0, channels);
      if (!CHECK_SAY(status.ok(), status.message)) continue;
      export_nchw(out, target.data(), got.data(), 0, channels);
      CHECK(only_pixels_differ(
          out, std::vector<float>(target.begin(), target.begin() + out.plane_stride)));
      bool right = true;
      for (int c = 0; c < channels; ++c) {
        for (int y = 0; y < oh; ++y) {
          for (int x = 0; x < ow; ++x) {
            double best = -1e30, total = 0.0;
            int count = 0;
            for (int ky = 0; ky < g.kernel_h; ++ky) {
              for (int kx = 0; kx < g.kernel_w; ++kx) {
                const int iy = y * g.stride_h + ky * g.dilation_h - g.pad_top,
                          ix = x * g.stride_w + kx * g.dilation_w - g.pad_left;
                if (iy < 0 || ix < 0 || iy >= height || ix >= width) continue;
                const double v = image[(static_cast<std::size_t>(c) * height + iy) * width + ix];
                best = std::fmax(best, v);
                total += v;
                ++count;
              }
            }
            if (count == 0) continue;  // a window of padding only: undefined in ONNX
            const double want =
                kind == 0 ? best : total / (kind == 1 ? g.kernel_h * g.kernel_w : count);
            right = right &&
                    std::fabs(got[(static_cast<std::size_t>(c) * oh + y) * ow + x] - want) < 1e-5;
          }
        }
      }
      CHECK(right);
    }
  }
}

TEST(global_pooling_and_pointwise) {
  Random random(10);
  for (int i = 0; i < 200; ++i) {
    const int height = random.between(1, 15), width = random.between(1, 15),
              channels = random.between(1, 4);
    const PlaneLayout l = make_layout(height, width, random_need(&random));
    const std::size_t pixels = static_cast<std::size_t>(height) * width, all = pixels * channels;
    const std::vector<float> a = random_floats(all, &random), b = random_floats(all, &random);
    const std::vector<float> scale = random_floats(static_cast<std::size_t>(channels), &random),
                             shift = random_floats(static_cast<std::size_t>(channels), &random);
    std::vector<float> pa(static_cast<std::size_t>(l.buffer_floats(channels)), 3.0f),
        pb = pa, pc = pa, got(all), mean(static_cast<std::size_t>(channels)), top = mean;
    import_nchw(a.data(), l, pa.data(), 0, channels);
    import_nchw(b.data(), l, pb.data(), 0, channels);
    global_average_pool(l, pa.data(), mean.data(), 0, channels);
    global_max_pool(l, pa.data(), top.data(), 0, channels);
    for (int c = 0; c < channels; ++c) {
      double total = 0.0, best = -1e30;
      for (std::size_t p = 0; p < pixels; ++p) {
        total += a[c * pixels + p];
        best = std::fmax(best, a[c * pixels + p]);
      }
      CHECK(std::fabs(mean[c] - total / static_cast<double>(pixels)) < 1e-5 &&
            top[c] == static_cast<float>(best));
    }
    Epilogue e;
    e.activation = Activation::sigmoid;  // sigmoid(0) is not 0: borders must be masked
    for (const Binary op : {Binary::add, Binary::subtract, Binary::multiply, Binary::divide}) {
      binary_planes(op, l, pa.data(), pb.data(), pc.data(), e, 0, channels);
      export_nchw(l, pc.data(), got.data(), 0, channels);
      bool right = true;
      for (std::size_t p = 0; p < all; ++p) {
        const double v = op == Binary::add        ? a[p] + b[p]
                         : op == Binary::subtract ? a[p] - b[p]
                         : op == Binary::multiply ? a[p] * b[p]
                                                  : a[p] / b[p];
        right = right && std::fabs(got[p] - reference::activate(e, v)) < 2e-7;
      }
      CHECK(right);
      CHECK(only_pixels_differ(l, std::vector<float>(pc.begin(), pc.begin() + l.plane_stride)));
    }
    affine_planes(l, pa.data(), scale.data(), i % 2 ? shift.data() : nullptr, pa.data(), e, 0,
                  channels);  // in place
    export_nchw(l, pa.data(), got.data(), 0, channels);
    bool right = true;
    for (std::size_t p = 0; p < all; ++p) {
      const double v =
          static_cast<double>(a[p]) * scale[p / pixels] + (i % 2 ? shift[p / pixels] : 0.0f);
      right = right && std::fabs(got[p] - reference::activate(e, v)) < 2e-7;
    }
    CHECK(right);
    CHECK(only_pixels_differ(l, std::vector<float>(pa.begin(), pa.begin() + l.plane_stride)));
  }
}

TEST(planes_of_which_one_may_be_smaller) {
  Random random(12);
  for (int i = 0; i < 600; ++i) {
    const int sizes[3] = {random.between(1, 5), random.between(1, 9), random.between(1, 70)};
    int of[2][3];  // channels, height, width of each operand
    for (int k = 0; k < 3; ++k) {
      const int which = random.between(0, 3);
      for (int s = 0; s < 2; ++s) of[s][k] = which == s ? 1 : sizes[k];
    }
    int all[3];
    for (int k = 0; k < 3; ++k) all[k] = std::max(of[0][k], of[1][k]);
    const auto plain_need = [&] {
      PadNeed need = random_need(&random);
      need.stride_h = need.stride_w = 1;
      need.phase_mask = 1;
      return need;
    };
    const PadNeed need = plain_need();
    // Those of the size of the result lie as it does, or not; single pixels are contiguous vectors.
    const auto layout = [&](const int* x) {
      if (x[1] * x[2] == 1) return vector_layout();
      return make_layout(x[1], x[2], random.between(0, 3) > 0 ? need : plain_need());
    };
    const PlaneLayout l = all[1] * all[2] == 1 ? vector_layout() : make_layout(all[1], all[2], need);
    PlaneOperand operands[2];
    std::vector<float> numbers[2], planes[2];
    for (int s = 0; s < 2; ++s) {
      operands[s] = {layout(of[s]), of[s][0]};
      numbers[s] = random_floats(static_cast<std::size_t>(of[s][0]) * of[s][1] * of[s][2], &random);
      if (s == 1)
        for (float& v : numbers[s]) v += v < 0 ? -0.25f : 0.25f;  // divisors
      planes[s].assign(static_cast<std::size_t>(operands[s].layout.buffer_floats(of[s][0])), 3.0f);
      import_nchw(numbers[s].data(), operands[s].layout, planes[s].data(), 0, of[s][0]);
    }
    std::vector<float> out(static_cast<std::size_t>(l.buffer_floats(all[0])), 5.0f);
    std::vector<float> got(static_cast<std::size_t>(all[0]) * all[1] * all[2]);
    Epilogue e;
    e.activation = Activation::sigmoid;
    const auto number = [&](int s, int c, int y, int x) {
      const int* n = of[s];
      return numbers[s][(static_cast<std::size_t>(c % n[0]) * n[1] + y % n[1]) * n[2] + x % n[2]];
    };
    for (const Binary op : {Binary::add, Binary::subtract, Binary::multiply, Binary::divide}) {
      const int half = all[0] / 2;
      for (const int first : {0, half})
        broadcast_planes(op, l, all[0], operands[0], planes[0].data(), operands[1], planes[1].data(),
                         out.data(), e, first, first == half ? all[0] : half);
      export_nchw(l, out.data(), got.data(), 0, all[0]);
      bool right = true;
      for (int c = 0; c < all[0]; ++c)
        for (int y = 0; y < all[1]; ++y)
          for (int x = 0; x < all[2]; ++x) {
            const float a = number(0, c, y, x), b = number(1, c, y, x);
            const double v = op == Binary::add        ? a + b
                             : op == Binary::subtract ? a - b
                             : op == Binary::multiply ? a * b
                                                      : a / b;
            const std::size_t at = (static_cast<std::size_t>(c) * all[1] + y) * all[2] + x;
            right = right && std::fabs(got[at] - reference::activate(e, v)) < 2e-7;
          }
      CHECK(right);
      CHECK(only_pixels_differ(l, std::vector<float>(out.begin(), out.begin() + l.plane_stride)));
    }
  }
}

TEST(layer_norm_and_softmax) {
  Random random(11);
  for (const int tokens : {1, 7, 16, 35, 80}) {
    for (const int features : {1, 8, 65}) {
      for (int variant = 0; variant < 16; ++variant) {
        // A single token may also be a contiguous vector.
        const PlaneLayout l =
            tokens == 1 && features > 1 ? vector_layout() : make_layout(1, tokens);
        const std::size_t floats = static_cast<std::size_t>(l.buffer_floats(features)) + features;
        const std::vector<float> a = random_floats(static_cast<std::size_t>(tokens) * features,
                                                   &random),
                                 b = random_floats(a.size(), &random);
        const std::vector<float> bias = random_floats(static_cast<std::size_t>(features), &random),
                                 scale = random_floats(bias.size(), &random),
                                 shift = random_floats(bias.size(), &random);
        std::vector<float> pa(floats), pb(floats), out(floats, 4.0f), sum(floats, 4.0f),
            got(a.size()), got_sum(a.size());
        import_tokens(a.data(), features, l, pa.data(), 0, features);
        import_tokens(b.data(), features, l, pb.data(), 0, features);
        const bool use_b = variant & 1, use_bias = variant & 2, use_sum = variant & 4,
                   centred = variant & 8;
        const int middle = tokens / 16 * 16;  // two workers
        for (const auto& range :
             {std::pair<int, int>{0, middle}, std::pair<int, int>{middle, tokens}}) {
          layer_norm(l, features, pa.data(), use_b ? pb.data() : nullptr,
                     use_bias ? bias.data() : nullptr, scale.data(), shift.data(), 1e-5f,
                     centred, out.data(), use_sum ? sum.data() : nullptr, range.first, range.second);
        }
        export_tokens(l, out.data(), got.data(), features, 0, features);
        if (use_sum) export_tokens(l, sum.data(), got_sum.data(), features, 0, features);
        bool right = true;
        for (int t = 0; t < tokens; ++t) {
          std::vector<double> x(static_cast<std::size_t>(features));
          double mean = 0.0, variance = 0.0;
          for (int f = 0; f < features; ++f) {
            x[f] = a[t * features + f] + (use_b ? b[t * features + f] : 0.0) +
                   (use_bias ? bias[f] : 0.0);
            if (centred) mean += x[f] / features;
          }
          for (int f = 0; f < features; ++f) variance += (x[f] - mean) * (x[f] - mean) / features;
          for (int f = 0; f < features; ++f) {
            const double want = (x[f] - mean) / std::sqrt(variance + 1e-5) * scale[f] + shift[f];
            right = right && std::fabs(got[t * features + f] - want) < 2e-5;
            if (use_sum) right = right && std::fabs(got_sum[t * features + f] - x[f]) < 1e-6;
          }
        }
        CHECK(right);
        if (l.plane_stride > 1)
          CHECK(
              only_pixels_differ(l, std::vector<float>(out.begin(), out.begin() + l.plane_stride)));
      }
    }
  }
  for (const int columns : {1, 5, 16, 33, 128}) {
    const std::vector<float> x = random_floats(static_cast<std::size_t>(columns) * 3, &random),
                             mask = random_floats(x.size(), &random);
    std::vector<float> y(x.size());
    softmax_rows(x.data(), y.data(), columns, columns, 3.0f, mask.data(), columns, 0, 3);
    for (int r = 0; r < 3; ++r) {
      double total = 0.0;
      for (int c = 0; c < columns; ++c)
        total += std::exp(3.0 * x[r * columns + c] + mask[r * columns + c]);
      bool right = true;
      for (int c = 0; c < columns; ++c) {
        right = right && std::fabs(y[r * columns + c] -
                                   std::exp(3.0 * x[r * columns + c] + mask[r * columns + c]) /
                                       total) < 1e-6;
      }
      CHECK(right);
    }
  }
}

TEST(dense_matmul) {
  Random random(12);
  for (int i = 0; i < 60; ++i) {
    const int m = random.between(1, 20), n = random.between(1, 70), k = random.between(1, 40);
    const bool transposed = random.below(2) != 0;
    const std::vector<float> a = random_floats(static_cast<std::size_t>(m) * k, &random),
                             b = random_floats(static_cast<std::size_t>(k) * n, &random);
    std::vector<float> c(static_cast<std::size_t>(m) * n);
    const int cut = random.below(m + 1);
    const std::int64_t a_row = transposed ? 1 : k, a_col = transposed ? m : 1;
    matmul_dense(m, n, k, 0.5f, a.data(), a_row, a_col, b.data(), n, c.data(), n, 0, cut);
    matmul_dense(m, n, k, 0.5f, a.data(), a_row, a_col, b.data(), n, c.data(), n, cut, m);
    bool right = true;
    for (int r = 0; r < m; ++r) {
      for (int j = 0; j < n; ++j) {
        double want = 0.0;
        for (int t = 0; t < k; ++t) want += 0.5 * a[r * a_row + t * a_col] * b[t * n + j];
        right = right && std::fabs(c[r * n + j] - want) < 1e-5;
      }
    }
    CHECK(right);
  }
}

TEST(resized_planes_are_what_their_tables_say) {
  Random random(11);
  for (int round = 0; round < 60; ++round) {
    const int height = random.between(1, 9), width = random.between(1, 40);
    const bool whole = round % 3 == 0, linear = round % 2 == 0;
    const int times = 1 << random.below(3);
    const int rows = whole ? height * times : random.between(1, 12);
    const int columns = whole ? width * times : random.between(1, 50);
    PadNeed need = random_need(&random), want = random_need(&random);
    need.stride_h = need.stride_w = want.stride_h = want.stride_w = 1;
    need.phase_mask = want.phase_mask = 1;
    const PlaneLayout in = make_layout(height, width, need), out = make_layout(rows, columns, want);
    auto axis = [&](int from, int to) {
      ResizeAxis a;
      for (int i = 0; i < to; ++i) {
        a.first.push_back(whole ? i / times : random.below(from));
        if (!linear) continue;
        a.second.push_back(random.below(from));
        a.weight.push_back(random.symmetric());
      }
      return a;
    };
    const ResizeAxis ys = axis(height, rows), xs = axis(width, columns);
    const int channels = 3;
    const std::vector<float> source = random_floats(static_cast<std::size_t>(in.buffer_floats(channels)), &random);
    std::vector<float> planes = random_floats(static_cast<std::size_t>(out.buffer_floats(channels)), &random);
    resize_planes(ys, xs, in, source.data(), out, planes.data(), 1, channels);
    resize_planes(ys, xs, in, source.data(), out, planes.data(), 0, 1);
    bool right = true;
    for (int c = 0; c < channels; ++c) {
      auto pixel = [&](int y, int x) {
        return static_cast<double>(source[static_cast<std::size_t>(c * in.plane_stride + in.lead + y * in.pitch + x)]);
      };
      for (std::size_t y = 0; y < ys.first.size(); ++y) {
        for (std::size_t x = 0; x < xs.first.size(); ++x) {
          double expected = pixel(ys.first[y], xs.first[x]);
          if (linear) {
            const double v = ys.weight[y], w = xs.weight[x];
            expected = (1 - v) * ((1 - w) * expected + w * pixel(ys.first[y], xs.second[x])) +
                       v * ((1 - w) * pixel(ys.second[y], xs.first[x]) + w * pixel(ys.second[y], xs.second[x]));
          }
          const std::size_t at = static_cast<std::size_t>(c * out.plane_stride + out.lead) + y * static_cast<std::size_t>(out.pitch) + x;
          right = right && std::fabs(planes[at] - expected) < 1e-5;
        }
      }
      const float* plane = planes.data() + c * out.plane_stride;
      CHECK(only_pixels_differ(out, std::vector<float>(plane, plane + out.plane_stride)));
    }
    CHECK(right);
  }
}

TEST(interleaved_planes_lie_phase_by_phase) {
  Random random(12);
  for (int round = 0; round < 80; ++round) {
    ConvGeometry g;
    g.stride_h = random.between(1, 4);
    g.stride_w = random.between(1, 4);
    g.out_channels = 3;
    g.in_channels = g.out_channels * g.stride_h * g.stride_w;
    g.pad_top = random.below(g.stride_h);
    g.pad_bottom = random.below(g.stride_h);
    g.pad_left = random.below(g.stride_w);
    g.pad_right = random.below(g.stride_w);
    const int height = random.between(2, 6), width = random.between(2, 20);
    const int rows = height * g.stride_h - g.pad_top - g.pad_bottom,
              columns = width * g.stride_w - g.pad_left - g.pad_right;
    PadNeed need = random_need(&random), want = random_need(&random);
    need.stride_h = need.stride_w = want.stride_h = want.stride_w = 1;
    need.phase_mask = want.phase_mask = 1;
    const PlaneLayout in = make_layout(height, width, need), out = make_layout(rows, columns, want);
    std::vector<std::int32_t> planes;
    for (int k = 0; k < g.in_channels; ++k) planes.push_back((k * 7 + round) % g.in_channels);
    const std::vector<float> source = random_floats(static_cast<std::size_t>(in.buffer_floats(g.in_channels)), &random);
    std::vector<float> result(static_cast<std::size_t>(out.buffer_floats(g.out_channels)), 9.0f);
    interleave_planes(g, planes.data(), in, source.data(), out, result.data(), 1, g.out_channels);
    for (int c = 1; c < g.out_channels; ++c) {
      const float* const plane = result.data() + c * out.plane_stride;
      CHECK(only_pixels_differ(out, std::vector<float>(plane, plane + out.plane_stride)));
      for (int y = 0; y < rows; ++y) {
        for (int x = 0; x < columns; ++x) {
          const int fy = y + g.pad_top, fx = x + g.pad_left;
          const int which = planes[static_cast<std::size_t>(
              (c * g.stride_h + fy % g.stride_h) * g.stride_w + fx % g.stride_w)];
          const float expected = source[static_cast<std::size_t>(
              which * in.plane_stride + in.lead + fy / g.stride_h * in.pitch + fx / g.stride_w)];
          CHECK(plane[out.lead + static_cast<std::int64_t>(y) * out.pitch + x] == expected);
        }
      }
    }
  }
}
