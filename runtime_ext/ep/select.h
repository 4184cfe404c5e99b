// Which units to claim, and in which groups.
#pragma once

#include <string>
#include <vector>

#include "ep/cost.h"
#include "ep/options.h"

namespace onnxprune::ep {

struct Group {
  std::vector<int> units;  // in execution order
  Domain domain = Domain::image;
  double ours = 0, cpu = 0;  // cycles, borders included in ours
  bool open = false;         // some size of an input is known at run time only
};

struct Selection {
  std::vector<Group> groups;
  std::vector<std::string> reasons;  // by unit: why not claimed; empty when claimed
};

// Measured cycles of each unit on our side, negative where they are not known; may be empty.
using Measured = std::vector<double>;

// What open sizes are taken to be, and what everything costs then.
struct Scene {
  CostModel costs;
  Measured measured;
  double weight = 1;  // of these costs in the sum over all scenes
};

// Chooses units whose predicted cost, moving values in and out of the planar layout included and summed over
// all scenes, is lower than the CPU provider's (a minimum cut decides), and splits them into convex groups.
// With `options.regions` off every group is one weighted sum and what fuses into it.
Selection select(const Graph& graph, const Lowering& lowering, const Options& options, const std::vector<Scene>& scenes);

// Values of a group that come from outside, and those that leave it.
void group_borders(const Graph& graph, const Lowering& lowering, const std::vector<int>& units,
                   std::vector<int>* inputs, std::vector<int>* outputs);

}  // namespace onnxprune::ep
