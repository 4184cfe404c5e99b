// Whether a program that came from somewhere else makes sense: every number that running it relies on.
#pragma once

#include "ep/program.h"

namespace onnxprune::ep {

// Throws std::invalid_argument that says what does not fit.
void check_program(const Program& program);

}  // namespace onnxprune::ep
