#include "column_code.h"

#include <algorithm>

#include "encoder.h"

namespace onnxprune::kernels {
namespace {

// Register roles of a generated function.
constexpr Gp kIn = Gp::rdi, kWeights = Gp::rsi, kOut = Gp::rdx, kCount = Gp::rcx, kMask = Gp::r8,
             kBias = Gp::r9, kResidual = Gp::r10, kNext = Gp::r11, kLimits = Gp::rax;

// A line of what runs next is fetched for so many bytes of code: weights included, a line of code
// comes with about half a line of them, and the next function may be somewhat longer.
constexpr std::size_t kFetchGap = 40;

constexpr std::int32_t place(std::size_t offset) { return static_cast<std::int32_t>(offset); }

// The kept weights of a group of rows, sorted by column.
struct Entry {
  std::uint32_t column;
  std::uint32_t row;  // within the group
  float value;
};

// Rows come in any order, the column blocks of each one after the other.
class ColumnSort {
 public:
  explicit ColumnSort(const WeightsImpl& w)
      : w_(w),
        per_group_(w.shape.out_channels / w.shape.groups),
        columns_(static_cast<std::uint32_t>(w.columns())),
        next_(static_cast<std::size_t>(w.rows())),
        end_(next_.size()) {
    const bool listed = w.kind != Storage::csr || !w.is_narrow();
    if (listed) {
      list_.reserve(static_cast<std::size_t>(w.nnz()));
      list_values_.reserve(list_.capacity());
    }
    for (std::size_t r = 0; r < next_.size(); ++r) {
      next_[r] = listed ? static_cast<std::int64_t>(list_.size()) : w.pointers[r];
      if (listed) {
        w.for_each_in_row(static_cast<std::int64_t>(r), [&](std::uint32_t column, float value) {
          list_.push_back(column);
          list_values_.push_back(value);
        });
      }
      end_[r] = listed ? static_cast<std::int64_t>(list_.size()) : w.pointers[r + 1];
    }
    listed_ = listed;
  }

  // Of `count` rows the entries in columns [first, limit); those before have been given already.
  const std::vector<Entry>& sort(const std::int32_t* rows, std::int32_t count, std::uint64_t first,
                                 std::uint64_t limit) {
    if (listed_) {
      place(list_.data(), list_values_.data(), rows, count, first, limit);
    } else {
      place(w_.narrow.data(), w_.values.data(), rows, count, first, limit);
    }
    return sorted_;
  }

 private:
  template <class Column>
  void place(const Column* columns, const float* values, const std::int32_t* rows,
             std::int32_t count, std::uint64_t first, std::uint64_t limit) {
    begin_.assign(static_cast<std::size_t>(limit - first) + 1, 0u);
    std::uint32_t* const begin = begin_.data();
    stop_.resize(static_cast<std::size_t>(count));
    for (std::int32_t i = 0; i < count; ++i) {
      const std::size_t row = static_cast<std::size_t>(rows[i]);
      const std::int64_t base = base_of(rows[i], first), left = span(rows[i], limit);
      std::int64_t at = next_[row];
      for (; at < end_[row] && columns[at] < left; ++at) ++begin[base + columns[at] + 1];
      stop_[static_cast<std::size_t>(i)] = at;
    }
    for (std::size_t c = 1; c < begin_.size(); ++c) begin[c] += begin[c - 1];
    sorted_.resize(begin_.back());
    Entry* const sorted = sorted_.data();
    for (std::int32_t i = 0; i < count; ++i) {
      const std::size_t row = static_cast<std::size_t>(rows[i]);
      const std::int64_t base = base_of(rows[i], first), stop = stop_[static_cast<std::size_t>(i)];
      for (std::int64_t at = next_[row]; at < stop; ++at) {
        const std::int64_t column = base + columns[at];
        sorted[begin[column]++] = {static_cast<std::uint32_t>(first + static_cast<std::uint64_t>(column)),
                                   static_cast<std::uint32_t>(i), values[at]};
      }
      next_[row] = stop;
    }
  }

  // What makes a row's column one of the block, and the first of its columns behind the block.
  std::int64_t base_of(std::int32_t row, std::uint64_t first) const {
    return std::int64_t{row / per_group_} * columns_ - static_cast<std::int64_t>(first);
  }
  std::int64_t span(std::int32_t row, std::uint64_t limit) const { return -base_of(row, limit); }

  const WeightsImpl& w_;
  std::int32_t per_group_;
  std::uint32_t columns_;
  std::vector<std::int64_t> next_, end_, stop_;
  bool listed_ = false;                // where the weights do not lie in that order
  std::vector<std::uint32_t> list_;
  std::vector<float> list_values_;
  std::vector<std::uint32_t> begin_;   // by column of the block
  std::vector<Entry> sorted_;
};

class Generator {
 public:
  Generator(const ColumnShape& shape, const ColumnEpilogue& epilogue, std::int64_t out_stride,
            Encoder* encoder)
      : s_(shape),
        e_(epilogue),
        stride_(out_stride * 4),
        x_(*encoder),
        vector_bytes_(shape.wide ? 64 : 32),
        step_(place(static_cast<std::size_t>(shape.input_step) * 4)),
        window_(shape.wide ? 512 : 128) {
    for (int r = 0; r < 32; ++r) {
      sums_[r] = Encoder::near_fma_sum(r, kWeights);
      inputs_[r] = Encoder::near_fma_input(r);
    }
  }

  // One function and its weights: entries [begin, end) of a group of `rows` rows, which are stored
  // `place[i]` rows behind the group's base.
  ColumnPiece function(const Entry* begin, const Entry* end, int rows, const std::int32_t* place,
                       bool first, bool last, const std::int32_t* offset) {
    ColumnPiece piece;
    x_.align(64);
    piece.code = static_cast<std::uint32_t>(x_.size());
    rows_ = rows;
    place_ = place;
    weights_.resize(static_cast<std::size_t>(end - begin));
    given_ = 0;
    prologue(first, last);
    const std::size_t loop = x_.size();
    fetched_from_ = loop;
    fetched_ = 0;
    passed_ = -window_;
    weights_moved_ = 0;
    moved_ = 0;
    follow_ = close_inputs(begin, end, offset);
    begin_ = begin;
    weights_in_ = static_cast<std::size_t>(end - begin);
    claims_ = s_.claim && first;
    claimed_ = 0;
    held_[0] = held_[1] = -1;
    older_ = 0;
    start(first);
    while (begin != end) begin = column(begin, end, offset);
    if (!first) add_earlier();
    if (last) finish();
    store();
    advance(first, last);
    x_.decrement(kCount);
    x_.jump_back_if_not_zero(loop);
    x_.zero_upper();
    x_.ret();
    x_.align(64);
    piece.weights = static_cast<std::uint32_t>(x_.size());
    x_.data(weights_.data(), weights_.size() * sizeof(float));
    piece.end = static_cast<std::uint32_t>(x_.size());
    return piece;
  }

 private:
  int sum(int row, int pixel) const { return row * s_.pixels + pixel; }
  int input(int pixel) const { return rows_ * s_.pixels + pixel; }
  int weight() const { return input(s_.shift ? 3 : s_.pixels); }
  Mem out(int row, int pixel) const {
    return {kOut, place(place_[row] * stride_ + pixel * vector_bytes_)};
  }

  void prologue(bool first, bool last) {
    x_.load(kWeights, {kIn, offsetof(ColumnArgs, weights)});
    x_.add(kWeights, window_);
    if (s_.iterations != 0) x_.load(kNext, {kIn, offsetof(ColumnArgs, next)});
    x_.load(kOut, {kIn, offsetof(ColumnArgs, out)});
    x_.load(kCount, {kIn, offsetof(ColumnArgs, count)});
    if (first || (last && e_.factor != 0)) x_.load(kBias, {kIn, offsetof(ColumnArgs, bias)});
    if (last && e_.masked) x_.load(kMask, {kIn, offsetof(ColumnArgs, mask)});
    if (adds(first, last)) x_.load(kResidual, {kIn, offsetof(ColumnArgs, residual)});
    if (last) x_.load(kLimits, {kIn, offsetof(ColumnArgs, limits)});
    x_.load(kIn, {kIn, offsetof(ColumnArgs, in)});  // last: it overwrites the argument
  }

  // Where the residual is added: to the bias, so that sums may be kept in its place meanwhile, or
  // after the activation.
  bool adds(bool first, bool last) const {
    return e_.residual && (e_.residual_after ? last : first);
  }
  Mem residual(int row, int pixel) const {
    return {kResidual, place(place_[row] * stride_ + pixel * vector_bytes_)};
  }

  void start(bool first) {
    for (int r = 0; r < rows_; ++r) {
      for (int p = 0; p < s_.pixels; ++p) {
        if (!first) {
          x_.clear(s_.wide, sum(r, p));
        } else if (p == 0) {
          x_.broadcast(s_.wide, sum(r, 0), {kBias, r * 4});
        } else {
          x_.move(s_.wide, sum(r, p), sum(r, 0));
        }
      }
      for (int p = 0; p < s_.pixels && first && e_.residual && !e_.residual_after; ++p)
        x_.add(s_.wide, sum(r, p), sum(r, p), residual(r, p));
    }
  }

  const Entry* column(const Entry* at, const Entry* end, const std::int32_t* offset) {
    const std::uint32_t here = at->column;
    int x = input(0);
    if (s_.shift) {
      x = shifted_input(at, end, offset);
    } else {
      const std::int32_t from = near_input(offset[here] * 4);
      for (int p = 0; p < s_.pixels; ++p) x_.load(s_.wide, input(p), {kIn, from + p * step_});
    }
    if (s_.embedded) {
      for (; at != end && at->column == here; ++at) {
        const std::uint64_t w = Encoder::near_fma_displacement(next_weight(at->value).disp / 4);
        for (int p = 0; p < s_.pixels; ++p)
          x_.near_fma(sums_[sum(static_cast<int>(at->row), p)] | inputs_[x + p] | w);
      }
    }
    for (; at != end && at->column == here; ++at) {
      x_.broadcast(s_.wide, weight(), next_weight(at->value));
      for (int p = 0; p < s_.pixels; ++p)
        x_.fma(s_.wide, sum(static_cast<int>(at->row), p), x + p, weight());
    }
    fetch_next();
    claim_outputs(static_cast<std::size_t>(at - begin_));
    return at;
  }

  // The register with this column's input. A load that crosses a cache line costs two accesses.
  // Taps side by side (kx, kx + 1 ...) cross the same lines: then each line is loaded once,
  // aligned, and the inputs are shifted out of pairs of lines.
  int shifted_input(const Entry* at, const Entry* end, const std::int32_t* offset) {
    const std::int32_t from = offset[at->column];
    const std::int32_t line = from / kLane, lanes = from % kLane;
    if (lanes == 0) {
      if (held_[0] == line || held_[1] == line) return input(held_[0] == line ? 0 : 1);
      return line_register(line);
    }
    const bool some = holds(line) || holds(line + 1);
    if (!some && !next_crosses(at, end, offset, line)) {
      x_.load(true, input(2), {kIn, near_input(from * 4)});
      return input(2);
    }
    const int low = line_register(line), high = line_register(line + 1);
    x_.shift_lanes(input(2), high, low, static_cast<std::uint8_t>(lanes));
    return input(2);
  }

  bool holds(std::int32_t line) const { return held_[0] == line || held_[1] == line; }

  // Whether the next column used by this group crosses the same two lines.
  bool next_crosses(const Entry* at, const Entry* end, const std::int32_t* offset,
                    std::int32_t line) const {
    const std::uint32_t here = at->column;
    while (at != end && at->column == here) ++at;
    return at != end && offset[at->column] / kLane == line && offset[at->column] % kLane != 0;
  }

  // Loads a line unless it is held; the older of the two makes room.
  int line_register(std::int32_t line) {
    for (int i = 0; i < 2; ++i) {
      if (held_[i] != line) continue;
      older_ = 1 - i;
      return input(i);
    }
    const int slot = older_;
    x_.load(true, input(slot), {kIn, near_input(line * kLane * 4)});
    held_[slot] = line;
    older_ = 1 - slot;
    return input(slot);
  }

  // Displacement of an input. Where the inputs of a function lie close together the pointer follows
  // them, so that a scaled one-byte displacement reaches several.
  std::int32_t near_input(std::int32_t from) {
    constexpr std::int32_t line = 64, reach = 127 * line;
    if (follow_ && from - moved_ > reach) {
      const std::int32_t by = (from - moved_) / line * line + 128 * line;
      x_.add(kIn, by);
      moved_ += by;
    }
    return from - moved_;
  }

  // Whether that pays: an addition for some four inputs or more.
  bool close_inputs(const Entry* begin, const Entry* end, const std::int32_t* offset) const {
    if (!s_.wide || s_.pixels != 1 || begin == end) return false;
    std::int64_t columns = 1;
    for (const Entry* at = begin + 1; at != end; ++at) columns += at->column != at[-1].column;
    return (std::int64_t{offset[end[-1].column]} - offset[begin->column]) * 4 <= columns * 4096;
  }

  // The stream pointer moves so that every weight is within reach of a one-byte displacement.
  Mem next_weight(float value) {
    weights_[given_++] = value;
    if (passed_ >= window_) {
      x_.add(kWeights, 2 * window_);
      weights_moved_ += 2 * window_;
      passed_ = -window_;
    }
    const Mem m{kWeights, passed_};
    passed_ += 4;
    return m;
  }

  // Lines to be written come from memory first, row by row from distant places. They are asked for
  // two iterations ahead, spread over the code.
  void claim_outputs(std::size_t done) {
    if (!claims_) return;
    constexpr std::int32_t ahead = 2;
    while (claimed_ < rows_ && done * static_cast<std::size_t>(rows_) >=
                                   static_cast<std::size_t>(claimed_ + 1) * weights_in_) {
      x_.prefetch_write(out(claimed_, ahead * s_.pixels));
      ++claimed_;
    }
  }

  // Straight code from beyond the second-level cache is not prefetched by hardware: measured 100 to
  // 250 cycles a line, and even code fetched just ahead of its first execution waits for memory. So
  // every function fetches the next one, code and weights, a share in each iteration of its loop.
  // Where fetching is the limit (two multiply-adds a cycle), the first-level cache is left alone: it holds
  // the input, has few places for lines on their way, and instructions come from the second anyway
  // (Emerald Rapids: 7x7 layers of ResNet-50, their code not in the caches, gain 10 %).
  void fetch_next() {
    if (s_.iterations == 0) return;
    const std::size_t gap = kFetchGap * static_cast<std::size_t>(s_.iterations);
    while (x_.size() - fetched_from_ >= gap) {
      const Mem line{kNext, fetched_ * 64};
      s_.fetch_second ? x_.prefetch_second(line) : x_.prefetch(line);
      fetched_from_ += gap;
      ++fetched_;
    }
  }

  // What earlier column blocks left in the output, at the end: see spmm/finish.h.
  void add_earlier() {
    for (int r = 0; r < rows_; ++r)
      for (int p = 0; p < s_.pixels; ++p) x_.add(s_.wide, sum(r, p), sum(r, p), out(r, p));
  }

  void finish() {
    const bool wide = s_.wide;
    const int low = input(0), high = input(0) + 1;  // no input is needed any more
    for (int r = 0; r < rows_ && e_.factor != 0; ++r) {
      const Mem factor{kBias, (e_.factor + r) * 4};
      if (!wide) x_.broadcast(false, low, factor);
      for (int p = 0; p < s_.pixels; ++p) {
        const int v = sum(r, p);
        wide ? x_.multiply_broadcast(v, v, factor) : x_.multiply(v, v, low);
      }
    }
    if (e_.low) x_.broadcast(wide, low, {kLimits, 0});
    if (e_.high) x_.broadcast(wide, high, {kLimits, 4});
    if (e_.masked && wide) {
      for (int p = 0; p < s_.pixels; ++p) x_.load_mask(1 + p, {kMask, p * 2});
    }
    for (int r = 0; r < rows_; ++r) {
      for (int p = 0; p < s_.pixels; ++p) {
        const int v = sum(r, p);
        const bool after = e_.residual && e_.residual_after;
        const int k =
            e_.masked && wide && !after ? 1 + p : 0;  // the mask rides on the last operation
        if (e_.low) x_.max(wide, v, low, v, e_.high || e_.rounds ? 0 : k);
        if (e_.high) x_.min(wide, v, high, v, e_.rounds ? 0 : k);
        if (e_.rounds) x_.round(wide, v, v, k);
        if (after) x_.add(wide, v, v, residual(r, p));
        if (e_.masked && wide && (after || (!e_.low && !e_.high && !e_.rounds))) x_.move(wide, v, v, 1 + p);
        if (e_.masked && !wide) x_.bit_and(v, v, {kMask, p * 32});
      }
    }
  }

  void store() {
    for (int r = 0; r < rows_; ++r) {
      for (int p = 0; p < s_.pixels; ++p) x_.store(s_.wide, out(r, p), sum(r, p));
    }
  }

  void advance(bool first, bool last) {
    const std::int32_t step = s_.pixels * vector_bytes_;
    x_.add(kIn, s_.pixels * step_ - moved_);
    if (weights_moved_ != 0) x_.add(kWeights, -weights_moved_);
    if (fetched_ != 0) x_.add(kNext, fetched_ * 64);
    x_.add(kOut, step);
    if (adds(first, last)) x_.add(kResidual, step);
    if (last && e_.masked) x_.add(kMask, s_.wide ? 2 * s_.pixels : step);
  }

  const ColumnShape& s_;
  const ColumnEpilogue& e_;
  std::int64_t stride_;
  Encoder& x_;
  std::uint64_t sums_[32], inputs_[32];  // parts of multiply-adds, by register
  std::vector<float> weights_;  // of the function, in the order of their use
  std::size_t given_ = 0;       // so many of them have been used
  std::int32_t vector_bytes_, step_, window_;
  std::int32_t passed_ = 0, moved_ = 0, weights_moved_ = 0;
  bool follow_ = false, claims_ = false;
  const Entry* begin_ = nullptr;
  std::size_t weights_in_ = 0;
  std::int32_t claimed_ = 0;  // rows
  std::size_t fetched_from_ = 0;
  std::int32_t fetched_ = 0;
  std::int32_t held_[2] = {-1, -1};  // lines in the first two input registers
  int older_ = 0;
  int rows_ = 0;
  const std::int32_t* place_ = nullptr;
};

// More than any function can need: an instruction is at most 12 bytes.
std::size_t code_bound(const WeightsImpl& w, const ColumnShape& s, std::size_t groups,
                       std::size_t blocks) {
  const auto nnz = static_cast<std::size_t>(w.nnz());
  const std::size_t pixels = static_cast<std::size_t>(s.pixels),
                    rows = static_cast<std::size_t>(w.rows());
  const std::size_t per_weight = s.embedded ? 8 * pixels : 8 + 6 * pixels;
  std::size_t bytes = nnz * (per_weight + (s.shift ? 30 : 10) * pixels) + nnz / 16 * 8 +
                      nnz / 8 * 8;  // every weight its own column
  bytes += blocks * (rows * (pixels * 92 + 20) + groups * (400 + 12 * pixels));
  if (s.iterations != 0)
    bytes += bytes / (kFetchGap * static_cast<std::size_t>(s.iterations)) * 9;
  return bytes + nnz * sizeof(float) + 4096;
}

}  // namespace

int column_rows_limit(const ColumnShape& s) {
  const int registers = s.wide ? 32 : 16;
  // Inputs (shifted ones: two lines and the result), one weight unless it is embedded; the epilogue
  // needs two for the limits.
  const int other = std::max(2, (s.shift ? 3 : s.pixels) + (s.embedded ? 0 : 1));
  return (registers - other) / s.pixels;
}

Status generate_columns(const WeightsImpl& w, const std::vector<std::int32_t>& column_offset,
                        const ColumnShape& s, const ColumnEpilogue& epilogue,
                        std::int64_t out_stride, ColumnCode* code) {
  const auto rows = static_cast<std::int32_t>(w.rows());
  const std::int32_t limit = std::min(s.rows, column_rows_limit(s));
  const std::int32_t least = (rows + limit - 1) / limit;
  const std::int32_t groups = std::min(rows, (least + s.row_parts - 1) / s.row_parts * s.row_parts);
  const bool near = out_stride * 4 * (std::int64_t{rows} + 2) <= INT32_MAX;
  code->order = group_rows(w, groups, s.alike && near, s.threads);
  const std::vector<std::int32_t>&order = code->order.rows, &begin_of = code->order.begin;
  std::vector<std::int32_t> place(order.size());  // behind its group's base
  std::int64_t furthest = 0;
  for (std::int32_t g = 0; g < groups; ++g) {
    code->base.push_back(s.by_place ? begin_of[g] : order[begin_of[g]]);
    for (std::int32_t i = begin_of[g]; i < begin_of[g + 1]; ++i) {
      place[i] = (s.by_place ? i : order[i]) - code->base[g];
      furthest = std::max<std::int64_t>(furthest, place[i]);
    }
  }
  const auto block_columns = static_cast<std::uint64_t>(s.block_columns);
  code->blocks =
      static_cast<std::int32_t>((column_offset.size() + block_columns - 1) / block_columns);
  const std::size_t bound =
      code_bound(w, s, static_cast<std::size_t>(groups), static_cast<std::size_t>(code->blocks));
  const std::int64_t reach = std::max<std::int64_t>(out_stride * 4 * (furthest + 2), 64);
  if (bound >= kNoCode / 2 || reach > INT32_MAX ||
      (!column_offset.empty() &&
       *std::max_element(column_offset.begin(), column_offset.end()) > INT32_MAX / 4 - 64)) {
    return failure(Code::unsupported, "generated code: displacements of more than 31 bits");
  }
  // A weight takes a multiply-add of seven bytes or more, and itself.
  if (!code->memory.allocate(bound, static_cast<std::size_t>(w.nnz()) * (7 + sizeof(float))))
    return failure(Code::unsupported, "generated code: no memory for %zu bytes", bound);
  code->pieces.resize(static_cast<std::size_t>(groups) * code->blocks, {kNoCode, 0, 0});
  Encoder encoder(code->memory.data(), code->memory.size());
  Generator generator(s, epilogue, out_stride, &encoder);
  ColumnSort sorter(w);
  for (std::int32_t b = 0; b < code->blocks; ++b) {
    const std::uint64_t first_column = static_cast<std::uint64_t>(b) * block_columns,
                        limit_column = std::min<std::uint64_t>(first_column + block_columns, column_offset.size());
    const bool first = b == 0, last = b + 1 == code->blocks;
    for (std::int32_t g = 0; g < groups; ++g) {
      const std::int32_t size = begin_of[g + 1] - begin_of[g];
      const std::vector<Entry>& entries =
          sorter.sort(order.data() + begin_of[g], size, first_column, limit_column);
      if (entries.empty() && !first && !last) continue;
      code->pieces[static_cast<std::size_t>(b) * groups + static_cast<std::size_t>(g)] =
          generator.function(entries.data(), entries.data() + entries.size(), size,
                             place.data() + begin_of[g], first, last, column_offset.data());
    }
  }
  code->code_bytes = encoder.size() - static_cast<std::size_t>(w.nnz()) * sizeof(float);
  if (encoder.overflowed())
    return failure(Code::unsupported, "generated code: more than the %zu bytes foreseen", bound);
  if (!code->memory.seal(encoder.size()))
    return failure(Code::unsupported, "generated code: executable memory is refused");
  return {};
}

}  // namespace onnxprune::kernels
