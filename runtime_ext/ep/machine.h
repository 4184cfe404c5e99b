// How fast this machine is, measured once.
#pragma once

#include "kernels/kernels.h"

namespace onnxprune::ep {

// Its best instruction set, whatever is in use.
kernels::Isa best_isa();

double cycles_per_microsecond();
// How its dense multiply-add rate compares with the estimates: what ties estimated cycles of the CPU
// provider to measured time of ours.
double dense_factor();
// Bytes a cycle that weights come in with at best, from the caches.
inline constexpr double kCached = 23;
// ... and those that are more than the second-level cache holds.
double streaming_speed();

}  // namespace onnxprune::ep
