#include "ep/prepared.h"

#include <algorithm>

#include "ep/build.h"

namespace onnxprune::ep {
namespace {

std::string joined(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  std::string out;
  for (const std::string& name : names) out += name + '\n';
  return out;
}

// Names of all values a set of nodes makes: the same whether the nodes are seen in the whole graph or in
// the one cut out of it.
std::string key_of(const Graph& graph, const Lowering& lowering, const Group& group) {
  std::vector<std::string> names;
  for (int u : group.units)
    for (int n : lowering.units[static_cast<size_t>(u)].nodes)
      for (int v : graph.node(n).out)
        if (v >= 0) names.push_back(graph.value(v).name);
  return joined(std::move(names));
}

PreparedGroups::Entry built(const Graph& graph, const Lowering& lowering, const ExecutorOptions& options, const Group& group) {
  std::vector<int> inputs, outputs;
  group_borders(graph, lowering, group.units, &inputs, &outputs);
  PreparedGroups::Entry entry;
  for (int v : inputs) entry.inputs.push_back(graph.value(v).name);
  for (int v : outputs) entry.outputs.push_back(graph.value(v).name);
  Program program = build_program(graph, lowering, group.units, group.domain, inputs, outputs);
  entry.executor = std::make_unique<Executor>(std::move(program), options);
  return entry;
}

}  // namespace

void PreparedGroups::build(const Graph& graph, const Lowering& lowering, const ExecutorOptions& options, Selection* selection) {
  std::vector<Group>& groups = selection->groups;
  const auto fails = [&](const Group& group) {
    const std::string key = key_of(graph, lowering, group);
    if (entries_.find(key) != entries_.end()) return false;
    try {
      entries_.emplace(key, built(graph, lowering, options, group));
      return false;
    } catch (const std::exception& error) {
      for (int u : group.units) selection->reasons[static_cast<size_t>(u)] = std::string("cannot be made ready: ") + error.what();
      return true;
    }
  };
  groups.erase(std::remove_if(groups.begin(), groups.end(), fails), groups.end());
}

Executor* PreparedGroups::find(const Graph& graph, const Lowering& lowering, const Group& group) const {
  const auto known = entries_.find(key_of(graph, lowering, group));
  return known == entries_.end() ? nullptr : known->second.executor.get();
}

bool PreparedGroups::keep(const Graph& graph, const Lowering& lowering, const std::vector<Group>& groups) {
  std::unordered_map<std::string, Entry> kept;
  for (const Group& group : groups) {
    const auto known = entries_.find(key_of(graph, lowering, group));
    if (known == entries_.end()) continue;
    known->second.executor->prepare();
    kept.insert(entries_.extract(known));
  }
  const bool others = !entries_.empty();
  entries_ = std::move(kept);
  return others;
}

PreparedGroups::Entry PreparedGroups::take(std::vector<std::string> made) {
  const auto known = entries_.find(joined(std::move(made)));
  if (known == entries_.end()) return {};
  Entry entry = std::move(known->second);
  entries_.erase(known);
  return entry;
}

}  // namespace onnxprune::ep
