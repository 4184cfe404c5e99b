// One plane of a depth-wise convolution: rows of windows, several output rows at a time so that an
// input row is loaded once for all of them.
#pragma once

#include "pointwise.h"

namespace {

using onnxprune::kernels::PoolRow;
using onnxprune::kernels::WindowRun;

// The inputs of the taps kx = 0 .. K-1 for `lanes` outputs side by side, from what the first tap of
// the first one reads. Not a float beyond the last tap of the last output is read.
template <int K, int S>
struct TapInputs {
  Reg tap[K];

  explicit TapInputs(const float* p) {
    if constexpr (S == 1) {
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) {
        tap[k] = Simd::load(p + k);
        Simd::hold(tap[k]);
      }
    } else {
      Reg low = Simd::load(p), high = Simd::load(p + kW);
      Simd::hold(low);
      Simd::hold(high);
      tap[0] = Simd::even_lanes(low, high);
      tap[1] = Simd::odd_lanes(low, high);
      // Two taps on is one output on.
#pragma GCC unroll 8
      for (int k = 2; k < K; ++k) tap[k] = Simd::shift_in(tap[k - 2], splat(p[2 * kW + k - 2]));
    }
  }
  TapInputs(const float* p, int lanes) {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      if constexpr (S == 1) {
        tap[k] = read(p + k, lanes);
      } else {
        const int floats = 2 * lanes - 1;
        const Reg low = read(p + k, floats < kW ? floats : kW);
        const Reg high =
            floats > kW ? Simd::load_some(p + k + kW, floats - kW) : Simd::zero();
        tap[k] = Simd::even_lanes(low, high);
      }
    }
  }
};

// The taps' weights: in registers where there are enough of them, else they come with every use.
template <int K>
struct TapWeights {
  static constexpr bool kHeld = K * K < Simd::kRegisters / 2;
  const float* from;
  Reg held[kHeld ? K * K : 1];

  explicit TapWeights(const float* weights) : from(weights) {
    for (int i = 0; kHeld && i < K * K; ++i) {
      held[i] = splat(weights[i]);
      Simd::hold(held[i]);
    }
  }
  inline Reg operator[](int i) const {
    if constexpr (kHeld) return held[i];
    else return splat(from[i]);
  }
};

inline Reg window_result(const WindowRun& run, Reg sum) {
  if (run.scaled) sum = Simd::mul(sum, splat(run.factor));
  const Reg v = Simd::min(splat(run.high), Simd::max(splat(run.low), sum));
  return run.rounds ? Simd::round(v) : v;
}

// The end of what may be written to: rows are written from the first to the last, so that a whole vector
// may cover what comes behind its row (masked stores take several times as long).
inline const float* window_end(const WindowRun& run) {
  return run.out + (run.rows - 1) * run.out_pitch + run.width + run.behind;
}

inline void write_up_to(const float* end, float* p, Reg v) {
  p + kW <= end ? Simd::store(p, v) : Simd::store_some(p, v, static_cast<int>(end - p));
}

template <int K, int S, int R, bool Whole>
inline void window_tile(const WindowRun& run, const TapWeights<K>& weights, const float* in,
                        float* out, int lanes) {
  Reg sum[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sum[r] = splat(run.bias);
#pragma GCC unroll 16
  for (int i = 0; i < (R - 1) * S + K; ++i) {
    const float* p = in + i * run.in_pitch;
    const TapInputs<K, S> x = [&] {
      if constexpr (Whole) return TapInputs<K, S>(p);
      else return TapInputs<K, S>(p, lanes);
    }();
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const int ky = i - r * S;
      if (ky < 0 || ky >= K) continue;
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k)
        sum[r] = Simd::fma(weights[ky * K + k], x.tap[k], sum[r]);
    }
  }
  const float* const end = window_end(run);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    float* const to = out + r * run.out_pitch;
    const Reg v = window_result(run, sum[r]);
    if constexpr (Whole) Simd::store(to, v);
    else write_up_to(end, to, Simd::keep_lanes(v, (1u << lanes) - 1u));
  }
}

inline void clear(float* p, std::int64_t count) {
  for (; count >= kW; count -= kW, p += kW) Simd::store(p, Simd::zero());
  if (count > 0) Simd::store_some(p, Simd::zero(), static_cast<int>(count));
}

// Vectors of consecutive inputs and, where lanes shift faster than lines are crossed, what lies between them.
template <int V>
struct RunInputs {
  const float* from;
  Reg lines[Simd::kShifts ? V + 1 : 1];

  RunInputs(const float* p, int floats) : from(p) {
#pragma GCC unroll 8
    for (int v = 0; Simd::kShifts && v <= V; ++v) {
      const int left = floats - v * kW;
      lines[v] = left >= kW ? Simd::load(p + v * kW) : left > 0 ? Simd::load_some(p + v * kW, left) : Simd::zero();
    }
  }
  // Those of tap k for vector v.
  template <int k>
  inline Reg at(int v, int lanes) const {
    if constexpr (Simd::kShifts) return Simd::template after<k>(lines[v], lines[v + 1]);
    else return read(from + k + v * kW, lanes);
  }
};

template <int K, int V, int k = 0>
inline void add_taps(const RunInputs<V>& in, const TapWeights<K>& weights, int ky, int lanes, Reg (&sum)[V]) {
  if constexpr (k < K) {
    const Reg w = weights[ky * K + k];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      sum[v] = Simd::fma(w, in.template at<k>(v, v + 1 < V ? kW : lanes), sum[v]);
    add_taps<K, V, k + 1>(in, weights, ky, lanes, sum);
  }
}

// One long row: vectors side by side hide each other's latency, as rows do elsewhere. The last of them
// has `lanes` outputs.
template <int K, int V>
inline void window_run(const WindowRun& run, const TapWeights<K>& weights, std::int64_t x, int lanes) {
  Reg sum[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) sum[v] = splat(run.bias);
#pragma GCC unroll 8
  for (int ky = 0; ky < K; ++ky) {
    const RunInputs<V> in(run.in + x + ky * run.in_pitch, (V - 1) * kW + lanes + K - 1);
    add_taps<K, V>(in, weights, ky, lanes, sum);
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    const std::int64_t at = x + v * kW;
    write(run.out + at, window_result(run, sum[v]), v + 1 < V ? kW : lanes, run.mask, at);
  }
}

template <int K>
inline void window_row(const WindowRun& run, const TapWeights<K>& weights) {
  std::int64_t x = 0;
  for (; x + 4 * kW <= run.width; x += 4 * kW) window_run<K, 4>(run, weights, x, kW);
  const std::int64_t left = run.width - x, vectors = (left + kW - 1) / kW;
  const int lanes = static_cast<int>(left - (vectors - 1) * kW);
  if (vectors == 4) window_run<K, 4>(run, weights, x, lanes);
  if (vectors == 3) window_run<K, 3>(run, weights, x, lanes);
  if (vectors == 2) window_run<K, 2>(run, weights, x, lanes);
  if (vectors == 1) window_run<K, 1>(run, weights, x, lanes);
}

// The last vector of a row, and the last rows, overlap those before them.
template <int K, int S, int R>
inline void window_rows(const WindowRun& run, const TapWeights<K>& weights, std::int64_t y) {
  const float* in = run.in + y * S * run.in_pitch;
  float* out = run.out + y * run.out_pitch;
  const std::int64_t between = run.out_pitch - run.width, last = run.rows - 1 - y;
  if (run.width >= kW && between > 0 && between <= kW) {
    const float* const end = window_end(run);
    for (std::int64_t r = 0; r < R && r < last; ++r)
      write_up_to(end, out + r * run.out_pitch + run.width, Simd::zero());
  } else if (run.out_pitch > kW) {
    for (std::int64_t r = 0; r < R && r < last; ++r) clear(out + r * run.out_pitch + run.width, between);
  }
  if (run.width < kW) {
    window_tile<K, S, R, false>(run, weights, in, out, static_cast<int>(run.width));
    return;
  }
  for (std::int64_t x = 0; x < run.width; x += kW) {
    const std::int64_t at = x + kW <= run.width ? x : run.width - kW;
    window_tile<K, S, R, true>(run, weights, in + at * S, out + at, kW);
  }
}

template <int K, int S>
void window_plane(const WindowRun& run) {
  constexpr int kRows = S == 1 ? 4 : 2;
  const TapWeights<K> weights(run.weights);
  if (S == 1 && run.rows == 1) {
    window_row<K>(run, weights);
  } else if (run.rows < kRows) {
    for (std::int64_t y = 0; y < run.rows; ++y) window_rows<K, S, 1>(run, weights, y);
  } else {
    for (std::int64_t y = 0; y < run.rows; y += kRows)
      window_rows<K, S, kRows>(run, weights, y + kRows <= run.rows ? y : run.rows - kRows);
  }
  clear(run.out - run.before, run.before);
  clear(run.out + (run.rows - 1) * run.out_pitch + run.width, run.behind);
}

// What two numbers of a pooling window become, and what changes nothing.
struct Larger {
  static inline Reg nothing() { return splat(-__builtin_inff()); }
  static inline Reg both(Reg a, Reg b) { return Simd::max(a, b); }
};
struct Added {
  static inline Reg nothing() { return Simd::zero(); }
  static inline Reg both(Reg a, Reg b) { return Simd::add(a, b); }
};

template <class Op, int Taps>
void pool_row_of(const PoolRow& row) {
  const Reg nothing = Op::nothing();
  for (std::int64_t x = 0; x < row.outputs; x += kW) {
    const std::int64_t base = 2 * x - row.pad;  // column of the first tap of the first window
    const auto lane = [&](std::int64_t column) {
      return static_cast<int>(column < 0 ? 0 : column > kW ? kW : column);
    };
    const int first = lane(-base), last = lane(row.width - base);
    const int high_first = lane(-base - kW), high_last = lane(row.width - base - kW);
    const std::int64_t beyond = base + 2 * kW;
    const bool third = Taps > 2 && beyond >= 0 && beyond < row.width;
    Reg low = nothing, high = nothing, next = nothing;
    for (std::int64_t r = 0; r < row.row_count; ++r) {
      const float* p = row.in + row.rows[r] + base;
      if (first == 0 && high_last == kW) {
        low = Op::both(low, Simd::load(p));
        high = Op::both(high, Simd::load(p + kW));
      } else {
        if (first < last) low = Op::both(low, Simd::load_between(p, first, last, nothing));
        if (high_first < high_last)
          high = Op::both(high, Simd::load_between(p + kW, high_first, high_last, nothing));
      }
      if (third) next = Op::both(next, splat(p[2 * kW]));
    }
    const Reg even = Simd::even_lanes(low, high);
    Reg v = even;
    if (Taps > 1) v = Op::both(v, Simd::odd_lanes(low, high));
    if (Taps > 2) v = Op::both(v, Simd::shift_in(even, next));
    const int lanes = static_cast<int>(row.outputs - x < kW ? row.outputs - x : kW);
    write(row.out + x, v, lanes, nullptr, 0);
  }
}

// With one column of padding the pairs of columns that are read together, (0, 1), (2, 3) ..., start a line
// where the row does, and give each window its last two columns; the first is the odd one before.
template <class Op, int Taps>
void padded_pool_row_of(const PoolRow& row) {
  const Reg nothing = Op::nothing();
  Reg before = nothing;
  for (std::int64_t x = 0; x < row.outputs; x += kW) {
    const auto inside = [&](std::int64_t column) {
      const std::int64_t left = row.width - column;
      return static_cast<int>(left < 0 ? 0 : left > kW ? kW : left);
    };
    const int low_lanes = inside(2 * x), high_lanes = inside(2 * x + kW);
    const float* const in = row.in + 2 * x;
    Reg low = nothing, high = nothing;
    if (high_lanes == kW) {
      for (std::int64_t r = 0; r < row.row_count; ++r) {
        low = Op::both(low, Simd::load(in + row.rows[r]));
        high = Op::both(high, Simd::load(in + row.rows[r] + kW));
      }
    } else {
      for (std::int64_t r = 0; r < row.row_count && low_lanes > 0; ++r) {
        low = Op::both(low, Simd::load_between(in + row.rows[r], 0, low_lanes, nothing));
        if (high_lanes > 0)
          high = Op::both(high, Simd::load_between(in + row.rows[r] + kW, 0, high_lanes, nothing));
      }
    }
    const Reg odd = Simd::odd_lanes(low, high);
    Reg v = Simd::shift_behind(odd, before);
    if (Taps > 1) v = Op::both(v, Simd::even_lanes(low, high));
    if (Taps > 2) v = Op::both(v, odd);
    before = odd;
    const int lanes = static_cast<int>(row.outputs - x < kW ? row.outputs - x : kW);
    write(row.out + x, v, lanes, nullptr, 0);
  }
}

template <class Op>
void pool_row_with(const PoolRow& row) {
  if (row.pad == 1 && row.taps > 1) {
    row.taps == 2 ? padded_pool_row_of<Op, 2>(row) : padded_pool_row_of<Op, 3>(row);
  } else {
    row.taps == 1   ? pool_row_of<Op, 1>(row)
    : row.taps == 2 ? pool_row_of<Op, 2>(row)
                    : pool_row_of<Op, 3>(row);
  }
}

void pool_row(bool maximum, const PoolRow& row) {
  maximum ? pool_row_with<Larger>(row) : pool_row_with<Added>(row);
}

void window_sums(int kernel, int stride, const WindowRun& run) {
  if (kernel == 3) {
    stride == 1 ? window_plane<3, 1>(run) : window_plane<3, 2>(run);
  } else {
    stride == 1 ? window_plane<5, 1>(run) : window_plane<5, 2>(run);
  }
}

}  // namespace
