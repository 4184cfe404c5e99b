// A graph as onnxruntime offers it, read once into plain structs.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "abi/api.h"

namespace onnxprune::ep {

struct GraphValue {
  std::string name;
  const abi::ValueInfo* handle = nullptr;
  abi::TensorDesc desc;   // type and dims, -1 = open
  bool ranked = false;    // false: onnxruntime states neither rank nor type
  bool constant = false;  // an initializer nobody can override
  bool graph_output = false;
  int producer = -1;           // index of a node of this graph, or -1
  std::vector<int> consumers;  // one entry per use, in node order
  // A value may also be read by a subgraph (If, Loop), which lists no consumer node of this graph.
  size_t uses = 0;
};

struct GraphNode {
  const abi::Node* handle = nullptr;
  std::string op, domain, name;
  int since = 0;             // opset version of the operator
  std::vector<int> in, out;  // indices into Graph::values, -1 for an omitted optional one
};

class Graph {
 public:
  // `part`: a graph that onnxruntime cut out to be compiled, whose values others may read too; they are
  // among its outputs.
  enum class Extent { whole, part };
  Graph(const abi::Graph* handle, Extent extent);

  const std::vector<GraphNode>& nodes() const { return nodes_; }
  const std::vector<GraphValue>& values() const { return values_; }
  const GraphValue& value(int index) const { return values_[static_cast<size_t>(index)]; }
  const GraphNode& node(int index) const { return nodes_[static_cast<size_t>(index)]; }
  const std::vector<int>& inputs() const { return inputs_; }
  const std::vector<int>& outputs() const { return outputs_; }

  // Input `i` of `node` as a value index, -1 when omitted.
  static int input(const GraphNode& node, size_t i) { return i < node.in.size() ? node.in[i] : -1; }
  bool is_constant(int index) const { return index >= 0 && value(index).constant; }

  // A name for reports: the node's own, or its first output's where it has none.
  std::string label(const GraphNode& node) const;

 private:
  int intern(const abi::ValueInfo* info);

  std::vector<GraphNode> nodes_;
  std::vector<GraphValue> values_;
  std::vector<int> inputs_, outputs_;
  std::unordered_map<std::string, int> index_;
};

// Bytes of a constant; owned by onnxruntime and valid while the graph is.
struct Constant {
  const void* data = nullptr;
  abi::TensorDesc desc;
  int64_t size() const;
  const float* floats() const { return static_cast<const float*>(data); }
  const int64_t* ints() const { return static_cast<const int64_t*>(data); }
};

Constant constant(const GraphValue& value);

// Attributes. Absent ones give the fallback; one of another type is an error.
int64_t attr_int(const GraphNode& node, const char* name, int64_t fallback);
float attr_float(const GraphNode& node, const char* name, float fallback);
std::vector<int64_t> attr_ints(const GraphNode& node, const char* name);
std::string attr_string(const GraphNode& node, const char* name, const std::string& fallback);
std::vector<std::string> attr_strings(const GraphNode& node, const char* name);
bool has_attr(const GraphNode& node, const char* name);

}  // namespace onnxprune::ep
