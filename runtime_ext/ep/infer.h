// Sizes that onnxruntime leaves open without a name, from what operators say about them.
#pragma once

#include <vector>

#include "ep/dims.h"
#include "ep/graph.h"

namespace onnxprune::ep {

// Open sizes of results that are the same as an operand's get its name, so that they compare equal.
// `dims`: by value, nodes are in execution order.
void propagate_dims(const Graph& graph, std::vector<Dims>* dims);

}  // namespace onnxprune::ep
