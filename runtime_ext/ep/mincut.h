// Minimum cut of a small directed graph.
#pragma once

#include <cstddef>
#include <vector>

namespace onnxprune::ep {

class MinCut {
 public:
  explicit MinCut(int nodes);  // node 0 is the source side, node 1 the sink side
  static constexpr int kSource = 0, kSink = 1;
  int add_node();
  // Cutting from `a` (source side) to `b` (sink side) costs `capacity` >= 0.
  void add_edge(int a, int b, double capacity);
  // True for nodes that stay on the source side of a minimum cut; the smallest such set.
  std::vector<bool> source_side();

 private:
  struct Edge {
    int to;
    double room;
  };
  bool level();
  double push(int node, double flow);

  std::vector<Edge> edges_;  // edge i and its reverse i ^ 1
  std::vector<std::vector<int>> out_;
  std::vector<int> depth_;
  std::vector<size_t> next_;
};

}  // namespace onnxprune::ep
