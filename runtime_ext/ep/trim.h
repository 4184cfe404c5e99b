// What of a program does nothing for inputs of certain sizes.
#pragma once

#include <optional>

#include "ep/program.h"

namespace onnxprune::ep {

// The program without taps that only ever read padding: in images of a few pixels most of a window may lie
// outside of them. Nothing where there are no such taps. Throws std::runtime_error.
std::optional<Program> without_dead_taps(const Program& program, const std::vector<Shape>& inputs);

}  // namespace onnxprune::ep
