// Groups that are built before onnxruntime asks for them: to be measured, and kept for `compile`.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "ep/executor.h"
#include "ep/graph.h"
#include "ep/lower.h"
#include "ep/select.h"

namespace onnxprune::ep {

class PreparedGroups {
 public:
  struct Entry {
    std::unique_ptr<Executor> executor;
    std::vector<std::string> inputs, outputs;  // names of values, in the program's order
  };

  // Builds what is selected and not built yet. A group that cannot be made ready stays with the CPU provider;
  // the others do not suffer for it.
  void build(const Graph& graph, const Lowering& lowering, const ExecutorOptions& options, Selection* selection);
  // Null where the group is not built.
  Executor* find(const Graph& graph, const Lowering& lowering, const Group& group) const;
  // Makes these groups ready to run and forgets all others; whether there were any.
  bool keep(const Graph& graph, const Lowering& lowering, const std::vector<Group>& groups);
  // Takes out the group whose nodes make these values; no executor where there is none.
  Entry take(std::vector<std::string> made);
  bool empty() const { return entries_.empty(); }
  void clear() { entries_.clear(); }

 private:
  std::unordered_map<std::string, Entry> entries_;
};

}  // namespace onnxprune::ep
