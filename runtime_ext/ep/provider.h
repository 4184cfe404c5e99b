// One execution provider instance: what onnxruntime creates for each session.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "abi/api.h"
#include "ep/cost.h"
#include "ep/decide.h"
#include "ep/decisions.h"
#include "ep/executor.h"
#include "ep/graph.h"
#include "ep/options.h"
#include "ep/prepared.h"

namespace onnxprune::ep {

class Provider : public abi::Ep {
 public:
  // Throws when an option cannot be met on this machine.
  explicit Provider(Options options);

 private:
  bool must_leave_alone(const Graph& graph);
  void claim(const Graph& graph, abi::GraphSupport* support);
  ExecutorOptions executor_options(int group) const;
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
  PreparedGroups prepared_;
  std::unordered_map<std::string, int> group_of_value_;  // by name of a value a claimed group makes
};

}  // namespace onnxprune::ep
