#include "ep/packed.h"

namespace onnxprune::ep {

void check_declared(const Blob& blob, const Shape& shape, int64_t dtype) {
  if (blob.dims() != shape)
    throw BlobError("packed weight: has shape " + to_string(blob.dims()) + " but the node says " + to_string(shape));
  if (blob.dtype() != dtype)
    throw BlobError("packed weight: has element type " + std::to_string(blob.dtype()) + " but the node says " +
                    std::to_string(dtype));
}

std::shared_ptr<WeightSource> packed_source(const Blob& blob, const kernels::ConvGeometry& geometry, MatrixStrides strides) {
  BlobRows rows = blob_rows(blob, geometry.out_channels, geometry.columns(), strides.row, strides.column);
  auto source = std::make_shared<WeightSource>();
  source->indptr = std::move(rows.indptr);
  source->indices = std::move(rows.indices);
  source->values = std::move(rows.values);
  return source;
}

}  // namespace onnxprune::ep
