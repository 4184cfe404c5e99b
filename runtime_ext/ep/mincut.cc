#include "ep/mincut.h"

#include <algorithm>
#include <limits>

namespace onnxprune::ep {
namespace {
constexpr double kTiny = 1e-6;  // cycles; capacities are thousands
}

MinCut::MinCut(int nodes) : out_(static_cast<size_t>(nodes)) {}

int MinCut::add_node() {
  out_.emplace_back();
  return static_cast<int>(out_.size()) - 1;
}

void MinCut::add_edge(int a, int b, double capacity) {
  out_[static_cast<size_t>(a)].push_back(static_cast<int>(edges_.size()));
  edges_.push_back({b, capacity});
  out_[static_cast<size_t>(b)].push_back(static_cast<int>(edges_.size()));
  edges_.push_back({a, 0});
}

// Distances from the source over edges with room (Dinic's algorithm).
bool MinCut::level() {
  depth_.assign(out_.size(), -1);
  depth_[kSource] = 0;
  std::vector<int> queue{kSource};
  for (size_t head = 0; head < queue.size(); ++head) {
    for (int e : out_[static_cast<size_t>(queue[head])]) {
      const Edge& edge = edges_[static_cast<size_t>(e)];
      if (edge.room <= kTiny || depth_[static_cast<size_t>(edge.to)] >= 0) continue;
      depth_[static_cast<size_t>(edge.to)] = depth_[static_cast<size_t>(queue[head])] + 1;
      queue.push_back(edge.to);
    }
  }
  return depth_[kSink] >= 0;
}

// Recursion is as deep as the longest shortest path, a few thousand nodes at most.
double MinCut::push(int node, double flow) {
  if (node == kSink) return flow;
  auto& edges = out_[static_cast<size_t>(node)];
  for (size_t& i = next_[static_cast<size_t>(node)]; i < edges.size(); ++i) {
    const size_t e = static_cast<size_t>(edges[i]);
    const int to = edges_[e].to;
    if (edges_[e].room <= kTiny || depth_[static_cast<size_t>(to)] != depth_[static_cast<size_t>(node)] + 1) continue;
    const double pushed = push(to, std::min(flow, edges_[e].room));
    if (pushed <= kTiny) continue;
    edges_[e].room -= pushed;
    edges_[e ^ 1].room += pushed;
    return pushed;
  }
  return 0;
}

std::vector<bool> MinCut::source_side() {
  while (level()) {
    next_.assign(out_.size(), 0);
    while (push(kSource, std::numeric_limits<double>::max()) > kTiny) {
    }
  }
  std::vector<bool> side(out_.size());
  for (size_t i = 0; i < out_.size(); ++i) side[i] = depth_[i] >= 0;
  return side;
}

}  // namespace onnxprune::ep
