// Images brought to another size, on planes.
#pragma once

#include <cstdint>
#include <vector>

#include "layout.h"

namespace onnxprune::kernels {

// Where the rows (or columns) of a resized image come from: output i is input first[i], or, where
// `second` is not empty, (1 - weight[i]) * input first[i] + weight[i] * input second[i].
struct ResizeAxis {
  std::vector<std::int32_t> first, second;
  std::vector<float> weight;
};

// Channels first .. last-1 of one image. Both layouts are plain; `rows` and `columns` have as many
// entries as `out` has rows and columns, and name rows and columns of `in`.
void resize_planes(const ResizeAxis& rows, const ResizeAxis& columns, const PlaneLayout& in,
                   const float* source, const PlaneLayout& out, float* planes, std::int32_t first,
                   std::int32_t last);

// Several planes become one with as many times the pixels, channels first .. last - 1 of the result: `planes` says
// for each of its phases, stride_h * stride_w of them row by row, which plane of the input it is. The pads of
// `g` are rows and columns that are cut off.
void interleave_planes(const ConvGeometry& g, const std::int32_t* planes, const PlaneLayout& in, const float* source,
                       const PlaneLayout& out, float* result, std::int32_t first, std::int32_t last);

}  // namespace onnxprune::kernels
