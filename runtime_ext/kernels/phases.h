// Walking the stored phases of a layout (see layout.h).
#pragma once

#include <cstdint>
#include <vector>

#include "layout.h"

namespace onnxprune::kernels {

struct Phase {
  std::int32_t y = 0, x = 0;        // offset of the phase in the grid
  std::int32_t rows = 0, cols = 0;  // its own pixels (a last row or column may be missing)
  std::int64_t base = 0;            // floats from the plane's start to its pixel (0, 0)
};

template <class Body>
void for_each_phase(const PlaneLayout& l, Body&& body) {
  for (std::int32_t py = 0; py < l.stride_h; ++py) {
    for (std::int32_t px = 0; px < l.stride_w; ++px) {
      const std::int32_t slot = l.phase_slot(py * l.stride_w + px);
      if (slot < 0) continue;
      Phase phase;
      phase.y = py;
      phase.x = px;
      phase.rows = l.height > py ? (l.height - py + l.stride_h - 1) / l.stride_h : 0;
      phase.cols = l.width > px ? (l.width - px + l.stride_w - 1) / l.stride_w : 0;
      phase.base = slot * l.phase_stride + l.lead;
      body(phase);
    }
  }
}

// Consecutive floats of a plane.
struct FloatRun {
  std::int64_t begin = 0, count = 0;
};
// Every float of the plane that is not a pixel.
std::vector<FloatRun> border_runs(const PlaneLayout& layout);
inline void zero_runs(const std::vector<FloatRun>& runs, float* plane) {
  for (const FloatRun& run : runs) {
    float* const at = plane + run.begin;
    if (run.count > 4) {
      for (std::int64_t i = 0; i < run.count; ++i) at[i] = 0.0f;
    } else if (run.count > 0) {  // most are the ends of rows: no loop, which would call memset
      at[0] = at[(run.count - 1) / 2] = at[run.count / 2] = at[run.count - 1] = 0.0f;
    }
  }
}
// Writes zeros there.
void zero_around(const PlaneLayout& layout, float* plane);

// Floats of the flat pixel vector of rows x cols pixels.
inline std::int64_t flat_pixels(std::int32_t rows, std::int32_t cols, std::int32_t pitch) {
  return rows < 1 || cols < 1 ? 0 : (rows - 1) * static_cast<std::int64_t>(pitch) + cols;
}

// One entry per vector of `width` lanes over the flat pixel vector, bits of real pixels set; empty
// when every lane of every vector is one.
std::vector<std::uint16_t> pixel_mask(std::int32_t rows, std::int32_t cols, std::int32_t pitch,
                                      int width);

// Offsets, from a plane's start plus q, of what each tap (ky, kx) reads for the output at flat
// position q = y * pitch + x. The layout must satisfy `reads_within`.
std::vector<std::int64_t> tap_offsets(const ConvGeometry& geometry, const PlaneLayout& in);

}  // namespace onnxprune::kernels
