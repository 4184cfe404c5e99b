#include "../simd/avx2.h"

#include "fill.h"

namespace onnxprune::kernels {
OpsTable ops_avx2() { return filled_table(); }
}  // namespace onnxprune::kernels
