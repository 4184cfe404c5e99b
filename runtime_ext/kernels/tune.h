// Choice of a kernel and its cuts by timing. The cost model says which kernels are worth a try; what
// is fastest on this machine, its caches included, is then measured on made-up data.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "plan.h"

namespace onnxprune::kernels {

// Times candidates for one plan after the other until its time is spent. Any thread may call. What
// was found is remembered by the process, for problems of equal geometry, layouts, options and (to
// some per cent) number of weights.
class Tuner {
 public:
  // `seconds`: of building and timing candidates, all problems together.
  explicit Tuner(double seconds);
  ~Tuner();
  Tuner(const Tuner&) = delete;
  Tuner& operator=(const Tuner&) = delete;

  // Finds the fastest way for this problem unless it is known or the time is spent. `plan` receives
  // the plan if one was built on the way, else it stays null: see `make_remembered_plan`.
  Status tune(const Weights& weights, const PlaneLayout& in, const PlaneLayout& out,
              const PlanOptions& options, PlanPtr* plan);
  // Lets go of the made-up data.
  void release();

 private:
  struct Buffers;
  std::mutex mutex_;
  std::unique_ptr<Buffers> buffers_;
  double left_;
};

// As `make_plan`, but the way that some Tuner of this process found for the problem, if one did.
Status make_remembered_plan(const Weights& weights, const PlaneLayout& in, const PlaneLayout& out,
                            const PlanOptions& options, PlanPtr* plan);

}  // namespace onnxprune::kernels
