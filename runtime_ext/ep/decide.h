// What is claimed of a graph: by prediction, where that is too close to call by measurement, and for open sizes
// so that nothing is lost where they turn out small.
#pragma once

#include <vector>

#include "ep/cost.h"
#include "ep/graph.h"
#include "ep/lower.h"
#include "ep/options.h"
#include "ep/prepared.h"
#include "ep/select.h"
#include "ep/shared.h"

namespace onnxprune::ep {

// What was decided about a graph. Sessions of equal models share it: what was estimated, and measured, once
// holds for all of them.
struct Verdict {
  struct Estimate {
    double sparsity = -1, ours = 0, cpu = 0;  // cycles
  };
  Selection selection;
  std::vector<Estimate> estimates;  // by unit
};

// Of all that a verdict depends on.
Digest verdict_digest(const Graph& graph, const Lowering& lowering, const Options& options, kernels::Isa isa);

class Decider {
 public:
  // Groups are built with `execution` in `prepared`, except where compiled models are saved: that needs the
  // weights that planning lets go of, so `compile` starts afresh then.
  Decider(const Options& options, const CostModel& costs, const ExecutorOptions& execution, const Graph& graph,
          Lowering* lowering, PreparedGroups* prepared)
      : options_(options), costs_(costs), execution_(execution), graph_(graph), lowering_(*lowering), prepared_(*prepared) {}

  Verdict decide();

 private:
  // What a group takes, cycles.
  struct Balance {
    double ours = 0, cpu = 0;
  };

  bool timed() const { return options_.timing && !options_.context_enable; }
  void select_from(const std::vector<Scene>& scenes);
  double dense(const CostModel& costs, const Group& group) const;
  // Measured cycles by unit for groups whose shapes are known well enough; running them takes about
  // `budget_us` together.
  Measured measure(const std::vector<Group>& groups, const CostModel& costs, double budget_us) const;
  // How many times as long as predicted takes what was measured, within bounds.
  double slower(const Measured& measured) const;
  // The usual sizes, and those at which little is left to do.
  std::vector<Scene> all_scenes(Scene usual) const;
  // What a group of open sizes takes where these are small, for each of CostModel::small(); nothing for one that
  // is claimed whatever it takes.
  std::vector<Balance> balances(const Group& group) const;
  // Drops groups of open sizes until the rest loses nothing where these turn out small; whether any had to go,
  // which is all that happens with `only_look`.
  bool drop_losers_when_small(bool only_look);

  const Options& options_;
  CostModel costs_;
  ExecutorOptions execution_;
  const Graph& graph_;
  Lowering& lowering_;
  PreparedGroups& prepared_;
  Selection selection_;
};

}  // namespace onnxprune::ep
