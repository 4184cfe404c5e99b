// Packed weights as inputs of weighted sums: shared by the provider and the custom operators.
#pragma once

#include <memory>

#include "ep/blob.h"
#include "ep/program.h"

namespace onnxprune::ep {

// Where element (row, column) of the weight matrix lies in the original tensor.
struct MatrixStrides {
  int64_t row = 0, column = 1;
};

// The rows of a packed weight as a source for packing, checked against what the node says of it.
// Throws BlobError.
std::shared_ptr<WeightSource> packed_source(const Blob& blob, const kernels::ConvGeometry& geometry, MatrixStrides strides);

// Throws BlobError unless the blob is of this shape and element type.
void check_declared(const Blob& blob, const Shape& shape, int64_t dtype);

}  // namespace onnxprune::ep
