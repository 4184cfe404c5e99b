// Data movement between ONNX layouts and planes, and between plane layouts: copies and strided
// copies, bound by memory.
#include <algorithm>
#include <cstring>

#include "ops/table.h"
#include "phases.h"
#include "spmm/scatter.h"

namespace onnxprune::kernels {
namespace {

void spread_strided(const float* from, float* to, std::int32_t step, std::int32_t count) {
  if (step == 1) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
  } else {
    for (std::int32_t i = 0; i < count; ++i) to[static_cast<std::int64_t>(i) * step] = from[i];
  }
}

// Plain rows (row_stride floats apart) of the channels first .. last-1 -> planes in `to`. A few channels at
// a time: their lines stay in the first-level cache from run to run.
void import_rows(const float* rows, std::int64_t row_stride, std::int64_t channel_stride,
                 const PlaneLayout& to, float* planes, std::int32_t first, std::int32_t last) {
  constexpr std::int32_t kTogether = 8;
  const OpsTable& ops = ops_table(active_isa());
  const std::vector<ScatterRun> runs =
      scatter_runs(to, static_cast<std::int32_t>(row_stride), 0, to.height * row_stride);
  for (std::int32_t c = first; c < last; c += kTogether) {
    const std::int32_t end = std::min(last, c + kTogether);
    for (std::int32_t k = c; k < end; ++k) zero_around(to, planes + k * to.plane_stride);
    ops.scatter(runs.data(), static_cast<std::int64_t>(runs.size()), rows + c * channel_stride,
                channel_stride, planes + c * to.plane_stride, to.plane_stride, end - c);
  }
}

// One plane in `from` -> plain rows.
void export_plane(const PlaneLayout& from, const float* plane, float* rows,
                  std::int64_t row_stride) {
  for_each_phase(from, [&](const Phase& phase) {
    for (std::int32_t y = 0; y < phase.rows; ++y) {
      const std::int64_t target =
          (std::int64_t{y} * from.stride_h + phase.y) * row_stride + phase.x;
      spread_strided(plane + phase.base + std::int64_t{y} * from.pitch, rows + target,
                     from.stride_w, phase.cols);
    }
  });
}

// Offset of pixel (y, x), -1 when its phase is not stored.
std::int64_t pixel_offset(const PlaneLayout& l, std::int32_t y, std::int32_t x) {
  const std::int32_t slot = l.phase_slot(y % l.stride_h * l.stride_w + x % l.stride_w);
  if (slot < 0) return -1;
  return slot * l.phase_stride + l.lead + std::int64_t{y / l.stride_h} * l.pitch + x / l.stride_w;
}

}  // namespace

void import_nchw(const float* image, const PlaneLayout& to, float* planes, std::int32_t first,
                 std::int32_t last) {
  const std::int64_t pixels = std::int64_t{to.height} * to.width;
  import_rows(image, to.width, pixels, to, planes, first, last);
}

void export_nchw(const PlaneLayout& from, const float* planes, float* image, std::int32_t first,
                 std::int32_t last) {
  const std::int64_t pixels = std::int64_t{from.height} * from.width;
  for (std::int32_t c = first; c < last; ++c) {
    export_plane(from, planes + c * from.plane_stride, image + c * pixels, from.width);
  }
}

void import_tokens(const float* tokens, std::int64_t row_stride, const PlaneLayout& to,
                   float* planes, std::int32_t first, std::int32_t last) {
  for (std::int32_t f = first; f < last; ++f) zero_around(to, planes + f * to.plane_stride);
  ops_table(active_isa()).transpose(tokens + first, row_stride, to.width, last - first,
                                    planes + first * to.plane_stride + to.lead, to.plane_stride);
}

void export_tokens(const PlaneLayout& from, const float* planes, float* tokens,
                   std::int64_t row_stride, std::int32_t first, std::int32_t last) {
  ops_table(active_isa()).transpose(planes + first * from.plane_stride + from.lead,
                                    from.plane_stride, last - first, from.width, tokens + first,
                                    row_stride);
}

void convert_planes(const PlaneLayout& from, const float* source, const PlaneLayout& to,
                    float* planes, std::int32_t first, std::int32_t last) {
  if (from.plain()) {
    import_rows(source + from.lead, from.pitch, from.plane_stride, to, planes, first, last);
    return;
  }
  for (std::int32_t c = first; c < last; ++c) {
    const float* in = source + c * from.plane_stride;
    float* out = planes + c * to.plane_stride;
    if (to.plain()) {
      zero_around(to, out);
      export_plane(from, in, out + to.lead, to.pitch);
    } else {
      zero_around(to, out);
      for (std::int32_t y = 0; y < to.height; ++y) {
        for (std::int32_t x = 0; x < to.width; ++x) {
          const std::int64_t target = pixel_offset(to, y, x), origin = pixel_offset(from, y, x);
          if (target >= 0 && origin >= 0) out[target] = in[origin];
        }
      }
    }
  }
}

void zero_borders(const PlaneLayout& layout, float* planes, std::int32_t first, std::int32_t last) {
  for (std::int32_t c = first; c < last; ++c) zero_around(layout, planes + c * layout.plane_stride);
}

}  // namespace onnxprune::kernels
