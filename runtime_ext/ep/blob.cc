#include "ep/blob.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>

#include "ep/crc32.h"

namespace onnxprune::ep {
namespace {

constexpr uint64_t kLimit = uint64_t{1} << 48;

[[noreturn]] void bad(const std::string& what) { throw BlobError("packed weight: " + what); }

template <typename T>
T load(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof value);  // any alignment; hosts are little-endian
  return value;
}

uint64_t align8(uint64_t x) { return (x + 7) / 8 * 8; }

uint64_t width(uint64_t largest) { return largest < 0x100 ? 1 : largest < 0x10000 ? 2 : largest < 0x100000000 ? 4 : 8; }

uint64_t load_index(const uint8_t* base, uint64_t i, uint64_t bytes) {
  const uint8_t* p = base + i * bytes;
  return bytes == 1 ? *p : bytes == 2 ? load<uint16_t>(p) : bytes == 4 ? load<uint32_t>(p) : load<uint64_t>(p);
}

// Size in bytes of an ONNX element type that can be packed, 0 for others.
int item_bytes(int dtype) {
  switch (dtype) {
    case 2: case 3: case 9: case 17: case 18: case 19: case 20:
      return 1;
    case 4: case 5: case 10: case 16:
      return 2;
    case 1: case 6: case 12:
      return 4;
    case 7: case 11: case 13:
      return 8;
    default:
      return 0;
  }
}

int section_count(BlobFormat format) {
  switch (format) {
    case BlobFormat::coo: case BlobFormat::bitmap: case BlobFormat::nm:
      return 2;
    default:
      return 3;
  }
}

uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

}  // namespace

Blob::Blob(const uint8_t* data, size_t size) : data_(data), size_(size) { read_header(data, size); }

const char* Blob::format_name() const {
  static const char* const names[] = {"", "coo", "csr", "csc", "bsr", "bitmap", "nm", "eie"};
  return names[static_cast<int>(format_)];
}

void Blob::read_header(const uint8_t* data, size_t size) {
  if (size < 64) bad("shorter than its header (" + std::to_string(size) + " bytes)");
  if (std::memcmp(data, "OPSW", 4) != 0) bad("no packed weight (wrong magic)");
  const int version = load<uint16_t>(data + 8);
  if (version != 1) bad("version " + std::to_string(version) + " is not known, only 1 is; update onnxprune");
  total_ = load<uint64_t>(data + 16);
  if (total_ != size)
    bad("says it has " + std::to_string(total_) + " bytes but has " + std::to_string(size));
  if (load<uint32_t>(data + 4) != crc32(data + 8, size - 8)) bad("checksum does not match");
  if (data[10] < 1 || data[10] > 7) bad("unknown format " + std::to_string(data[10]));
  format_ = static_cast<BlobFormat>(data[10]);
  dtype_ = data[11];
  item_ = item_bytes(dtype_);
  if (item_ == 0) bad("element type " + std::to_string(dtype_) + " cannot be packed");
  rank_ = data[12];
  split_ = data[13];
  if (rank_ > 16) bad("rank " + std::to_string(rank_));
  if (split_ > rank_) bad("split past the last axis");
  if (data[14] != section_count(format_)) bad("wrong number of sections");
  if (data[15] != 0) bad("reserved byte is not 0");
  nnz_ = load<uint64_t>(data + 24);
  stored_ = load<uint64_t>(data + 32);
  for (size_t i = 0; i < 4; ++i) params_[i] = load<uint32_t>(data + 40 + 4 * i);
  const uint64_t rank = static_cast<uint64_t>(rank_);
  const uint64_t header = 64 + 8 * rank + align8(rank) + 16 * data[14];
  if (load<uint64_t>(data + 56) != header || header > size) bad("wrong header size");

  uint64_t bound = 1;
  bool empty = false;
  for (uint64_t i = 0; i < rank; ++i) {
    const uint64_t dim = load<uint64_t>(data + 64 + 8 * i);
    if (dim > kLimit || bound > kLimit / std::max<uint64_t>(dim, 1)) bad("more than 2^48 elements");
    bound *= std::max<uint64_t>(dim, 1);
    empty |= dim == 0;
    dims_.push_back(static_cast<int64_t>(dim));
  }
  if (nnz_ > kLimit || stored_ > kLimit || total_ > kLimit) bad("counts beyond 2^48");
  if (nnz_ > stored_) bad("fewer slots than values");
  const uint8_t* perm = data + 64 + 8 * rank;
  std::vector<bool> seen(rank, false);
  for (uint64_t i = 0; i < align8(rank); ++i) {
    if (i >= rank) {
      if (perm[i] != 0) bad("padding after the permutation is not 0");
      continue;
    }
    if (perm[i] >= rank || seen[perm[i]]) bad("axis order is no permutation");
    seen[perm[i]] = true;
    perm_.push_back(perm[i]);
  }
  rows_ = columns_ = 1;
  std::vector<uint64_t> strides(rank, 1);
  for (uint64_t i = rank; i-- > 1;) strides[i - 1] = strides[i] * static_cast<uint64_t>(dims_[i]);
  identity_ = true;
  for (uint64_t i = 0; i < rank; ++i) {
    const uint64_t axis = static_cast<uint64_t>(perm_[i]);
    (i < static_cast<uint64_t>(split_) ? rows_ : columns_) *= static_cast<uint64_t>(dims_[axis]);
    stride_.push_back(strides[axis]);
    identity_ &= axis == i;
  }
  if (nnz_ > rows_ * columns_) bad("more values than elements");
  check_params();
  if (empty && (nnz_ != 0 || stored_ != 0)) bad("values in an empty tensor");
  read_sections(data, header);
}

void Blob::check_params() const {
  const uint32_t *p = params_;
  auto unused = [&](int from) {
    for (int i = from; i < 4; ++i)
      if (p[i] != 0) bad("unused parameter is not 0");
  };
  switch (format_) {
    case BlobFormat::coo:
      if (p[0] > 1) bad("unknown kind of coordinates");
      unused(1);
      break;
    case BlobFormat::bsr:
      if (p[0] < 1 || p[0] > 256 || p[1] < 1 || p[1] > 256) bad("block size out of range");
      unused(2);
      break;
    case BlobFormat::nm:
      if (p[0] < 1 || p[0] >= p[1] || p[1] > 16) bad("N:M out of range");
      unused(2);
      break;
    case BlobFormat::eie:
      if (p[0] < 1 || p[0] > 65535) bad("number of processing elements out of range");
      unused(1);
      break;
    default:
      unused(0);
  }
}

// Lengths of all sections, as they follow from the header.
std::vector<uint64_t> Blob::expected_sections() const {
  const uint64_t item = static_cast<uint64_t>(item_), values = stored_ * item;
  if (rows_ == 0 || columns_ == 0) return std::vector<uint64_t>(static_cast<size_t>(section_count(format_)), 0);
  switch (format_) {
    case BlobFormat::coo: {
      if (stored_ != nnz_) bad("slots and values differ in number");
      uint64_t largest = 0;
      for (int64_t d : dims_) largest = std::max(largest, static_cast<uint64_t>(d) - 1);
      return {values, params_[0] == 0 ? nnz_ * width(rows_ * columns_ - 1)
                                      : nnz_ * static_cast<uint64_t>(rank_) * width(largest)};
    }
    case BlobFormat::csr:
      if (stored_ != nnz_) bad("slots and values differ in number");
      return {values, nnz_ * width(columns_ - 1), (rows_ + 1) * width(nnz_)};
    case BlobFormat::csc:
      if (stored_ != nnz_) bad("slots and values differ in number");
      return {values, nnz_ * width(rows_ - 1), (columns_ + 1) * width(nnz_)};
    case BlobFormat::bsr: {
      const uint64_t r = params_[0], c = params_[1];
      if (stored_ % (r * c) != 0) bad("slots are no whole number of blocks");
      const uint64_t blocks = stored_ / (r * c);
      return {values, blocks * width(ceil_div(columns_, c) - 1), (ceil_div(rows_, r) + 1) * width(blocks)};
    }
    case BlobFormat::bitmap:
      if (stored_ != nnz_) bad("slots and values differ in number");
      return {values, ceil_div(rows_ * columns_, 8)};
    case BlobFormat::nm: {
      const uint64_t n = params_[0], m = params_[1], groups = ceil_div(columns_, m);
      // rows * groups * n is at most rows * columns * 16: no overflow below 2^52.
      if (stored_ != rows_ * groups * n) bad("wrong number of slots");
      const uint64_t bits = m <= 4 ? 2 : 4;
      return {values, rows_ * ceil_div(groups * n * bits, 16) * 2};
    }
    case BlobFormat::eie:
      if (columns_ > kLimit / params_[0]) bad("more than 2^48 segments");
      return {values, ceil_div(stored_, 2), (params_[0] * columns_ + 1) * width(stored_)};
  }
  return {};
}

void Blob::read_sections(const uint8_t* data, uint64_t header) {
  // Every expected length is below 2^48 * 16 * 8, so sums stay inside 64 bits.
  const std::vector<uint64_t> expected = expected_sections();
  const uint8_t* table = data + header - 16 * expected.size();
  uint64_t at = header;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (i > 0) {
      const uint64_t next = align8(at);
      if (next > total_) bad("cut short");
      for (; at < next; ++at)
        if (data[at] != 0) bad("padding between sections is not 0");
    }
    if (load<uint64_t>(table + 16 * i) != at || load<uint64_t>(table + 16 * i + 8) != expected[i])
      bad("section " + std::to_string(i) + " is not where it must be");
    if (expected[i] > total_ - at) bad("section " + std::to_string(i) + " is cut short");
    sections_.push_back({data + at, expected[i]});
    at += expected[i];
  }
  if (at != total_) bad("bytes after the last section");
  check_value_count();
}

bool Blob::zero(uint64_t i) const {
  const uint8_t* p = slot(i);
  for (int b = 0; b < item_; ++b)
    if (p[b] != 0) return false;
  return true;
}

void Blob::check_value_count() const {
  uint64_t values = 0;
  for (uint64_t i = 0; i < stored_; ++i) {
    values += zero(i) ? 0 : 1;
    if (dtype_ == 9 && *slot(i) > 1) bad("a boolean that is neither 0 nor 1");
  }
  if (values != nnz_)
    bad("says it has " + std::to_string(nnz_) + " non-zero values but has " + std::to_string(values));
}

int64_t Blob::position(uint64_t row, uint64_t column) const {
  uint64_t f = row * columns_ + column;
  if (identity_) return static_cast<int64_t>(f);
  uint64_t out = 0;
  for (int i = rank_; i-- > 0;) {
    const uint64_t dim = static_cast<uint64_t>(dims_[static_cast<size_t>(perm_[static_cast<size_t>(i)])]);
    out += f % dim * stride_[static_cast<size_t>(i)];
    f /= dim;
  }
  return static_cast<int64_t>(out);
}

void Blob::emit(Sink* sink, uint64_t row, uint64_t column, uint64_t i) const {
  sink->entry(position(row, column), slot(i));
}

void Blob::visit(Sink* sink) const {
  if (rows_ == 0 || columns_ == 0) return;
  switch (format_) {
    case BlobFormat::coo:
      return visit_coo(sink);
    case BlobFormat::csr:
      return visit_compressed(sink, true);
    case BlobFormat::csc:
      return visit_compressed(sink, false);
    case BlobFormat::bsr:
      return visit_bsr(sink);
    case BlobFormat::bitmap:
      return visit_bitmap(sink);
    case BlobFormat::nm:
      return visit_nm(sink);
    case BlobFormat::eie:
      return visit_eie(sink);
  }
}

void Blob::visit_coo(Sink* sink) const {
  uint64_t before = 0;
  uint64_t largest = 0;
  for (int64_t d : dims_) largest = std::max(largest, static_cast<uint64_t>(d) - 1);
  const uint64_t bytes = params_[0] == 0 ? width(rows_ * columns_ - 1) : width(largest);
  for (uint64_t i = 0; i < nnz_; ++i) {
    uint64_t flat = 0;
    if (params_[0] == 0) {
      flat = load_index(sections_[1].data, i, bytes);
      if (flat >= rows_ * columns_) bad("index outside the tensor");
    } else {
      for (uint64_t k = 0; k < static_cast<uint64_t>(rank_); ++k) {
        const uint64_t dim = static_cast<uint64_t>(dims_[static_cast<size_t>(perm_[k])]);
        const uint64_t index = load_index(sections_[1].data, i * static_cast<uint64_t>(rank_) + k, bytes);
        if (index >= dim) bad("index outside the tensor");
        flat = flat * dim + index;
      }
    }
    if (i > 0 && flat <= before) bad("indices do not rise");
    before = flat;
    emit(sink, flat / columns_, flat % columns_, i);
  }
}

void Blob::visit_compressed(Sink* sink, bool by_rows) const {
  const uint64_t lines = by_rows ? rows_ : columns_, length = by_rows ? columns_ : rows_;
  const uint64_t index_bytes = width(length - 1), pointer_bytes = width(nnz_);
  uint64_t begin = load_index(sections_[2].data, 0, pointer_bytes);
  if (begin != 0) bad("first pointer is not 0");
  for (uint64_t line = 0; line < lines; ++line) {
    const uint64_t end = load_index(sections_[2].data, line + 1, pointer_bytes);
    if (end < begin || end > nnz_) bad("pointers do not rise to the number of values");
    uint64_t before = 0;
    for (uint64_t i = begin; i < end; ++i) {
      const uint64_t index = load_index(sections_[1].data, i, index_bytes);
      if (index >= length) bad("index outside the matrix");
      if (i > begin && index <= before) bad("indices do not rise");
      before = index;
      emit(sink, by_rows ? line : index, by_rows ? index : line, i);
    }
    begin = end;
  }
  if (begin != nnz_) bad("last pointer is not the number of values");
}

void Blob::visit_bsr(Sink* sink) const {
  const uint64_t r = params_[0], c = params_[1], blocks = stored_ / (r * c);
  const uint64_t block_rows = ceil_div(rows_, r), block_columns = ceil_div(columns_, c);
  const uint64_t index_bytes = width(block_columns - 1), pointer_bytes = width(blocks);
  uint64_t begin = load_index(sections_[2].data, 0, pointer_bytes);
  if (begin != 0) bad("first pointer is not 0");
  for (uint64_t br = 0; br < block_rows; ++br) {
    const uint64_t end = load_index(sections_[2].data, br + 1, pointer_bytes);
    if (end < begin || end > blocks) bad("pointers do not rise to the number of blocks");
    uint64_t before = 0;
    for (uint64_t b = begin; b < end; ++b) {
      const uint64_t bc = load_index(sections_[1].data, b, index_bytes);
      if (bc >= block_columns) bad("block outside the matrix");
      if (b > begin && bc <= before) bad("blocks do not rise");
      before = bc;
      bool any = false;
      for (uint64_t k = 0; k < r * c; ++k) {
        const uint64_t i = b * r * c + k, row = br * r + k / c, column = bc * c + k % c;
        if (zero(i)) continue;
        if (row >= rows_ || column >= columns_) bad("a value outside the matrix");
        any = true;
        emit(sink, row, column, i);
      }
      if (!any) bad("a block of zeros");
    }
    begin = end;
  }
  if (begin != blocks) bad("last pointer is not the number of blocks");
}

void Blob::visit_bitmap(Sink* sink) const {
  const uint64_t count = rows_ * columns_;
  uint64_t i = 0;
  for (uint64_t byte = 0; byte < sections_[1].size; ++byte) {
    const unsigned bits = sections_[1].data[byte];
    for (unsigned b = 0; b < 8; ++b) {
      if (!(bits >> b & 1)) continue;
      const uint64_t element = byte * 8 + b;
      if (element >= count) bad("a bit past the last element");
      if (i >= nnz_) bad("more bits than values");
      emit(sink, element / columns_, element % columns_, i++);
    }
  }
  if (i != nnz_) bad("fewer bits than values");
}

void Blob::visit_nm(Sink* sink) const {
  const uint64_t n = params_[0], m = params_[1], groups = ceil_div(columns_, m), bits = m <= 4 ? 2 : 4;
  const uint64_t words = ceil_div(groups * n * bits, 16), per_word = 16 / bits;
  uint64_t i = 0;
  for (uint64_t row = 0; row < rows_; ++row) {
    const uint8_t* meta = sections_[1].data + row * words * 2;
    for (uint64_t group = 0; group < groups; ++group) {
      uint32_t used = 0, held = 0;  // positions named, positions with a value
      uint64_t before = 0;
      for (uint64_t k = 0; k < n; ++k, ++i) {
        const uint64_t s = group * n + k;
        const uint64_t place = load<uint16_t>(meta + s / per_word * 2) >> (s % per_word * bits) & ((1u << bits) - 1);
        if (place >= m) bad("position outside its group");
        if (k > 0 && place <= before) bad("positions do not rise");
        before = place;
        used |= 1u << place;
        if (zero(i)) continue;
        held |= 1u << place;
        const uint64_t column = group * m + place;
        if (column >= columns_) bad("a value past the last column");
        emit(sink, row, column, i);
      }
      // Unused slots take the smallest positions that hold no value.
      uint32_t filler = used & ~held, free = ~held;
      for (; filler != 0; filler &= filler - 1, free &= free - 1)
        if ((filler & -filler) != (free & -free)) bad("unused slots are not at the first free positions");
    }
    for (uint64_t s = groups * n; s < words * per_word; ++s)
      if (load<uint16_t>(meta + s / per_word * 2) >> (s % per_word * bits) & ((1u << bits) - 1))
        bad("bits past the last slot");
  }
}

void Blob::visit_eie(Sink* sink) const {
  const uint64_t elements = params_[0], pointer_bytes = width(stored_);
  uint64_t begin = load_index(sections_[2].data, 0, pointer_bytes);
  if (begin != 0) bad("first pointer is not 0");
  for (uint64_t pe = 0; pe < elements; ++pe) {
    const uint64_t local_rows = pe >= rows_ ? 0 : (rows_ - pe + elements - 1) / elements;
    for (uint64_t column = 0; column < columns_; ++column) {
      const uint64_t end = load_index(sections_[2].data, pe * columns_ + column + 1, pointer_bytes);
      if (end < begin || end > stored_) bad("pointers do not rise to the number of slots");
      uint64_t next = 0;  // rows passed so far
      for (uint64_t i = begin; i < end; ++i) {
        const uint64_t gap = sections_[1].data[i / 2] >> (i % 2 * 4) & 15;
        next += gap + 1;
        if (next > local_rows) bad("row outside the matrix");
        if (zero(i)) {
          if (gap != 15 || i + 1 == end) bad("a padding slot out of place");
          continue;
        }
        emit(sink, (next - 1) * elements + pe, column, i);
      }
      begin = end;
    }
  }
  if (begin != stored_) bad("last pointer is not the number of slots");
  if (stored_ % 2 == 1 && sections_[1].data[stored_ / 2] >> 4 != 0) bad("bits past the last slot");
}

void Blob::decode(uint8_t* bytes) const {
  std::memset(bytes, 0, static_cast<size_t>(elements()) * static_cast<size_t>(item_));
  struct Dense : Sink {
    uint8_t* out;
    size_t item;
    void entry(int64_t position, const uint8_t* value) override {
      std::memcpy(out + static_cast<size_t>(position) * item, value, item);
    }
  } sink;
  sink.out = bytes;
  sink.item = static_cast<size_t>(item_);
  visit(&sink);
}

BlobRows blob_rows(const Blob& blob, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
  if (blob.dtype() != 1) bad("holds another element type than float32");
  if (rows * columns != blob.elements()) bad("its shape does not fit the operator");
  struct Place : Blob::Sink {
    int64_t row_stride, column_stride;
    std::pair<int64_t, int64_t> at(int64_t position) const {
      if (column_stride == 1) return {position / row_stride, position % row_stride};
      return {position % column_stride, position / column_stride};
    }
  };
  struct Count : Place {
    std::vector<int64_t>* indptr;
    void entry(int64_t position, const uint8_t*) override { ++(*indptr)[static_cast<size_t>(at(position).first) + 1]; }
  } count;
  struct Fill : Place {
    BlobRows* out;
    std::vector<int64_t> next;
    bool sorted = true;
    void entry(int64_t position, const uint8_t* value) override {
      const auto [row, column] = at(position);
      const size_t i = static_cast<size_t>(next[static_cast<size_t>(row)]++);
      out->indices[i] = static_cast<int32_t>(column);
      std::memcpy(&out->values[i], value, sizeof(float));
      if (i > static_cast<size_t>(out->indptr[static_cast<size_t>(row)]) && out->indices[i - 1] >= column) sorted = false;
    }
  } fill;
  BlobRows out;
  out.indptr.assign(static_cast<size_t>(rows) + 1, 0);
  count.row_stride = fill.row_stride = row_stride;
  count.column_stride = fill.column_stride = column_stride;
  count.indptr = &out.indptr;
  blob.visit(&count);
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) out.indptr[r + 1] += out.indptr[r];
  out.indices.resize(static_cast<size_t>(out.indptr.back()));
  out.values.resize(static_cast<size_t>(out.indptr.back()));
  fill.out = &out;
  fill.next.assign(out.indptr.begin(), out.indptr.end() - 1);
  blob.visit(&fill);
  if (!fill.sorted) {
    std::vector<std::pair<int32_t, float>> row;
    for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
      const size_t begin = static_cast<size_t>(out.indptr[r]), end = static_cast<size_t>(out.indptr[r + 1]);
      row.clear();
      for (size_t i = begin; i < end; ++i) row.emplace_back(out.indices[i], out.values[i]);
      std::sort(row.begin(), row.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
      for (size_t i = begin; i < end; ++i) std::tie(out.indices[i], out.values[i]) = row[i - begin];
    }
  }
  return out;
}

}  // namespace onnxprune::ep
