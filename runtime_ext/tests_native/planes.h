// Buffers of planes for tests.
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#include "harness.h"
#include "kernels.h"

namespace testing {

inline std::vector<float> random_floats(std::size_t count, Random* random) {
  std::vector<float> v(count);
  for (float& x : v) x = random->symmetric();
  return v;
}

inline bool only_pixels_differ(const onnxprune::kernels::PlaneLayout& l, const std::vector<float>& plane) {
  std::vector<float> copy = plane;
  zero_borders(l, copy.data(), 0, 1);
  return std::memcmp(copy.data(), plane.data(), plane.size() * sizeof(float)) == 0;
}

}  // namespace testing
