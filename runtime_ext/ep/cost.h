// Predicted cost of a unit on the CPU provider and on ours, in cycles of one core.
#pragma once

#include <map>
#include <set>
#include <string>

#include "ep/lower.h"

namespace onnxprune::ep {

struct CostModel {
  kernels::Isa isa = kernels::active_isa();
  bool generate_code = true;
  // Cycles that the CPU provider's dense kernels take here for each one estimated; 1 as long as ours are
  // estimated too, see machine.h.
  double cpu_factor = 1;
  // Our share of what is estimated from a sample of a weight, see Unit::zeros.
  double hope = 1;
  // What open sizes of the graph are taken to be: height and width of images, length of signals, and
  // the rows of matrices. Sizes that follow from these by windows are computed.
  int64_t open_pixels = 256, open_length = 1024, open_tokens = 64;
  // Names of sizes that mean something else: the steps of sequences are so many tokens, sequences one.
  std::set<std::string> steps, sequences;
  // What sizes that no operation here explains are taken for: those of what they were made from.
  std::map<std::string, Dim> like;
  // Bytes of all dense weights of the graph: where they are more than the caches hold, each of them comes from
  // afar in every run.
  double weight_bytes = 0;
  // Finds all these in a graph.
  void look_around(const Graph& graph, const Lowering& lowering);
  // The same with sizes at which little work is left: where calls, or the reading of dense weights, or
  // vectors that are hardly filled decide.
  std::vector<CostModel> small() const;

  // Ours, for a unit inside a group whose values are in planar form already.
  double ours(const Graph& graph, const Lowering& lowering, const Unit& unit) const;
  // The CPU provider's. Errs on the low side: what it may fuse away counts nothing.
  double cpu(const Graph& graph, const Lowering& lowering, const Unit& unit) const;
  // Bringing a value into planar form, or back: what every border of a group costs.
  double border(const Lowering& lowering, int value, uint8_t domains) const;

  // What the CPU provider takes longer for a unit that makes or reads signed numbers, if we do the other:
  // onnxruntime computes with unsigned ones, and turns signed ones into these only where it sees both.
  double estranged(const Graph& graph, const Lowering& lowering, const Unit& unit, int value) const;

  // True for a unit that becomes part of the weighted sum before it.
  bool fuses(const Graph& graph, const Lowering& lowering, const Unit& unit) const;
  // Reading and writing a tensor once.
  double pass(const Unit& unit) const;
  // `dims` with open sizes filled in.
  Shape assumed(const Dims& dims, Domain domain) const;
  // What calling a fused node costs, whatever is in it.
  static double call();
  // ... and what the CPU provider takes to bring a small image into the order its convolutions want, or back.
  static double reorder();
};

}  // namespace onnxprune::ep
