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

void gather_rows(int64_t rows, int64_t columns, int64_t nonzero, WeightSource* source) {
  // Every number is written and the end moves on only if it counts: no branch to guess wrong. So each row
  // needs room for one more number than it keeps.
  const kernels::DenseView& view = source->dense;
  source->indptr.assign(static_cast<size_t>(rows) + 1, 0);
  source->indices.resize(static_cast<size_t>(nonzero) + 1);
  source->values.resize(static_cast<size_t>(nonzero) + 1);
  int32_t* index = source->indices.data();
  float* value = source->values.data();
  if (view.column_stride == 1) {
    int64_t end = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = view.data + r * view.row_stride;
      for (int64_t c = 0; c < columns; ++c) {
        index[end] = static_cast<int32_t>(c);
        value[end] = row[c];
        end += row[c] != 0.0f ? 1 : 0;
      }
      source->indptr[static_cast<size_t>(r) + 1] = end;
    }
  } else {
    // Rows lie across the memory: take a few cache lines of rows at a time, each into a strip of its own.
    constexpr int64_t kStrip = 64;
    std::vector<int32_t> strip_index(static_cast<size_t>(kStrip * (columns + 1)));
    std::vector<float> strip_value(static_cast<size_t>(kStrip * (columns + 1)));
    int64_t end = 0;
    for (int64_t first = 0; first < rows; first += kStrip) {
      const int64_t width = std::min(kStrip, rows - first);
      int64_t ends[kStrip];
      for (int64_t j = 0; j < width; ++j) ends[j] = j * (columns + 1);
      for (int64_t c = 0; c < columns; ++c) {
        const float* line = view.data + c * view.column_stride + first;
        for (int64_t j = 0; j < width; ++j) {
          strip_index[static_cast<size_t>(ends[j])] = static_cast<int32_t>(c);
          strip_value[static_cast<size_t>(ends[j])] = line[j];
          ends[j] += line[j] != 0.0f ? 1 : 0;
        }
      }
      for (int64_t j = 0; j < width; ++j) {
        const int64_t begin = j * (columns + 1);
        std::copy(strip_index.begin() + begin, strip_index.begin() + ends[j], index + end);
        std::copy(strip_value.begin() + begin, strip_value.begin() + ends[j], value + end);
        end += ends[j] - begin;
        source->indptr[static_cast<size_t>(first + j) + 1] = end;
      }
    }
  }
  source->indices.resize(static_cast<size_t>(nonzero));
  source->values.resize(static_cast<size_t>(nonzero));
}

int64_t count_nonzero(const float* data, int64_t count) {
  int64_t total = 0;
  for (int64_t begin = 0; begin < count; begin += 4096) {
    const int64_t end = std::min(count, begin + 4096);
    int32_t part = 0;  // narrow, so that the loop becomes vector code
    for (int64_t i = begin; i < end; ++i) part += data[i] != 0.0f ? 1 : 0;
    total += part;
  }
  return total;
}

}  // namespace onnxprune::ep
