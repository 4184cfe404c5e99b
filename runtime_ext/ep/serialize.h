// A packed program as bytes, for EPContext: a compiled model can be saved and loaded again.
//
//   "OPCX"  u32 format version  u32 crc32 of everything after it
//   string library version, string instruction set, then the program field by field
//
// Integers are little-endian; strings and arrays carry their length first. Loading checks version,
// checksum, instruction set, every length and every index: damaged bytes give an error.
#pragma once

#include <string>

#include "ep/program.h"

namespace onnxprune::ep {

// One operation field by field, all but its weight.
std::string op_bytes(const Op& op);
std::string save_program(const Program& program, kernels::Isa isa);
// Throws std::runtime_error saying what does not fit and what to do.
Program load_program(const std::string& bytes);

}  // namespace onnxprune::ep
