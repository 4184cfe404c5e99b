// What the kinds of plans share, and what the dispatch in plan.cc needs of them.
#pragma once

#include <string>
#include <vector>

#include "ops/table.h"
#include "plan.h"
#include "weights_impl.h"

namespace onnxprune::kernels {

// Wanted sizes, filled with defaults by `make_plan`; the benchmark varies them.
struct Tuning {
  std::int64_t input_budget = 0;  // bytes of input a column block may touch per tile; 0 = default
  std::int32_t max_vectors = 0;   // tile length; 0 = the kernel's
  std::int32_t pack = -1;         // 1 pack the input, 0 do not, -1 decide
  // Generated kernels:
  std::int32_t pixels = 0, rows = 0;  // registers: vectors of pixels, rows of a group; 0 = default
  bool shift = true;                  // inputs that cross lines are shifted together
  bool embedded = true;               // weights as memory operands
  std::int32_t claim = -1;            // lines of the output are asked for early; -1 = if it is large
  bool fetch = true;                  // code is fetched into the caches ahead of its use
  std::int32_t fetch_second = -1;     // ... into the second-level cache only; -1 decide
  bool alike = true;                  // rows that keep the same columns are computed together
};

struct PlanRequest {
  const WeightsImpl& weights;
  const PlaneLayout& in;
  const PlaneLayout& out;
  const PlanOptions& options;
  Tuning tuning;
};

// Whether the clamp of the tile kernels can express the epilogue, and its limits.
struct Clamp {
  bool enough = true;
  float low = 0, high = 0;
  bool rounds = false;  // to whole numbers, after the clamp
};
Clamp clamp_of(const Epilogue& epilogue);

// Floats from a tile's first pixel to what each column (group, channel, tap) reads; false when an
// offset does not fit 31 bits.
bool column_offsets(const ConvGeometry& geometry, const PlaneLayout& in,
                    std::vector<std::int32_t>* offsets);

// Bias of every row, zeros if there is none, padded to a multiple of 16 rows.
std::vector<float> padded_bias(const WeightsImpl& weights);

// Factors of the rows, padded like the bias; empty if there are none.
std::vector<float> padded_factor(const PlanRequest& request);

class PlanBase : public Plan {
 public:
  const PlanInfo& info() const override { return info_; }
  const PlaneLayout& in_layout() const override { return in_; }
  const PlaneLayout& out_layout() const override { return out_; }
  // Filled in by make_plan.
  void set_cycles(double cycles) { info_.cycles = cycles; }
  void set_build_seconds(double seconds) { info_.build_seconds = seconds; }

 protected:
  explicit PlanBase(const PlanRequest& request)
      : in_(request.in),
        out_(request.out),
        epilogue_(request.options.epilogue),
        ops_(ops_table(request.options.isa)) {
    info_.isa = request.options.isa;
    info_.nnz = request.weights.nnz();
  }
  PlaneLayout in_, out_;
  Epilogue epilogue_;
  const OpsTable& ops_;
  PlanInfo info_;
};

// `kernel` is an index into the kernel list.
Status make_tile_plan(const PlanRequest& request, std::size_t kernel, PlanPtr* plan);
Status make_column_plan(const PlanRequest& request, std::size_t kernel, PlanPtr* plan);
Status make_winograd_plan(const PlanRequest& request, std::size_t kernel, PlanPtr* plan);
// Of a geometry that walks planes.
PlanPtr make_window_plan(const PlanRequest& request, const char* kernel);
Status make_vector_plan(const PlanRequest& request, PlanPtr* plan);

// make_plan with tuning.
Status make_tuned_plan(const Weights& weights, const PlaneLayout& in, const PlaneLayout& out,
                       const PlanOptions& options, const Tuning& tuning, PlanPtr* plan);

}  // namespace onnxprune::kernels
