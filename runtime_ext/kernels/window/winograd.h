// Which convolutions Winograd's minimal filtering computes, and what with.
#pragma once

#include "../layout.h"

namespace onnxprune::kernels {

// Points in each direction, twice the outputs of a tile; 0 where it does not apply: windows that have
// 3 or 4 taps in each direction on each phase of their input (3x3 at stride 1, 5x5 to 8x8 at stride 2).
int winograd_points(const ConvGeometry& geometry);
// Planes it sums over: every phase of every input channel.
std::int64_t winograd_inputs(const ConvGeometry& geometry);

}  // namespace onnxprune::kernels
