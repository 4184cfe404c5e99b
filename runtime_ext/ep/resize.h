// What Resize and Upsample mean, independent of image sizes.
#pragma once

#include <cstdint>

#include "ep/dims.h"
#include "kernels/resize.h"

namespace onnxprune::ep {

struct ResizeSpec {
  // How output coordinates are taken to input coordinates, and which pixel is the nearest.
  enum class Coordinates : uint8_t { asymmetric, half_pixel, pytorch_half_pixel, align_corners, half_pixel_symmetric };
  enum class Nearest : uint8_t { round_prefer_floor, round_prefer_ceil, floor, ceil, simple };
  struct Axis {
    float scale = 1;    // output / input; 0 = from `size`
    int64_t size = -1;  // of the output; -1 = from `scale`, 0 = as large as the second operand
  };
  bool linear = false;
  Coordinates coordinates = Coordinates::asymmetric;
  Nearest nearest = Nearest::floor;
  Axis axes[2];  // height, width; a 1-D image is a width
  // Whether there is a second operand, of which only the size matters.
  bool like() const { return axes[0].size == 0 || axes[1].size == 0; }
};

// Output size along `axis` for an input size.
int64_t resized(const ResizeSpec::Axis& axis, int64_t size);
// The same where the input size may be open.
Dim resized(const ResizeSpec::Axis& axis, const Dim& size);
// Where the outputs along one axis come from, as onnxruntime's CPU provider computes it.
kernels::ResizeAxis resize_axis(const ResizeSpec& spec, const ResizeSpec::Axis& axis, int64_t size);
// Throws std::invalid_argument where numbers are out of range.
void check_resize(const ResizeSpec& spec);

}  // namespace onnxprune::ep
