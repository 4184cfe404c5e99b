// Processors for which no code is generated.
#include "../plan.h"
#include "../plan_impl.h"

namespace onnxprune::kernels {

bool code_generation_available(const char** reason) {
  if (reason != nullptr) *reason = "code is generated for x86-64 only";
  return false;
}

Status make_column_plan(const PlanRequest&, std::size_t, PlanPtr*) {
  return failure(Code::unsupported, "plan: code is generated for x86-64 only");
}

}  // namespace onnxprune::kernels
