// Output tiles that cannot be stored in place: other pitch than the input, or phases.
#pragma once

#include <cstdint>
#include <vector>

#include "../layout.h"
#include "../ops/table.h"

namespace onnxprune::kernels {

// The runs of pixels q .. q + count - 1 of the flat pixel vector (row pitch `pitch`, out.height x
// out.width valid pixels) in planes of the layout `out`; padding and phases not stored have none.
std::vector<ScatterRun> scatter_runs(const PlaneLayout& out, std::int32_t pitch, std::int64_t q,
                                     std::int64_t count);
// The inverse of OpsTable::scatter; what no run covers of the `count` floats reads as zero.
void scatter_load(const std::vector<ScatterRun>& runs, const float* plane, float* tile,
                  std::int64_t count);

}  // namespace onnxprune::kernels
