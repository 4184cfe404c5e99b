// The operators of domain ai.onnxprune (docs/formats.md, section 4), run on the CPU.
#pragma once

#include "abi/api.h"

namespace onnxprune::ep {

inline constexpr char kPackedDomain[] = "ai.onnxprune";

// The domain with its four operators, made on first use and kept for the life of the process.
abi::CustomOpDomain* custom_op_domain();

}  // namespace onnxprune::ep
