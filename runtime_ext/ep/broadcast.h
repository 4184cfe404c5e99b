// Operands of different shapes: images of which one has a single channel, row or column where the other has more.
#pragma once

#include <optional>

#include "ep/program.h"

namespace onnxprune::ep {

// The shape of what comes of both; nothing where they do not fit. As ONNX broadcasts, but for the number of axes
// and of images, which must be equal.
std::optional<Shape> broadcast(const Shape& a, const Shape& b);

// Whether a sum with open sizes may be part of a convolution is decided without knowing them. The program for
// inputs of these shapes, in which the sums that turn out to be of different shapes are operations of their own;
// nothing where there are no such sums.
std::optional<Program> with_sums_apart(const Program& program, const std::vector<Shape>& inputs);

}  // namespace onnxprune::ep
