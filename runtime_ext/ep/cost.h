// Predicted cost of a unit on the CPU provider and on ours, in cycles of one core.
#pragma once

#include "ep/lower.h"

namespace onnxprune::ep {

struct CostModel {
  kernels::Isa isa = kernels::active_isa();
  bool generate_code = true;
  // Cycles that the CPU provider's dense kernels take here for each one estimated; 1 as long as ours are
  // estimated too, see dense_factor.
  double cpu_factor = 1;

  // Ours, for a unit inside a group whose values are in planar form already.
  double ours(const Graph& graph, const Lowering& lowering, const Unit& unit) const;
  // The CPU provider's. Errs on the low side: what it may fuse away counts nothing.
  double cpu(const Graph& graph, const Lowering& lowering, const Unit& unit) const;
  // Bringing a value into planar form, or back: what every border of a group costs.
  double border(const Lowering& lowering, int value, uint8_t domains) const;

  // True for a unit that becomes part of the weighted sum before it.
  bool fuses(const Graph& graph, const Lowering& lowering, const Unit& unit) const;
  // Reading and writing a tensor once.
  double pass(const Dims& dims) const;

  static double floats(const Dims& dims);
};

// What an open size is taken to be when costs are compared.
int64_t assumed_size(size_t rank, size_t axis, Domain domain);

// Cycles of this machine per microsecond, measured once.
double cycles_per_microsecond();
// How this machine's dense multiply-add rate compares with the estimates, measured once: what ties
// estimated cycles of the CPU provider to measured time of ours.
double dense_factor();

}  // namespace onnxprune::ep
