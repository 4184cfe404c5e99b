#include "phases.h"

#include <cstring>

namespace onnxprune::kernels {
namespace {

void zero(float* begin, std::int64_t count) {
  if (count == 1) {  // most are the ends of rows
    *begin = 0.0f;
  } else if (count > 0) {
    std::memset(begin, 0, static_cast<std::size_t>(count) * sizeof(float));
  }
}

constexpr std::int32_t floor_div(std::int32_t a, std::int32_t b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

}  // namespace

// body(first float, number of floats) of what is not a pixel.
template <class Body>
void for_each_border(const PlaneLayout& l, Body&& body) {
  if (l.plane_stride == 1) return;  // a bare vector has no borders
  std::int64_t written = 0;
  for_each_phase(l, [&](const Phase& phase) {
    body(written, phase.base - written);
    written = phase.base;
    if (phase.rows < 1 || phase.cols < 1) return;
    const std::int64_t gap = l.pitch - phase.cols;
    for (std::int32_t y = 0; y + 1 < phase.rows && gap > 0; ++y)
      body(phase.base + y * static_cast<std::int64_t>(l.pitch) + phase.cols, gap);
    written += flat_pixels(phase.rows, phase.cols, l.pitch);
  });
  body(written, l.plane_stride - written);
}

void zero_around(const PlaneLayout& l, float* plane) {
  for_each_border(l, [&](std::int64_t begin, std::int64_t count) { zero(plane + begin, count); });
}

std::vector<FloatRun> border_runs(const PlaneLayout& l) {
  std::vector<FloatRun> runs;
  for_each_border(l, [&](std::int64_t begin, std::int64_t count) {
    if (count > 0) runs.push_back({begin, count});
  });
  return runs;
}

std::vector<std::uint16_t> pixel_mask(std::int32_t rows, std::int32_t cols, std::int32_t pitch,
                                      int width) {
  const std::int64_t pixels = flat_pixels(rows, cols, pitch);
  if (pitch == cols && pixels % width == 0) return {};
  std::vector<std::uint16_t> mask(static_cast<std::size_t>((pixels + width - 1) / width), 0);
  for (std::int64_t y = 0; y < rows; ++y) {
    for (std::int64_t x = 0; x < cols; ++x) {
      const std::int64_t q = y * pitch + x;
      mask[static_cast<std::size_t>(q / width)] |= static_cast<std::uint16_t>(1u << (q % width));
    }
  }
  return mask;
}

std::vector<std::int64_t> tap_offsets(const ConvGeometry& g, const PlaneLayout& in) {
  std::vector<std::int64_t> offsets;
  offsets.reserve(static_cast<std::size_t>(g.taps()));
  for (std::int32_t ky = 0; ky < g.kernel_h; ++ky) {
    for (std::int32_t kx = 0; kx < g.kernel_w; ++kx) {
      const std::int32_t y = ky * g.dilation_h - g.pad_top, x = kx * g.dilation_w - g.pad_left;
      const std::int32_t row = floor_div(y, g.stride_h), col = floor_div(x, g.stride_w);
      const std::int32_t phase = (y - row * g.stride_h) * g.stride_w + (x - col * g.stride_w);
      offsets.push_back(in.phase_slot(phase) * in.phase_stride + in.lead +
                        static_cast<std::int64_t>(row) * in.pitch + col);
    }
  }
  return offsets;
}

}  // namespace onnxprune::kernels
