// Shared by the cost_*.cc files: how much there is to do in a unit, and what takes either side as long.
#pragma once

#include "ep/cost.h"

namespace onnxprune::ep {

constexpr double kFuseless = 0.25;   // cycles to read or write one float in passing,
constexpr double kTransposed = 1.0;  // ... with a transposition, or out of cache
constexpr double kTap = 0.2;         // cycles for each number a pooling window looks at
// Cycles of activations that need more than a clamp.
double curve(const kernels::Epilogue& epilogue, double elements);

// A value as it will most likely be computed with, open sizes filled in, and its numbers.
View sizes_of(const CostModel& model, const Dims& dims, uint8_t domains);
double floats(const CostModel& model, const Dims& dims, uint8_t domains);
// Planes of pixels, in all images.
double planes(const CostModel& model, const Unit& unit);
// The share of a window that reads anything but padding.
double live_share(const kernels::ConvGeometry& g, const View& x);

// Multiply-adds and scores of an attention, and numbers of its keys and values, a head each.
struct AttentionWork {
  double products = 0, scores = 0, kept = 0;
};
AttentionWork attention_work(const CostModel& model, const Lowering& lowering, const Unit& unit);

// What a recurrent layer goes through.
struct Sequences {
  double steps = 0, batch = 0;
};
Sequences sequences_of(const CostModel& model, const Lowering& lowering, const Unit& unit);

}  // namespace onnxprune::ep
