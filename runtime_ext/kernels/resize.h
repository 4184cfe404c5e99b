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

}  // namespace onnxprune::kernels
