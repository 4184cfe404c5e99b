#include "layout.h"

#include <algorithm>
#include <initializer_list>
#include <tuple>

namespace onnxprune::kernels {
namespace {

constexpr std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

constexpr std::int32_t floor_div(std::int32_t a, std::int32_t b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

std::int32_t out_extent(std::int32_t in, std::int32_t pads, std::int32_t kernel,
                        std::int32_t dilation, std::int32_t stride) {
  const std::int64_t reach = static_cast<std::int64_t>(dilation) * (kernel - 1) + 1;
  const std::int64_t room = static_cast<std::int64_t>(in) + pads - reach;
  return room < 0 ? 0 : static_cast<std::int32_t>(room / stride + 1);
}

// Rows (columns) before, after and the phases used, in one direction.
struct AxisNeed {
  std::int32_t before = 0, after = 0;
};
AxisNeed axis_need(std::int32_t in, std::int32_t out, std::int32_t kernel, std::int32_t dilation,
                   std::int32_t stride, std::int32_t pad) {
  const std::int32_t stored = (in + stride - 1) / stride;
  AxisNeed need;
  for (std::int32_t k = 0; k < kernel; ++k) {
    const std::int32_t start = floor_div(k * dilation - pad, stride);
    need.before = std::max(need.before, -start);
    need.after = std::max(need.after, start + out - stored);
  }
  return need;
}

// Vectors of a flat pass over rows x cols pixels at this pitch.
std::int64_t flat_lines(std::int32_t rows, std::int32_t cols, std::int64_t pitch) {
  return round_up((rows - 1) * pitch + cols, kLane) / kLane;
}

std::int32_t alignment(std::int32_t pitch) {
  return pitch % 16 == 0 ? 16 : pitch % 8 == 0 ? 8 : pitch % 4 == 0 ? 4 : 1;
}

}  // namespace

std::int32_t ConvGeometry::out_height(std::int32_t height) const {
  return out_extent(height, pad_top + pad_bottom, kernel_h, dilation_h, stride_h);
}

std::int32_t ConvGeometry::out_width(std::int32_t width) const {
  return out_extent(width, pad_left + pad_right, kernel_w, dilation_w, stride_w);
}

ConvGeometry matmul_geometry(std::int32_t in_features, std::int32_t out_features) {
  ConvGeometry geometry;
  geometry.in_channels = in_features;
  geometry.out_channels = out_features;
  return geometry;
}

Status check_geometry(const ConvGeometry& g) {
  constexpr std::int64_t limit = 1 << 20;  // keeps every product below inside 64 bits
  for (const std::int32_t v :
       {g.groups, g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.dilation_h, g.dilation_w}) {
    if (v < 1 || v > limit) {
      return failure(Code::invalid_argument,
                     "convolution: groups, kernel, stride and dilation must be 1..2^20, found %d",
                     v);
    }
  }
  for (const std::int32_t v : {g.pad_top, g.pad_left, g.pad_bottom, g.pad_right}) {
    if (v < 0 || v > limit) {
      return failure(Code::invalid_argument, "convolution: pads must be 0..2^20, found %d", v);
    }
  }
  if (g.in_channels < 1 || g.out_channels < 1 || g.in_channels % g.groups != 0 ||
      g.out_channels % g.groups != 0) {
    return failure(Code::invalid_argument,
                   "convolution: %d input and %d output channels do not divide into %d groups",
                   g.in_channels, g.out_channels, g.groups);
  }
  constexpr std::int64_t channel_limit = 1 << 24, column_limit = 1 << 26;
  if (g.in_channels > channel_limit || g.out_channels > channel_limit) {
    return failure(Code::unsupported, "convolution: %d input, %d output channels: more than 2^24",
                   g.in_channels, g.out_channels);
  }
  const std::int64_t taps = static_cast<std::int64_t>(g.kernel_h) * g.kernel_w;
  if (taps > column_limit || taps * g.in_channels > column_limit ||
      static_cast<std::int64_t>(g.dilation_h) * g.kernel_h > limit ||
      static_cast<std::int64_t>(g.dilation_w) * g.kernel_w > limit) {
    return failure(Code::unsupported, "convolution: the kernel window is too large (%d x %d)",
                   g.kernel_h, g.kernel_w);
  }
  return {};
}

bool walks_planes(const ConvGeometry& g) {
  return g.groups > 1 && g.groups == g.in_channels && g.groups == g.out_channels &&
         g.kernel_h == g.kernel_w && (g.kernel_h == 3 || g.kernel_h == 5) &&
         g.stride_h == g.stride_w && g.stride_h <= 2 && g.dilation_h == 1 && g.dilation_w == 1;
}

namespace {

// Zeros around plain planes under windows that walk them.
PadNeed window_need(const ConvGeometry& g, std::int32_t height, std::int32_t width) {
  const auto beyond = [](std::int32_t in, std::int32_t out, std::int32_t kernel,
                         std::int32_t stride, std::int32_t pad) {
    return std::max(0, (out - 1) * stride + kernel - pad - in);
  };
  PadNeed need;
  need.top = g.pad_top;
  need.left = g.pad_left;
  need.bottom = beyond(height, g.out_height(height), g.kernel_h, g.stride_h, g.pad_top);
  need.right = beyond(width, g.out_width(width), g.kernel_w, g.stride_w, g.pad_left);
  need.min_pitch = width + std::max(need.left, need.right);
  return need;
}

}  // namespace

PadNeed conv_need(const ConvGeometry& g, std::int32_t height, std::int32_t width) {
  if (walks_planes(g)) return window_need(g, height, width);
  PadNeed need;
  const std::int32_t out_h = g.out_height(height), out_w = g.out_width(width);
  const AxisNeed rows = axis_need(height, out_h, g.kernel_h, g.dilation_h, g.stride_h, g.pad_top);
  const AxisNeed cols = axis_need(width, out_w, g.kernel_w, g.dilation_w, g.stride_w, g.pad_left);
  need.top = rows.before;
  need.bottom = rows.after;
  need.left = cols.before;
  need.right = cols.after;
  need.stride_h = g.stride_h;
  need.stride_w = g.stride_w;
  need.min_pitch = std::max<std::int32_t>(
      out_w, (width + g.stride_w - 1) / g.stride_w + std::max(need.left, need.right));
  if (static_cast<std::int64_t>(g.stride_h) * g.stride_w <= 64) {
    need.phase_mask = 0;
    for (std::int32_t ky = 0; ky < g.kernel_h; ++ky) {
      for (std::int32_t kx = 0; kx < g.kernel_w; ++kx) {
        const std::int32_t y = ky * g.dilation_h - g.pad_top, x = kx * g.dilation_w - g.pad_left;
        const std::int32_t py = y - floor_div(y, g.stride_h) * g.stride_h;
        const std::int32_t px = x - floor_div(x, g.stride_w) * g.stride_w;
        need.phase_mask |= std::uint64_t{1} << (py * g.stride_w + px);
      }
    }
  }
  return need;
}

bool merge_need(PadNeed* into, const PadNeed& other) {
  if (into->stride_h != other.stride_h || into->stride_w != other.stride_w) return false;
  if (into->pitch != 0 && other.pitch != 0 && into->pitch != other.pitch) return false;
  into->top = std::max(into->top, other.top);
  into->left = std::max(into->left, other.left);
  into->bottom = std::max(into->bottom, other.bottom);
  into->right = std::max(into->right, other.right);
  into->min_pitch = std::max(into->min_pitch, other.min_pitch);
  into->pitch = std::max(into->pitch, other.pitch);
  into->phase_mask |= other.phase_mask;
  return true;
}

std::int32_t PlaneLayout::phases() const {
  const std::int64_t grid = static_cast<std::int64_t>(stride_h) * stride_w;
  return grid > 64 ? static_cast<std::int32_t>(grid) : __builtin_popcountll(phase_mask);
}

std::int32_t PlaneLayout::phase_slot(std::int32_t phase) const {
  if (static_cast<std::int64_t>(stride_h) * stride_w > 64) return phase;
  const std::uint64_t bit = std::uint64_t{1} << phase;
  return (phase_mask & bit) == 0 ? -1 : __builtin_popcountll(phase_mask & (bit - 1));
}

bool PlaneLayout::operator==(const PlaneLayout& other) const {
  auto all = [](const PlaneLayout& l) {
    return std::tie(l.height, l.width, l.stride_h, l.stride_w, l.phase_mask, l.rows, l.cols, l.top,
                    l.left, l.bottom, l.right, l.pitch, l.lead, l.phase_stride, l.plane_stride);
  };
  return all(*this) == all(other);
}

std::int64_t PlaneLayout::buffer_floats(std::int32_t channels, std::int32_t images) const {
  return image_floats(channels) * images + 4 * kLane;
}

PlaneLayout make_layout(std::int32_t height, std::int32_t width, const PadNeed& need) {
  PlaneLayout l;
  l.height = height;
  l.width = width;
  l.stride_h = need.stride_h;
  l.stride_w = need.stride_w;
  l.phase_mask = need.phase_mask;
  l.rows = (height + need.stride_h - 1) / need.stride_h;
  l.cols = (width + need.stride_w - 1) / need.stride_w;
  l.top = need.top;
  l.left = need.left;
  l.bottom = need.bottom;
  l.right = need.right;
  const std::int32_t least = std::max(need.min_pitch, l.cols + std::max(need.left, need.right));
  l.pitch = std::max(least, need.pitch);
  if (need.pitch == 0 && l.rows > 1) {
    const std::int64_t lines = flat_lines(l.rows, l.cols, least);
    for (std::int32_t p = least + 1; p < least + 16 && flat_lines(l.rows, l.cols, p) == lines;
         ++p) {
      if (alignment(p) > alignment(l.pitch)) l.pitch = p;
    }
  }
  l.lead = round_up(static_cast<std::int64_t>(l.top) * l.pitch + l.left, kLane);
  const std::int64_t last =
      static_cast<std::int64_t>(l.rows - 1 + l.bottom) * l.pitch + l.cols + l.right;
  // Room for whole pairs of vectors over the pixels: some kernels write (zeros) two at a time.
  const std::int64_t written =
      round_up(static_cast<std::int64_t>(l.rows - 1) * l.pitch + l.cols, 2 * kLane);
  l.phase_stride = round_up(l.lead + std::max(last, written), kLane);
  if (l.phase_stride / kLane % 2 == 0) l.phase_stride += kLane;
  l.plane_stride = l.phase_stride * l.phases();
  if (l.plane_stride / kLane % 2 == 0) l.plane_stride += kLane;
  return l;
}

PlaneLayout vector_layout() {
  PlaneLayout l;
  l.height = l.width = l.rows = l.cols = 1;
  l.pitch = 1;
  l.phase_stride = l.plane_stride = 1;
  return l;
}

Status natural_layout(std::int32_t height, std::int32_t width, PlaneLayout* layout) {
  const std::int64_t pixels = static_cast<std::int64_t>(height) * width;
  if (height < 1 || width < 1 || pixels % kLane != 0) {
    return failure(Code::unsupported, "natural layout: %d x %d pixels are not a multiple of %d",
                   height, width, kLane);
  }
  *layout = PlaneLayout{};
  layout->height = layout->rows = height;
  layout->width = layout->cols = layout->pitch = width;
  layout->phase_stride = layout->plane_stride = pixels;
  return {};
}

bool reads_within(const ConvGeometry& g, const PlaneLayout& in) {
  const PadNeed need = conv_need(g, in.height, in.width);
  if (in.stride_h != need.stride_h || in.stride_w != need.stride_w) return false;
  const bool masked = static_cast<std::int64_t>(in.stride_h) * in.stride_w <= 64;
  return in.top >= need.top && in.left >= need.left && in.bottom >= need.bottom &&
         in.right >= need.right && in.pitch >= need.min_pitch &&
         (!masked || (need.phase_mask & ~in.phase_mask) == 0);
}

bool flat_compatible(const ConvGeometry& g, const PlaneLayout& in, const PlaneLayout& out) {
  return reads_within(g, in) && in.stride_h == g.stride_h && out.plain() && out.pitch == in.pitch;
}

}  // namespace onnxprune::kernels
