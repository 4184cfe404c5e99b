#include "scatter.h"

#include <algorithm>
#include <cstring>

#include "../ops/table.h"

namespace onnxprune::kernels {

// body(first index in the tile, step in the tile, offset in the plane, pixels) for runs of pixels
// that are contiguous in the plane.
template <class Body>
void Scatter::for_each_run(std::int64_t q, std::int64_t count, Body&& body) const {
  const std::int64_t end = q + count;
  for (std::int64_t y = q / pitch_; y < out_.height && y * pitch_ < end; ++y) {
    const std::int64_t row = y * pitch_;
    const std::int64_t x0 = std::max<std::int64_t>(q - row, 0);
    const std::int64_t x1 = std::min<std::int64_t>(end - row, out_.width);
    for (std::int32_t phase = 0; phase < out_.stride_w; ++phase) {
      const std::int64_t x = x0 + ((phase - x0) % out_.stride_w + out_.stride_w) % out_.stride_w;
      if (x >= x1) continue;
      const std::int32_t slot =
          out_.phase_slot(static_cast<std::int32_t>(y % out_.stride_h) * out_.stride_w + phase);
      if (slot < 0) continue;
      const std::int64_t target =
          slot * out_.phase_stride + out_.lead + y / out_.stride_h * out_.pitch + x / out_.stride_w;
      body(row + x - q, out_.stride_w, target, (x1 - x + out_.stride_w - 1) / out_.stride_w);
    }
  }
}

void Scatter::store(std::int64_t q, std::int64_t count, const float* tile, float* plane) const {
  for_each_run(
      q, count, [&](std::int64_t from, std::int32_t step, std::int64_t to, std::int64_t pixels) {
        if (step == 1) {
          std::memcpy(plane + to, tile + from, static_cast<std::size_t>(pixels) * sizeof(float));
        } else if (step == 2) {
          ops_table(active_isa()).every_second(tile + from, plane + to, pixels);
        } else {
          for (std::int64_t i = 0; i < pixels; ++i) plane[to + i] = tile[from + i * step];
        }
      });
}

void Scatter::load(std::int64_t q, std::int64_t count, const float* plane, float* tile) const {
  std::memset(tile, 0, static_cast<std::size_t>(count) * sizeof(float));
  for_each_run(q, count,
               [&](std::int64_t from, std::int32_t step, std::int64_t to, std::int64_t pixels) {
                 for (std::int64_t i = 0; i < pixels; ++i) tile[from + i * step] = plane[to + i];
               });
}

}  // namespace onnxprune::kernels
