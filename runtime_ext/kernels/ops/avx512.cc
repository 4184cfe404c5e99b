#include "../simd/avx512.h"

#include "fill.h"

namespace onnxprune::kernels {
OpsTable ops_avx512() { return filled_table(); }
}  // namespace onnxprune::kernels
