// Reads the packed weight blobs of docs/formats.md. Everything is checked: whatever the bytes, the
// result is either the tensor or a BlobError that says what is wrong.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "ep/dims.h"

namespace onnxprune::ep {

struct BlobError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class BlobFormat : uint8_t { coo = 1, csr, csc, bsr, bitmap, nm, eie };

class Blob {
 public:
  // Checks the header and the section table (sections 1 and 2 of the page). Keeps a pointer to `data`.
  Blob(const uint8_t* data, size_t size);

  BlobFormat format() const { return format_; }
  int dtype() const { return dtype_; }  // ONNX element type
  int element_bytes() const { return item_; }
  const Shape& dims() const { return dims_; }
  int64_t nnz() const { return static_cast<int64_t>(nnz_); }
  int64_t elements() const { return static_cast<int64_t>(rows_ * columns_); }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  const char* format_name() const;

  // Receives each stored value: its position in the original tensor (row-major), and its bytes.
  class Sink {
   public:
    virtual ~Sink() = default;
    virtual void entry(int64_t position, const uint8_t* value) = 0;
  };
  // Walks all values, checking the format's own rules on the way. Padding slots are not reported.
  void visit(Sink* sink) const;

  // The tensor in full; `bytes` holds elements() * element_bytes().
  void decode(uint8_t* bytes) const;

 private:
  struct Section {
    const uint8_t* data = nullptr;
    uint64_t size = 0;
  };
  void read_header(const uint8_t* data, size_t size);
  void read_sections(const uint8_t* data, uint64_t header);
  std::vector<uint64_t> expected_sections() const;
  void check_params() const;
  void check_value_count() const;
  const uint8_t* slot(uint64_t i) const { return sections_[0].data + i * static_cast<uint64_t>(item_); }
  bool zero(uint64_t i) const;
  int64_t position(uint64_t row, uint64_t column) const;
  void emit(Sink* sink, uint64_t row, uint64_t column, uint64_t i) const;

  void visit_coo(Sink* sink) const;
  void visit_compressed(Sink* sink, bool by_rows) const;
  void visit_bsr(Sink* sink) const;
  void visit_bitmap(Sink* sink) const;
  void visit_nm(Sink* sink) const;
  void visit_eie(Sink* sink) const;

  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  BlobFormat format_ = BlobFormat::csr;
  int dtype_ = 0, item_ = 0, rank_ = 0, split_ = 0;
  uint64_t nnz_ = 0, stored_ = 0, total_ = 0, rows_ = 0, columns_ = 0;
  uint32_t params_[4] = {0, 0, 0, 0};
  Shape dims_;
  std::vector<int> perm_;
  std::vector<uint64_t> stride_;  // of the permuted axes in the original tensor
  bool identity_ = false;         // permuted order is the original one
  std::vector<Section> sections_;
};

// The compressed rows of a weight matrix whose element (row, column) lies at
// row * row_stride + column * column_stride of the original tensor (one of the strides is 1).
struct BlobRows {
  std::vector<int64_t> indptr;
  std::vector<int32_t> indices;
  std::vector<float> values;
};
// The blob must hold float32. `rows` x `columns` must be its element count.
BlobRows blob_rows(const Blob& blob, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride);

}  // namespace onnxprune::ep
