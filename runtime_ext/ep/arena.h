// Places buffers of known size and lifetime into one block of memory.
#pragma once

#include <cstdint>
#include <vector>

namespace onnxprune::ep {

struct ArenaRequest {
  int64_t floats = 0;
  int first = 0, last = 0;  // steps, inclusive, during which the buffer must keep its contents
};

// Offsets (in floats, multiples of 16) such that buffers alive at the same time do not overlap;
// `total` receives the size of the block. Larger buffers are placed first, each at the lowest
// offset that is free during its life.
std::vector<int64_t> place(const std::vector<ArenaRequest>& requests, int64_t* total);

}  // namespace onnxprune::ep
