// Shapes of what a program computes.
#pragma once

#include <vector>

#include "ep/program.h"

namespace onnxprune::ep {

// What a convolution or a pooling makes of an input, before anything is added. Throws std::invalid_argument.
Shape conv_shape(const Program& program, const Op& op, const Shape& in);

// Shapes of all values for concrete input shapes. Throws std::invalid_argument when they do not fit.
std::vector<Shape> infer_shapes(const Program& program, const std::vector<Shape>& inputs);

}  // namespace onnxprune::ep
