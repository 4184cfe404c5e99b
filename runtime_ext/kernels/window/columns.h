// The windows of a convolution written out: what makes its derivative by the weight a product of matrices.
#pragma once

#include <cstdint>

#include "axis.h"

namespace onnxprune::kernels {

// Rows first .. last - 1 of a matrix [channels * taps][images * outputs]: what each tap of each channel
// meets. Tensors are dense, [image][channel][row][column]; groups do not matter.
void window_columns(const ConvGeometry& geometry, std::int64_t images, std::int64_t height,
                    std::int64_t width, const float* x, float* matrix, std::int64_t first,
                    std::int64_t last);

}  // namespace onnxprune::kernels
