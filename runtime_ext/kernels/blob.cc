// The self-contained form of weights, for compiled models. Little-endian, sections 8-byte aligned:
//
//   0   magic "ONPW"            4   u32 version (1)
//   8   u8 kind, block_rows, n, m, index bytes (2 / 4), has bias, 2 zero bytes
//   16  i32[13] geometry: in, out, groups, kernel h w, stride h w, dilation h w, pads t l b r
//   68  u32 zero                72  i64 non-zeros         80  i64 entries (columns or value slots)
//   88  sections: pointers i64[] (csr, block), columns (csr, block), positions u8[] (nm),
//       values f32[], bias f32[]
//
// The length of every section follows from the header and must add up to the blob's size; every
// index is checked, so whatever is accepted is safe to run.

#include "geometry_fields.h"
#include "weights_impl.h"

namespace onnxprune::kernels {
namespace {

constexpr char kMagic[4] = {'O', 'N', 'P', 'W'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kHeader = 88;

constexpr std::size_t align8(std::size_t n) { return (n + 7) & ~std::size_t{7}; }

struct Sections {
  std::size_t pointers = 0, columns = 0, positions = 0, values = 0, bias = 0;  // bytes
  std::size_t total() const {
    return kHeader + align8(pointers) + align8(columns) + align8(positions) + align8(values) +
           align8(bias);
  }
};

Sections sections_of(const WeightsImpl& w, std::int64_t entries, bool has_bias) {
  Sections s;
  const auto count = static_cast<std::size_t>(entries);
  if (w.kind == Storage::csr || w.kind == Storage::block) {
    s.pointers = static_cast<std::size_t>(w.block_count() + 1) * 8;
    s.columns = count * (w.is_narrow() ? 2 : 4);
  }
  if (w.kind == Storage::nm)
    s.positions = static_cast<std::size_t>(w.rows() * w.position_row_bytes());
  s.values = count * static_cast<std::size_t>(w.kind == Storage::block ? w.block_rows : 1) * 4;
  s.bias = has_bias ? static_cast<std::size_t>(w.rows()) * 4 : 0;
  return s;
}

class Writer {
 public:
  explicit Writer(std::uint8_t* at) : at_(at) {}
  template <class T>
  void put(T value) {
    std::memcpy(at_, &value, sizeof value);
    at_ += sizeof value;
  }
  void section(const void* data, std::size_t bytes) {
    if (bytes > 0) std::memcpy(at_, data, bytes);
    std::memset(at_ + bytes, 0, align8(bytes) - bytes);
    at_ += align8(bytes);
  }

 private:
  std::uint8_t* at_;
};

class Reader {
 public:
  explicit Reader(const std::uint8_t* at) : at_(at) {}
  template <class T>
  T get() {
    T value;
    std::memcpy(&value, at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  template <class T>
  void section(std::vector<T>* to, std::size_t bytes) {
    to->resize(bytes / sizeof(T));
    if (bytes > 0) std::memcpy(to->data(), at_, bytes);
    at_ += align8(bytes);
  }

 private:
  const std::uint8_t* at_;
};

Status corrupt(const char* what) { return failure(Code::corrupt, "packed weights: %s", what); }

Status check_columns(const WeightsImpl& w) {
  const auto entries = static_cast<std::int64_t>(w.is_narrow() ? w.narrow.size() : w.wide.size());
  std::int64_t previous = 0;
  for (std::size_t b = 0; b < w.pointers.size(); ++b) {
    const std::int64_t p = w.pointers[b];
    if (p < previous || p > entries || (b == 0 && p != 0))
      return corrupt("row pointers do not rise");
    previous = p;
  }
  if (previous != entries) return corrupt("row pointers do not cover the columns");
  for (std::size_t b = 0; b + 1 < w.pointers.size(); ++b) {
    std::int64_t last = -1;
    for (std::int64_t i = w.pointers[b]; i < w.pointers[b + 1]; ++i) {
      const std::int64_t c = w.column(i);
      if (c <= last || c >= w.columns())
        return corrupt("a column index is out of range or out of order");
      last = c;
    }
  }
  return {};
}

Status check_positions(const WeightsImpl& w) {
  const std::int64_t slots = w.segments() * w.n;
  for (std::int64_t row = 0; row < w.rows(); ++row) {
    std::int64_t last = -1;
    for (std::int64_t i = 0; i < slots; ++i) {
      const std::int64_t position = w.position(row, i);
      if (position >= w.m) return corrupt("a position lies outside its group");
      if (w.values[static_cast<std::size_t>(row * slots + i)] == 0.0f) continue;
      const std::int64_t c = i / w.n * w.m + position;
      if (c <= last || c >= w.columns())
        return corrupt("a position is out of range or out of order");
      last = c;
    }
  }
  return {};
}

std::int64_t count_nonzeros(const WeightsImpl& w) {
  std::int64_t nnz = 0;
  const std::size_t pad =
      w.kind == Storage::block ? static_cast<std::size_t>(w.rows() % w.block_rows) : 0;
  for (const float v : w.values) nnz += v != 0.0f;
  if (pad != 0) {  // rows past the end must hold nothing, or blocks would not mean what they say
    const auto first = static_cast<std::size_t>(w.pointers[w.pointers.size() - 2]);
    const auto last = static_cast<std::size_t>(w.pointers.back());
    for (std::size_t i = first; i < last; ++i) {
      for (std::size_t j = pad; j < static_cast<std::size_t>(w.block_rows); ++j) {
        if (w.values[i * static_cast<std::size_t>(w.block_rows) + j] != 0.0f) return -1;
      }
    }
  }
  return nnz;
}

Status read(const std::uint8_t* blob, std::size_t size, WeightsPtr* weights) {
  if (blob == nullptr || size < kHeader) return corrupt("shorter than its header");
  if (std::memcmp(blob, kMagic, 4) != 0) return corrupt("not a weight blob (bad magic)");
  Reader in(blob + 4);
  const auto version = in.get<std::uint32_t>();
  if (version != kVersion) {
    return failure(Code::corrupt, "packed weights: version %u, this library reads %u", version,
                   kVersion);
  }
  auto w = std::make_unique<WeightsImpl>();
  const auto kind = in.get<std::uint8_t>();
  const auto block_rows = in.get<std::uint8_t>(), n = in.get<std::uint8_t>(),
             m = in.get<std::uint8_t>();
  const auto index_bytes = in.get<std::uint8_t>(), has_bias = in.get<std::uint8_t>();
  const auto zero = in.get<std::uint16_t>();
  for (const auto field : kGeometryFields) w->shape.*field = in.get<std::int32_t>();
  const auto zero2 = in.get<std::uint32_t>();
  w->nonzeros = in.get<std::int64_t>();
  const auto entries = in.get<std::int64_t>();
  if (zero != 0 || zero2 != 0 || has_bias > 1) return corrupt("reserved bytes are not zero");
  if (const Status s = check_geometry(w->shape); !s.ok())
    return failure(Code::corrupt, "packed weights: %s", s.message);
  if (kind < 1 || kind > 4) return corrupt("unknown kind of storage");
  w->kind = static_cast<Storage>(kind);
  w->block_rows = block_rows;
  w->n = n;
  w->m = m;
  const bool is_block = w->kind == Storage::block, is_nm = w->kind == Storage::nm;
  const bool heights =
      is_block ? block_rows == 2 || block_rows == 4 || block_rows == 8 || block_rows == 16
               : block_rows == 1;
  const bool ratio = is_nm ? n >= 1 && m >= 2 && n < m && m <= 16 : n == 0 && m == 0;
  if (!heights || !ratio) return corrupt("block height or n:m ratio not supported");
  if (index_bytes != (w->is_narrow() ? 2 : 4)) return corrupt("wrong index width");
  // 2^24 rows x 2^26 columns at most (check_geometry), so these products fit 64 bits.
  const std::int64_t most = w->rows() * w->columns();
  std::int64_t expected = entries;
  if (is_nm) expected = w->rows() * w->segments() * w->n;
  if (w->kind == Storage::dense) expected = most;
  if (entries < 0 || entries > most * 2 || entries != expected)
    return corrupt("impossible number of entries");
  if (static_cast<std::uint64_t>(entries) > size) return corrupt("more entries than bytes");
  const Sections s = sections_of(*w, entries, has_bias != 0);
  if (s.total() != size) {
    return failure(Code::corrupt, "packed weights: %zu bytes, the header says %zu", size,
                   s.total());
  }
  in.section(&w->pointers, s.pointers);
  if (w->is_narrow()) {
    in.section(&w->narrow, s.columns);
  } else {
    in.section(&w->wide, s.columns);
  }
  in.section(&w->positions, s.positions);
  in.section(&w->values, s.values);
  in.section(&w->biases, s.bias);
  if (w->kind == Storage::csr || is_block) {
    if (const Status status = check_columns(*w); !status.ok()) return status;
  } else if (is_nm) {
    if (const Status status = check_positions(*w); !status.ok()) return status;
  }
  if (count_nonzeros(*w) != w->nonzeros) return corrupt("the number of non-zeros does not match");
  w->set_label();
  *weights = std::move(w);
  return {};
}

}  // namespace

std::size_t WeightsImpl::blob_bytes() const {
  const std::int64_t entries =
      static_cast<std::int64_t>(values.size()) / (kind == Storage::block ? block_rows : 1);
  return sections_of(*this, entries, !biases.empty()).total();
}

void WeightsImpl::write_blob(std::uint8_t* blob) const {
  const std::int64_t entries =
      static_cast<std::int64_t>(values.size()) / (kind == Storage::block ? block_rows : 1);
  const Sections s = sections_of(*this, entries, !biases.empty());
  Writer out(blob);
  for (const char c : kMagic) out.put(c);
  out.put(kVersion);
  out.put(static_cast<std::uint8_t>(kind));
  out.put(static_cast<std::uint8_t>(block_rows));
  out.put(static_cast<std::uint8_t>(n));
  out.put(static_cast<std::uint8_t>(m));
  out.put(static_cast<std::uint8_t>(is_narrow() ? 2 : 4));
  out.put(static_cast<std::uint8_t>(!biases.empty()));
  out.put(std::uint16_t{0});
  for (const auto field : kGeometryFields) out.put(shape.*field);
  out.put(std::uint32_t{0});
  out.put(nonzeros);
  out.put(entries);
  out.section(pointers.data(), s.pointers);
  out.section(is_narrow() ? static_cast<const void*>(narrow.data()) : wide.data(), s.columns);
  out.section(positions.data(), s.positions);
  out.section(values.data(), s.values);
  out.section(biases.data(), s.bias);
}

Status read_blob(const std::uint8_t* blob, std::size_t size, WeightsPtr* weights) {
  return guarded([&] { return read(blob, size, weights); });
}

}  // namespace onnxprune::kernels
