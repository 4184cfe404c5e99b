#include "axis.h"

#include <algorithm>

namespace onnxprune::kernels {
namespace {

constexpr std::int64_t kMostPixels = std::int64_t{1} << 31;
constexpr std::int32_t kMostPhases = 1 << 10;

}  // namespace

WindowAxis::WindowAxis(std::int64_t size, std::int32_t kernel, std::int32_t stride,
                       std::int32_t dilation, std::int32_t before, std::int32_t after)
    : size(size), kernel(kernel), stride(stride), dilation(dilation), pad(before) {
  const std::int64_t room = size + before + after - ((this->kernel - 1) * dilation + 1);
  out = room < 0 ? 0 : room / stride + 1;
  for (std::int64_t tap = 0; tap < kernel && tap < stride; ++tap) {
    const std::int64_t phase = tap * dilation % stride;
    if (find(phase) < 0) phases.push_back(phase);
  }
}

std::int64_t WindowAxis::find(std::int64_t phase) const {
  const auto at = std::find(phases.begin(), phases.end(), phase);
  return at == phases.end() ? -1 : at - phases.begin();
}

void WindowAxis::inside(std::int64_t offset, std::int64_t count, std::int64_t* begin,
                        std::int64_t* end) const {
  const auto up = [&](std::int64_t v) { return v > 0 ? (v + stride - 1) / stride : 0; };
  *end = std::min(count, up(size + pad - offset));
  *begin = std::min(*end, up(pad - offset));
}

WindowAxis rows_of(const ConvGeometry& g, std::int64_t height) {
  return {height, g.kernel_h, g.stride_h, g.dilation_h, g.pad_top, g.pad_bottom};
}

WindowAxis columns_of(const ConvGeometry& g, std::int64_t width) {
  return {width, g.kernel_w, g.stride_w, g.dilation_w, g.pad_left, g.pad_right};
}

Status check_window(const ConvGeometry& g, std::int64_t images, std::int64_t height,
                    std::int64_t width) {
  if (Status status = check_geometry(g); !status.ok()) return status;
  for (const std::int64_t n : {images, height, width})
    if (n < 0 || n > kMostPixels)
      return failure(Code::invalid_argument, "convolution: a size of %lld",
                     static_cast<long long>(n));
  if (std::min(g.kernel_h, g.stride_h) > kMostPhases ||
      std::min(g.kernel_w, g.stride_w) > kMostPhases)
    return failure(Code::unsupported, "convolution: strides of %d, %d are too large", g.stride_h,
                   g.stride_w);
  const WindowAxis rows = rows_of(g, height), columns = columns_of(g, width);
  const double pixels = std::max(static_cast<double>(height) * static_cast<double>(width),
                                 static_cast<double>(rows.out) * static_cast<double>(columns.out));
  if (static_cast<double>(images) * g.in_channels * g.taps() * pixels > 1e15)
    return failure(Code::unsupported, "convolution: %lld x %lld pixels are too many",
                   static_cast<long long>(height), static_cast<long long>(width));
  return {};
}

float* phase_rows(const WindowAxis& rows, const WindowAxis& columns, std::int64_t row_phase,
                  std::int64_t column_phase, const float* plane, std::int64_t first,
                  std::int64_t count, std::int64_t width, std::int64_t pitch, float* to) {
  const auto zero = [](float* begin, float* end) { std::fill(begin, end, 0.0f); };
  std::int64_t top, bottom, begin, end;
  rows.inside(row_phase, first + count, &top, &bottom);
  columns.inside(column_phase, width, &begin, &end);
  for (std::int64_t j = first; j < first + count; ++j, to += pitch) {
    if (j < top || j >= bottom || begin == end) {
      zero(to, to + width);
      continue;
    }
    const std::int64_t y = j * rows.stride + row_phase - rows.pad;
    const std::int64_t x = begin * columns.stride + column_phase - columns.pad;
    zero(to, to + begin);
    take(plane + y * columns.size + x, columns.stride, end - begin, to + begin);
    zero(to + end, to + width);
  }
  return to;
}

void split_phases(const WindowAxis& rows, const WindowAxis& columns, const float* plane,
                  std::int64_t first, std::int64_t count, std::int64_t pitch, std::int64_t tail,
                  std::int64_t phase_stride, float* to) {
  for (const std::int64_t row_phase : rows.phases) {
    for (const std::int64_t phase : columns.phases) {
      std::fill_n(phase_rows(rows, columns, row_phase, phase, plane, first, count, pitch, pitch, to),
                  tail, 0.0f);
      to += phase_stride;
    }
  }
}

// The common steps without a multiplication, so that vectors serve.
void take(const float* from, std::int64_t step, std::int64_t count, float* to) {
  if (step == 1) {
    std::copy(from, from + count, to);
  } else if (step == 2) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = from[2 * i];
  } else {
    for (std::int64_t i = 0; i < count; ++i) to[i] = from[i * step];
  }
}

}  // namespace onnxprune::kernels
