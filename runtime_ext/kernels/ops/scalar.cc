#include "../simd/scalar.h"

#include "fill.h"

namespace onnxprune::kernels {
OpsTable ops_scalar() { return filled_table(); }
}  // namespace onnxprune::kernels
