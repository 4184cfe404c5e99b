// The list of kernels as records, see kernels.inc.
#pragma once

#include <cstddef>

#include "plan.h"
#include "spmm/data.h"

namespace onnxprune::kernels {

struct KernelRecord {
  KernelEntry entry;
  Family family;
  int block_rows;      // of family block
  TileSet (*tiles)();  // null for generated kernels and windows
};

std::size_t kernel_count();
const KernelRecord& kernel_record(std::size_t index);
// Index by name, kernel_count() when unknown.
std::size_t find_kernel(const char* name);

}  // namespace onnxprune::kernels
