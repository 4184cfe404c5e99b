#include "columns.h"

#include <algorithm>

namespace onnxprune::kernels {

void window_columns(const ConvGeometry& g, std::int64_t images, std::int64_t height,
                    std::int64_t width, const float* x, float* matrix, std::int64_t first,
                    std::int64_t last) {
  const WindowAxis rows = rows_of(g, height), columns = columns_of(g, width);
  float* to = matrix + first * images * rows.out * columns.out;
  for (std::int64_t line = first; line < last; ++line) {
    const std::int64_t channel = line / g.taps(), tap = line % g.taps();
    const std::int64_t down = tap / g.kernel_w * rows.dilation;
    const std::int64_t right = tap % g.kernel_w * columns.dilation;
    std::int64_t top, bottom, begin, end;
    rows.inside(down, rows.out, &top, &bottom);
    columns.inside(right, columns.out, &begin, &end);
    for (std::int64_t image = 0; image < images; ++image) {
      const float* const plane = x + (image * g.in_channels + channel) * height * width;
      for (std::int64_t y = 0; y < rows.out; ++y, to += columns.out) {
        if (y < top || y >= bottom || begin == end) {
          std::fill(to, to + columns.out, 0.0f);
          continue;
        }
        const std::int64_t row = y * rows.stride + down - rows.pad;
        std::fill(to, to + begin, 0.0f);
        take(plane + row * width + begin * columns.stride + right - columns.pad, columns.stride,
             end - begin, to + begin);
        std::fill(to + end, to + columns.out, 0.0f);
      }
    }
  }
}

}  // namespace onnxprune::kernels
