#include "ep/packed.h"

#include <algorithm>

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

kernels::Analysis analyse_rows(const WeightSource& source, int64_t columns) {
  kernels::Analysis a;
  a.rows = static_cast<int64_t>(source.indptr.size()) - 1;
  a.columns = columns;
  a.nnz = static_cast<int64_t>(source.values.size());
  // Kept weights over stored ones when blocks of rows share their kept columns.
  std::vector<int32_t> merged;
  for (int i = 0; i < 4; ++i) {
    const int64_t height = int64_t{2} << i;
    int64_t stored = 0;
    for (int64_t r = 0; r < a.rows; r += height) {
      const int64_t end = std::min(a.rows, r + height);
      merged.assign(source.indices.begin() + source.indptr[static_cast<size_t>(r)],
                    source.indices.begin() + source.indptr[static_cast<size_t>(end)]);
      std::sort(merged.begin(), merged.end());
      stored += height * (std::unique(merged.begin(), merged.end()) - merged.begin());
    }
    a.block_fill[i] = stored == 0 ? 1.0 : static_cast<double>(a.nnz) / static_cast<double>(stored);
  }
  return a;
}

}  // namespace onnxprune::ep
