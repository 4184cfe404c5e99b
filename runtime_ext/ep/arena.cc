#include "ep/arena.h"

#include <algorithm>
#include <numeric>

namespace onnxprune::ep {

std::vector<int64_t> place(const std::vector<ArenaRequest>& requests, int64_t* total) {
  constexpr int64_t kUnit = 16;
  std::vector<size_t> order(requests.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return requests[a].floats > requests[b].floats; });
  std::vector<int64_t> offsets(requests.size(), 0);
  std::vector<size_t> placed;
  *total = 0;
  for (size_t i : order) {
    const ArenaRequest& request = requests[i];
    const int64_t size = (request.floats + kUnit - 1) / kUnit * kUnit;
    std::vector<std::pair<int64_t, int64_t>> busy;  // ranges taken by buffers alive at the same time
    for (size_t other : placed) {
      if (requests[other].last < request.first || request.last < requests[other].first) continue;
      const int64_t end = offsets[other] + (requests[other].floats + kUnit - 1) / kUnit * kUnit;
      busy.emplace_back(offsets[other], end);
    }
    std::sort(busy.begin(), busy.end());
    int64_t offset = 0;
    for (const auto& range : busy) {
      if (offset + size <= range.first) break;
      offset = std::max(offset, range.second);
    }
    offsets[i] = offset;
    placed.push_back(i);
    *total = std::max(*total, offset + size);
  }
  return offsets;
}

}  // namespace onnxprune::ep
