// One direction of a sliding window, for code that is told its sizes when it runs.
#pragma once

#include <cstdint>
#include <vector>

#include "../layout.h"

namespace onnxprune::kernels {

// Pixel i is pixel (i + pad) / stride of phase (i + pad) % stride.
struct WindowAxis {
  std::int64_t size = 1, out = 1, kernel = 1, stride = 1, dilation = 1, pad = 0;
  std::vector<std::int64_t> phases;  // that a tap reads

  WindowAxis(std::int64_t size, std::int32_t kernel, std::int32_t stride, std::int32_t dilation,
             std::int32_t before, std::int32_t after);

  std::int64_t shift(std::int64_t tap) const { return tap * dilation / stride; }
  std::int64_t reach() const { return shift(kernel - 1); }
  // Place among `phases`; -1 where no tap reads it.
  std::int64_t find(std::int64_t phase) const;
  std::int64_t phase_of(std::int64_t tap) const { return find(tap * dilation % stride); }
  // Of the pixels at i * stride + offset - pad, i < count, those from begin to end - 1 are of the
  // tensor, not padding.
  void inside(std::int64_t offset, std::int64_t count, std::int64_t* begin, std::int64_t* end) const;
};

WindowAxis rows_of(const ConvGeometry& geometry, std::int64_t height);
WindowAxis columns_of(const ConvGeometry& geometry, std::int64_t width);

// Whether the geometry and the sizes are within bounds: what the axes are made of must have passed.
Status check_window(const ConvGeometry& geometry, std::int64_t images, std::int64_t height,
                    std::int64_t width);

// Rows first .. first + count - 1 of a phase of both directions: `width` floats, `pitch` floats apart, with
// zeros where the tensor has no pixels. Returns what follows the last one.
float* phase_rows(const WindowAxis& rows, const WindowAxis& columns, std::int64_t row_phase,
                  std::int64_t column_phase, const float* plane, std::int64_t first,
                  std::int64_t count, std::int64_t width, std::int64_t pitch, float* to);
// The same of every phase that taps read, the rows side by side. Each phase ends with `tail` more zeros; the
// next one is `phase_stride` on.
void split_phases(const WindowAxis& rows, const WindowAxis& columns, const float* plane,
                  std::int64_t first, std::int64_t count, std::int64_t pitch, std::int64_t tail,
                  std::int64_t phase_stride, float* to);

// to[i] = from[i * step]
void take(const float* from, std::int64_t step, std::int64_t count, float* to);

}  // namespace onnxprune::kernels
