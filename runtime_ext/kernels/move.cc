// Data movement between ONNX layouts and planes, and between plane layouts: copies and strided
// copies, bound by memory.
#include <algorithm>
#include <cstring>

#include "ops/table.h"
#include "phases.h"

namespace onnxprune::kernels {
namespace {

void copy_strided(const float* from, std::int32_t step, float* to, std::int32_t count) {
  if (step == 1) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
  } else if (step == 2) {
    ops_table(active_isa()).every_second(from, to, count);
  } else {
    for (std::int32_t i = 0; i < count; ++i) to[i] = from[static_cast<std::int64_t>(i) * step];
  }
}

void spread_strided(const float* from, float* to, std::int32_t step, std::int32_t count) {
  if (step == 1) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
  } else {
    for (std::int32_t i = 0; i < count; ++i) to[static_cast<std::int64_t>(i) * step] = from[i];
  }
}

// Plain rows to phases of columns, both at once; false where one of them is not stored.
bool split_rows(const float* rows, std::int64_t row_stride, const PlaneLayout& to, float* plane) {
  std::vector<std::int64_t> slots;
  for (std::int32_t phase = 0; phase < 2 * to.stride_h; ++phase) {
    slots.push_back(to.phase_slot(phase));
    if (slots.back() < 0) return false;
  }
  const OpsTable& ops = ops_table(active_isa());
  ScatterRun run;
  run.step = 2;
  run.pixels = (to.width + 1) / 2;
  run.others = to.width / 2;
  for (std::int64_t y = 0; y < to.height; ++y) {
    const auto slot = static_cast<std::size_t>(y % to.stride_h * 2);
    const std::int64_t row = to.lead + y / to.stride_h * to.pitch;
    run.to = slots[slot] * to.phase_stride + row;
    run.other = slots[slot + 1] * to.phase_stride + row;
    ops.scatter(&run, 1, rows + y * row_stride, plane);
  }
  return true;
}

// Plain rows (row_stride floats apart) -> one plane in `to`.
void import_plane(const float* rows, std::int64_t row_stride, const PlaneLayout& to, float* plane) {
  zero_around(to, plane);
  if (to.stride_w == 2 && split_rows(rows, row_stride, to, plane)) return;
  for_each_phase(to, [&](const Phase& phase) {
    for (std::int32_t y = 0; y < phase.rows; ++y) {
      const std::int64_t source = (std::int64_t{y} * to.stride_h + phase.y) * row_stride + phase.x;
      copy_strided(rows + source, to.stride_w, plane + phase.base + std::int64_t{y} * to.pitch,
                   phase.cols);
    }
  });
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

constexpr std::int32_t kTile = 16;

// to[c * to_stride + r] = from[r * from_stride + c], in tiles that stay in the first-level cache.
void transpose(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t cols,
               float* to, std::int64_t to_stride) {
  for (std::int64_t r0 = 0; r0 < rows; r0 += kTile) {
    const std::int64_t r1 = std::min<std::int64_t>(rows, r0 + kTile);
    for (std::int64_t c0 = 0; c0 < cols; c0 += kTile) {
      const std::int64_t c1 = std::min<std::int64_t>(cols, c0 + kTile);
      for (std::int64_t c = c0; c < c1; ++c) {
        for (std::int64_t r = r0; r < r1; ++r) to[c * to_stride + r] = from[r * from_stride + c];
      }
    }
  }
}

}  // namespace

void import_nchw(const float* image, const PlaneLayout& to, float* planes, std::int32_t first,
                 std::int32_t last) {
  const std::int64_t pixels = std::int64_t{to.height} * to.width;
  for (std::int32_t c = first; c < last; ++c) {
    import_plane(image + c * pixels, to.width, to, planes + c * to.plane_stride);
  }
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
  transpose(tokens + first, row_stride, to.width, last - first,
            planes + first * to.plane_stride + to.lead, to.plane_stride);
}

void export_tokens(const PlaneLayout& from, const float* planes, float* tokens,
                   std::int64_t row_stride, std::int32_t first, std::int32_t last) {
  transpose(planes + first * from.plane_stride + from.lead, from.plane_stride, last - first,
            from.width, tokens + first, row_stride);
}

void convert_planes(const PlaneLayout& from, const float* source, const PlaneLayout& to,
                    float* planes, std::int32_t first, std::int32_t last) {
  for (std::int32_t c = first; c < last; ++c) {
    const float* in = source + c * from.plane_stride;
    float* out = planes + c * to.plane_stride;
    if (from.plain()) {
      import_plane(in + from.lead, from.pitch, to, out);
    } else if (to.plain()) {
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
