// Output tiles that cannot be stored in place: other pitch than the input, or phases.
#pragma once

#include <cstdint>
#include <vector>

#include "../layout.h"

namespace onnxprune::kernels {

// Moves tiles of the flat pixel vector (row pitch `pitch`, out.height x out.width valid pixels) to
// and from planes of the layout `out`.
class Scatter {
 public:
  Scatter() = default;
  Scatter(const PlaneLayout& out, std::int32_t pitch) : out_(out), pitch_(pitch) {}
  // Pixels q .. q + count - 1 of `tile` into the plane; pixels that are padding are skipped.
  void store(std::int64_t q, std::int64_t count, const float* tile, float* plane) const;
  // The inverse; padding reads as zero.
  void load(std::int64_t q, std::int64_t count, const float* plane, float* tile) const;

 private:
  template <class Body>
  void for_each_run(std::int64_t q, std::int64_t count, Body&& body) const;
  PlaneLayout out_;
  std::int32_t pitch_ = 1;
};

}  // namespace onnxprune::kernels
