// Estimated cycles of the kernel families, behind estimate_cycles and the choice of a kernel.
#pragma once

#include "dispatch.h"
#include "weights_impl.h"

namespace onnxprune::kernels {

// What the cost of a weighted sum depends on.
struct CostInput {
  double rows = 0, columns = 0;  // columns of one row
  double nnz = 0;
  double pixels = 0;
  double stored[4] = {0, 0, 0, 0};  // weights stored as blocks of 2, 4, 8, 16 rows
  double rows_per_group = 0;
  double points = 0, planes = 0;  // of minimal filtering (window/winograd.h); 0 = does not apply
};
CostInput cost_input(const ConvGeometry& geometry, const Analysis& analysis, std::int64_t pixels);
CostInput cost_input(const WeightsImpl& weights, std::int64_t pixels);

// Cycles of one core.
double kernel_cycles(const KernelRecord& kernel, const CostInput& input);

// The kernels of an instruction set, cheapest first.
std::vector<std::size_t> rank_kernels(const CostInput& input, Isa isa, bool generate_code);

}  // namespace onnxprune::kernels
