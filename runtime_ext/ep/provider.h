// One execution provider instance: what onnxruntime creates for each session.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "abi/api.h"
#include "ep/cost.h"
#include "ep/decisions.h"
#include "ep/executor.h"
#include "ep/graph.h"
#include "ep/options.h"
#include "ep/select.h"
#include "ep/shared.h"

namespace onnxprune::ep {

class Provider : public abi::Ep {
 public:
  // Throws when an option cannot be met on this machine.
  explicit Provider(Options options);

 private:
  // A group built for measuring, kept for `compile`.
  struct Prepared {
    std::unique_ptr<Executor> executor;
    std::vector<std::string> inputs, outputs;  // names of values, in the program's order
  };

  // What was decided about a graph. Sessions of equal models share it: what was estimated, and measured, once
  // holds for all of them.
  struct Verdict {
    struct Estimate {
      double sparsity = -1, ours = 0, cpu = 0;  // cycles
    };
    Selection selection;
    std::vector<Estimate> estimates;  // by unit
  };

  bool must_leave_alone(const Graph& graph);
  void claim(const Graph& graph, abi::GraphSupport* support);
  static Shared<const Verdict>& verdicts();
  // Of all that a verdict depends on.
  Digest claim_digest(const Graph& graph, const Lowering& lowering) const;
  Verdict decide(const Graph& graph, Lowering* lowering);
  double slower(const Graph& graph, const Lowering& lowering, const std::vector<double>& measured) const;
  std::string key_of(const Graph& graph, const Lowering& lowering, const Group& group) const;
  ExecutorOptions executor_options(int group) const;
  Prepared prepare(const Graph& graph, const Lowering& lowering, const Group& group) const;
  void prepare_all(const Graph& graph, const Lowering& lowering, Selection* selection);
  // True when the prediction is too close to call.
  static bool doubtful(const Group& group);
  // Measured cycles by unit for groups whose shapes are known well enough; running them takes about
  // `budget_us` together.
  std::vector<double> measure(const Graph& graph, const Lowering& lowering, const std::vector<Group>& groups,
                              const CostModel& costs, double budget_us);
  // The usual sizes, and those at which little is left to do.
  std::vector<Scene> all_scenes(const Graph& graph, const Lowering& lowering, const std::vector<Group>& groups, Scene usual);
  // What a group of open sizes takes where these are small, for each of CostModel::small(); nothing for one that
  // is claimed whatever it takes.
  struct Balance {
    double ours = 0, cpu = 0;  // cycles
  };
  std::vector<Balance> balances(const Graph& graph, const Lowering& lowering, const Group& group);
  // Drops groups of open sizes until the rest loses nothing where these turn out small; whether any had to go,
  // which is all that happens with `only_look`.
  bool drop_losers_when_small(const Graph& graph, const Lowering& lowering, bool only_look, Selection* selection);
  // Makes ready what is claimed, and forgets what was prepared and is not.
  void finish_claims(const Graph& graph, const Lowering& lowering, const std::vector<Group>& groups);
  void claim_context(const Graph& graph, int node, abi::GraphSupport* support);
  abi::NodeComputeInfo* compile_one(const abi::Graph* graph, const abi::Node* fused, abi::Node** context_node);
  abi::NodeComputeInfo* finish(std::unique_ptr<Executor> executor);
  abi::Node* make_context_node(const abi::Node* fused, const std::string& bytes) const;

  Options options_;
  std::shared_ptr<std::once_flag> first_run_;  // null unless some graph of this session is new to the process
  bool claimed_elsewhere_ = false;             // another graph of this session has fused nodes
  kernels::Isa isa_;
  CostModel costs_;
  std::shared_ptr<kernels::Tuner> tuner_;  // null when claims shall be the same every time
  std::shared_ptr<SessionLog> log_;
  std::vector<std::shared_ptr<const Verdict>> verdicts_;  // kept for other sessions
  std::unordered_map<std::string, Prepared> prepared_;
  std::unordered_map<std::string, int> group_of_value_;  // by name of a value a claimed group makes
};

}  // namespace onnxprune::ep
