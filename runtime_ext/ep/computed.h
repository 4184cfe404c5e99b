// What is known of sizes and factors that a graph computes instead of stating them.
#pragma once

#include <optional>
#include <vector>

#include "ep/dims.h"
#include "ep/graph.h"

namespace onnxprune::ep {

inline bool is_one(const Dim& dim) { return dim.value == 1; }
// Counted from the front.
inline int64_t from_front(int64_t axis, size_t rank) { return axis < 0 ? axis + static_cast<int64_t>(rank) : axis; }

// Integers of a constant tensor (int32 or int64); nothing for other values.
std::optional<std::vector<int64_t>> constant_ints(const Graph& graph, int value);

class Computed {
 public:
  // `alone`: only constants are looked at.
  Computed(const Graph& graph, const std::vector<Dims>& dims, bool alone = false) : graph_(graph), dims_(dims), alone_(alone) {}

  // The one number that `value` is, constant or computed from sizes.
  std::optional<float> number(int value, int depth = 0) const;
  // What is known of a list of sizes computed in the graph (Shape, Gather, Concat ...), or of whole numbers in
  // floats on the way to one.
  std::optional<Dims> sizes(int value, int depth = 0) const;
  // Dims of a value; of a Reshape's result what its list of sizes adds.
  Dims dims_of(int value) const;

 protected:
  const Graph& graph_;
  const std::vector<Dims>& dims_;

 private:
  // Sizes that a Where chooses, or arithmetic makes, in floats or integers.
  std::optional<Dims> chosen(const GraphNode& node, int depth) const;
  std::optional<Dims> combined(const GraphNode& node, int32_t type, int depth) const;

  bool alone_;
};

}  // namespace onnxprune::ep
