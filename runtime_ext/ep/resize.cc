#include "ep/resize.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

namespace onnxprune::ep {
namespace {

using Coordinates = ResizeSpec::Coordinates;
using Nearest = ResizeSpec::Nearest;

// All in float, as onnxruntime does: which pixel is the nearest hangs on the rounding.
float origin(Coordinates mode, float x, float scale, float length, float original) {
  switch (mode) {
    case Coordinates::asymmetric:
      return x / scale;
    case Coordinates::half_pixel:
      return (x + 0.5f) / scale - 0.5f;
    case Coordinates::pytorch_half_pixel:
      return length > 1 ? (x + 0.5f) / scale - 0.5f : 0.0f;
    case Coordinates::align_corners:
      return length == 1 ? 0.0f : x * (original - 1) / (length - 1);
    case Coordinates::half_pixel_symmetric: {
      const float adjustment = length / (scale * original);
      const float center = original / 2;
      return center * (1 - adjustment) + (x + 0.5f) / scale - 0.5f;
    }
  }
  return x;
}

int64_t nearest_pixel(Nearest mode, float x, bool smaller) {
  switch (mode) {
    case Nearest::round_prefer_floor:
      // Halves go down.
      return static_cast<int64_t>(x == std::trunc(x) + 0.5f ? std::floor(x) : std::round(x));
    case Nearest::round_prefer_ceil:
      return static_cast<int64_t>(std::round(x));
    case Nearest::floor:
      return static_cast<int64_t>(std::floor(x));
    case Nearest::ceil:
      return static_cast<int64_t>(std::ceil(x));
    case Nearest::simple:  // of the operators before opset 11
      return static_cast<int64_t>(smaller ? std::ceil(x) : x);
  }
  return 0;
}

}  // namespace

int64_t resized(const ResizeSpec::Axis& axis, int64_t size) {
  return axis.size >= 0 ? axis.size : static_cast<int64_t>(axis.scale * static_cast<float>(size));
}

Dim resized(const ResizeSpec::Axis& axis, const Dim& size) {
  if (axis.size >= 0 || size.known()) return Dim::of(resized(axis, size.value));
  if (size.symbol.empty() || axis.scale == 1.0f) return size;
  char text[40];
  std::snprintf(text, sizeof text, ",%.9g)", static_cast<double>(axis.scale));
  return Dim::named("r(" + size.symbol + text);
}

kernels::ResizeAxis resize_axis(const ResizeSpec& spec, const ResizeSpec::Axis& axis, int64_t size) {
  const int64_t length = resized(axis, size), last = size - 1;
  const float out = static_cast<float>(length), in = static_cast<float>(size);
  const float scale = axis.scale > 0 ? axis.scale : out / in;
  kernels::ResizeAxis result;
  for (int64_t i = 0; i < length; ++i) {
    const float x = scale == 1.0f ? static_cast<float>(i) : origin(spec.coordinates, static_cast<float>(i), scale, out, in);
    if (!spec.linear) {
      result.first.push_back(static_cast<int32_t>(std::clamp<int64_t>(nearest_pixel(spec.nearest, x, scale < 1), 0, last)));
      continue;
    }
    const float inside = std::clamp(x, 0.0f, in - 1);
    const int64_t first = std::min(static_cast<int64_t>(inside), last);
    result.first.push_back(static_cast<int32_t>(first));
    result.second.push_back(static_cast<int32_t>(std::min(first + 1, last)));
    result.weight.push_back(inside - static_cast<float>(first));
  }
  return result;
}

void check_resize(const ResizeSpec& spec) {
  constexpr float kMost = 4096;
  for (const ResizeSpec::Axis& axis : spec.axes) {
    const bool scaled = axis.scale > 0 && axis.scale <= kMost;
    if (axis.size > (1 << 24) || (axis.size == 0 ? axis.scale != 0 : axis.size < 1 ? axis.size != -1 || !scaled : axis.scale != 0 && !scaled))
      throw std::invalid_argument("resizing by an unlikely factor");
  }
}

}  // namespace onnxprune::ep
