#include "resize.h"

#include <algorithm>
#include <cstring>

#include "phases.h"

namespace onnxprune::kernels {
namespace {

// Every input column twice, or four times, in order: the common factors, without a table.
template <int N>
void repeat(const float* in, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i)
    for (int k = 0; k < N; ++k) out[N * i + k] = in[i];
}

// One row of pixels brought to another width.
class Columns {
 public:
  Columns(const ResizeAxis& axis, std::int32_t width) : axis_(axis) {
    for (const int n : {1, 2, 4})
      if (axis.second.empty() && repeats(n, width)) times_ = n;
  }

  void operator()(const float* in, float* out) const {
    const std::int64_t count = static_cast<std::int64_t>(axis_.first.size());
    if (times_ == 1) {
      std::memcpy(out, in, static_cast<std::size_t>(count) * sizeof(float));
    } else if (times_ == 2) {
      repeat<2>(in, count / 2, out);
    } else if (times_ == 4) {
      repeat<4>(in, count / 4, out);
    } else if (axis_.second.empty()) {
      for (std::int64_t x = 0; x < count; ++x) out[x] = in[axis_.first[at(x)]];
    } else {
      for (std::int64_t x = 0; x < count; ++x) {
        const float a = in[axis_.first[at(x)]], b = in[axis_.second[at(x)]], w = axis_.weight[at(x)];
        out[x] = (1.0f - w) * a + w * b;
      }
    }
  }

 private:
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
  bool repeats(int n, std::int32_t width) const {
    if (static_cast<std::int64_t>(axis_.first.size()) != std::int64_t{width} * n) return false;
    for (std::size_t x = 0; x < axis_.first.size(); ++x)
      if (axis_.first[x] != static_cast<std::int32_t>(x) / n) return false;
    return true;
  }

  const ResizeAxis& axis_;
  int times_ = 0;
};

}  // namespace

void resize_planes(const ResizeAxis& rows, const ResizeAxis& columns, const PlaneLayout& in,
                   const float* source, const PlaneLayout& out, float* planes, std::int32_t first,
                   std::int32_t last) {
  const Columns widen(columns, in.width);
  const std::size_t bytes = static_cast<std::size_t>(out.width) * sizeof(float);
  // Input rows in their new width: two of them are blended, and both often serve several rows.
  std::vector<float> held[2];
  std::int32_t which[2];
  for (std::vector<float>& row : held) row.resize(static_cast<std::size_t>(out.width));
  for (std::int32_t c = first; c < last; ++c) {
    const float* const image = source + c * in.plane_stride + in.lead;
    float* const plane = planes + c * out.plane_stride;
    zero_around(out, plane);
    which[0] = which[1] = -1;
    // `row` in its new width; the other one held may be given up.
    auto widened = [&](std::int32_t row, std::int32_t keep) {
      for (int i = 0; i < 2; ++i)
        if (which[i] == row) return held[i].data();
      const int i = which[0] == keep ? 1 : 0;
      widen(image + static_cast<std::int64_t>(row) * in.pitch, held[i].data());
      which[i] = row;
      return held[i].data();
    };
    for (std::int32_t y = 0; y < out.height; ++y) {
      const std::size_t i = static_cast<std::size_t>(y);
      float* const to = plane + out.lead + static_cast<std::int64_t>(y) * out.pitch;
      if (rows.second.empty()) {
        if (y > 0 && rows.first[i] == rows.first[i - 1]) {
          std::memcpy(to, to - out.pitch, bytes);
        } else {
          widen(image + static_cast<std::int64_t>(rows.first[i]) * in.pitch, to);
        }
        continue;
      }
      const float* const a = widened(rows.first[i], rows.second[i]);
      const float* const b = widened(rows.second[i], rows.first[i]);
      const float w = rows.weight[i], v = 1.0f - w;
      for (std::int32_t x = 0; x < out.width; ++x) to[x] = v * a[x] + w * b[x];
    }
  }
}

void interleave_planes(const ConvGeometry& g, const std::int32_t* planes, const PlaneLayout& in, const float* source,
                       const PlaneLayout& out, float* result, std::int32_t first, std::int32_t last) {
  const std::int64_t rows = g.stride_h, columns = g.stride_w;
  for (std::int32_t c = first; c < last; ++c) {
    float* const plane = result + c * out.plane_stride;
    zero_around(out, plane);
    for (std::int32_t y = 0; y < out.height; ++y) {
      const std::int64_t row = (y + g.pad_top) / rows, phase = (y + g.pad_top) % rows;
      const std::int32_t* const which = planes + (c * rows + phase) * columns;
      float* const to = plane + out.lead + static_cast<std::int64_t>(y) * out.pitch;
      auto line = [&](std::int64_t i) { return source + which[i] * in.plane_stride + in.lead + row * in.pitch; };
      if (columns == 2 && g.pad_left == 0) {  // pairs
        const float *const a = line(0), *const b = line(1);
        const std::int32_t pairs = out.width / 2;
        for (std::int32_t x = 0; x < pairs; ++x) {
          to[2 * x] = a[x];
          to[2 * x + 1] = b[x];
        }
        if (out.width % 2 != 0) to[out.width - 1] = a[pairs];
        continue;
      }
      for (std::int64_t i = 0; i < columns; ++i) {
        const float* const from = line(i);
        // The first pixel of this phase that is not cut off.
        const std::int64_t start = g.pad_left > i ? (g.pad_left - i + columns - 1) / columns : 0;
        for (std::int64_t x = start; x * columns + i - g.pad_left < out.width; ++x) to[x * columns + i - g.pad_left] = from[x];
      }
    }
  }
}

}  // namespace onnxprune::kernels
