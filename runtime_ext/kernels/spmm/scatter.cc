#include "scatter.h"

#include <algorithm>
#include <cstring>

namespace onnxprune::kernels {

std::vector<ScatterRun> scatter_runs(const PlaneLayout& out, std::int32_t pitch, std::int64_t q,
                                     std::int64_t count) {
  std::vector<ScatterRun> runs;
  const std::int64_t end = q + count;
  for (std::int64_t y = q / pitch; y < out.height && y * pitch < end; ++y) {
    const std::int64_t row = y * pitch;
    const std::int64_t x0 = std::max<std::int64_t>(q - row, 0);
    const std::int64_t x1 = std::min<std::int64_t>(end - row, out.width);
    // Where pixel (y, x) and those of its phase to the right of it go; -1 when it is not stored.
    const auto target = [&](std::int64_t x) -> std::int64_t {
      const std::int32_t slot = out.phase_slot(
          static_cast<std::int32_t>(y % out.stride_h * out.stride_w + x % out.stride_w));
      return slot < 0 ? -1
                      : slot * out.phase_stride + out.lead + y / out.stride_h * out.pitch +
                            x / out.stride_w;
    };
    const auto number = [&](std::int64_t x) {
      return x < x1 ? (x1 - x + out.stride_w - 1) / out.stride_w : 0;
    };
    for (std::int64_t x = x0; x < std::min<std::int64_t>(x1, x0 + out.stride_w); ++x) {
      ScatterRun run;
      run.from = row + x - q;
      run.to = target(x);
      run.pixels = number(x);
      run.step = out.stride_w;
      if (run.to < 0) continue;
      if (out.stride_w == 2 && x == x0 && target(x + 1) >= 0) {
        run.other = target(x + 1);
        run.others = number(x + 1);
        ++x;
      }
      runs.push_back(run);
    }
  }
  return runs;
}

void scatter_load(const std::vector<ScatterRun>& runs, const float* plane, float* tile,
                  std::int64_t count) {
  std::memset(tile, 0, static_cast<std::size_t>(count) * sizeof(float));
  for (const ScatterRun& run : runs) {
    for (std::int64_t i = 0; i < run.pixels; ++i) tile[run.from + i * run.step] = plane[run.to + i];
    for (std::int64_t i = 0; i < run.others; ++i) tile[run.from + 2 * i + 1] = plane[run.other + i];
  }
}

}  // namespace onnxprune::kernels
