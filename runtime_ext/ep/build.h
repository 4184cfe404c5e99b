// From chosen units of a graph to a packed program.
#pragma once

#include <vector>

#include "ep/lower.h"

namespace onnxprune::ep {

// Units `chosen` (indices, in execution order) as one program in `domain`. `inputs` and `outputs` are
// graph values in the order the fused node will have them. Weights that are not packed yet stay so.
Program build_program(const Graph& graph, const Lowering& lowering, const std::vector<int>& chosen, Domain domain,
                      const std::vector<int>& inputs, const std::vector<int>& outputs);

}  // namespace onnxprune::ep
