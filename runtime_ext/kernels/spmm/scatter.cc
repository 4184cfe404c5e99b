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
    for (std::int32_t phase = 0; phase < out.stride_w; ++phase) {
      const std::int64_t x = x0 + ((phase - x0) % out.stride_w + out.stride_w) % out.stride_w;
      if (x >= x1) continue;
      const std::int32_t slot =
          out.phase_slot(static_cast<std::int32_t>(y % out.stride_h) * out.stride_w + phase);
      if (slot < 0) continue;
      ScatterRun run;
      run.from = row + x - q;
      run.to =
          slot * out.phase_stride + out.lead + y / out.stride_h * out.pitch + x / out.stride_w;
      run.pixels = (x1 - x + out.stride_w - 1) / out.stride_w;
      run.step = out.stride_w;
      runs.push_back(run);
    }
  }
  return runs;
}

void scatter_store(const std::vector<ScatterRun>& runs, const OpsTable& ops, const float* tile,
                   float* plane) {
  for (const ScatterRun& run : runs) {
    const float* from = tile + run.from;
    float* to = plane + run.to;
    if (run.step == 1) {
      std::memcpy(to, from, static_cast<std::size_t>(run.pixels) * sizeof(float));
    } else if (run.step == 2) {
      ops.every_second(from, to, run.pixels);
    } else {
      for (std::int64_t i = 0; i < run.pixels; ++i) to[i] = from[i * run.step];
    }
  }
}

void scatter_load(const std::vector<ScatterRun>& runs, const float* plane, float* tile,
                  std::int64_t count) {
  std::memset(tile, 0, static_cast<std::size_t>(count) * sizeof(float));
  for (const ScatterRun& run : runs) {
    for (std::int64_t i = 0; i < run.pixels; ++i) tile[run.from + i * run.step] = plane[run.to + i];
  }
}

}  // namespace onnxprune::kernels
