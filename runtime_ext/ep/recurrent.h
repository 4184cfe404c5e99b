// Recurrent layers as operations of a program: what is constant about them, and the shapes they accept.
#pragma once

#include <string>
#include <vector>

#include "ep/dims.h"
#include "kernels/recurrent.h"

namespace onnxprune::ep {

// Results and optional operands, in ONNX's order.
enum RecurrentResult : uint8_t { kY = 1, kYH = 2, kYC = 4 };
enum RecurrentOperand : uint8_t { kLengths = 1, kInitialH = 2, kInitialC = 4 };

// The operands of the operation: what the inputs contribute, [steps, batch, directions * gates * hidden],
// then those of `operands`. Its results: those of `results`, the first of them as `Op::out`.
struct RecurrentSpec {
  kernels::RecurrentShape shape;
  uint8_t results = kY, operands = 0;
  // Constants in the place of operands, for `batch` sequences; empty = none.
  int64_t batch = 0;
  std::vector<int32_t> lengths;
  std::vector<float> h, c;
  std::vector<float> bias;  // [directions][hidden], see kernels::RecurrentRun

  int64_t width() const { return int64_t{shape.directions} * kernels::gates_of(shape.cell) * shape.hidden; }
};

// Whether such a layer can exist at all: sizes and lists that fit each other. Throws std::invalid_argument.
void check_recurrent(const RecurrentSpec& spec);
// Shapes of the results for operands of these shapes. Throws std::invalid_argument when they do not fit.
std::vector<Shape> recurrent_shapes(const RecurrentSpec& spec, const std::vector<Shape>& operands);
// Throws std::invalid_argument unless all are from 0 to `steps`.
void check_lengths(const int32_t* lengths, int64_t count, int64_t steps);

}  // namespace onnxprune::ep
