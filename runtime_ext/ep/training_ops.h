// Operators of domain ai.onnxprune that our own training steps are made of. No model file has them.
#pragma once

#include <string>
#include <vector>

#include "abi/api.h"

namespace onnxprune::ep {

std::vector<std::string> training_op_names();
// To be called once a process: they are kept for its life.
void add_training_ops(abi::CustomOpDomain* domain);

}  // namespace onnxprune::ep
