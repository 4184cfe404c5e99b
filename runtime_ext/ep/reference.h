// Conv, Gemm and MatMul straight from their definitions, for packed weights in settings that the sparse
// kernels do not cover (three spatial axes, batches of matrices, a transposed input). Slow and plain.
#pragma once

#include <string>

#include "ep/dims.h"
#include "kernels/kernels.h"

namespace onnxprune::ep {

struct ConvAttributes {
  int64_t groups = 1;
  Shape kernel, strides, dilations, pads;  // empty = the standard's default
  std::string auto_pad = "NOTSET";
};

// Throws std::invalid_argument unless the attributes fit each other and the weight [O, I/g, k...]; fills
// in the defaults.
void check_conv(ConvAttributes* attributes, const Shape& weight);
// One window an axis for an input of this shape, automatic pads resolved. Throws when it does not fit.
std::vector<Window> conv_windows(const ConvAttributes& attributes, const Shape& weight, const Shape& input);
Shape conv_output_shape(const std::vector<Window>& windows, const Shape& weight, const Shape& input);
void reference_conv(const std::vector<Window>& windows, int64_t groups, const float* x, const Shape& x_shape,
                    const float* w, const Shape& w_shape, float* y, const Shape& y_shape);

// numpy's matmul rules for ranks 1 and more.
Shape matmul_output_shape(const Shape& a, const Shape& b);
void reference_matmul(const float* a, const Shape& a_shape, const float* b, const Shape& b_shape, float* y);

// y[m, n] = alpha * A' B', A and B transposed as asked.
void reference_gemm(const float* a, const Shape& a_shape, bool transpose_a, const float* b, const Shape& b_shape,
                    bool transpose_b, float alpha, float* y);

// y += factor * term, `term` broadcast to the shape of y by the standard's rules.
void add_broadcast(float* y, const Shape& shape, const float* term, const Shape& term_shape, float factor);

}  // namespace onnxprune::ep
