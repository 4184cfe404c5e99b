// Winograd's minimal filtering, 2 x 2 outputs of 3 x 3 or 4 x 4 taps: Y = A^T [(G g G^T) * (B^T d B)] A
// (Winograd 1980; Lavin and Gray, arXiv:1509.09308). Points 0, 1, -1, (1/2,) infinity: with few points
// near one another's inverses the rounding errors stay within twice those of the plain sum (Barabasz et
// al., ACM TOMS 46(4), 2020). Lanes are tiles of two outputs by two.
#pragma once

#include "pointwise.h"

namespace {

using onnxprune::kernels::WinogradInput;
using onnxprune::kernels::WinogradSums;

template <int N>
struct Filtering;

template <>
struct Filtering<4> {  // points 0, 1, -1, infinity
  static inline void input(const Reg (&d)[4], Reg (&t)[4]) {  // B^T d
    t[0] = Simd::sub(d[0], d[2]);
    t[1] = Simd::add(d[1], d[2]);
    t[2] = Simd::sub(d[2], d[1]);
    t[3] = Simd::sub(d[3], d[1]);
  }
  static inline void output(const Reg (&m)[4], Reg (&y)[2]) {  // A^T m
    y[0] = Simd::add(m[0], Simd::add(m[1], m[2]));
    y[1] = Simd::add(m[3], Simd::sub(m[1], m[2]));
  }
};

template <>
struct Filtering<5> {  // points 0, 1, -1, 1/2, infinity
  static inline void input(const Reg (&d)[5], Reg (&t)[5]) {
    const Reg two = splat(2.0f), three = splat(3.0f);
    const Reg outer = Simd::sub(d[0], d[2]), inner = Simd::sub(d[1], d[3]);
    t[0] = Simd::sub(outer, Simd::mul(two, inner));
    t[1] = Simd::fma(two, d[3], Simd::sub(d[2], d[1]));
    t[2] = Simd::sub(Simd::mul(three, d[2]), Simd::fma(two, d[3], d[1]));
    t[3] = inner;
    t[4] = Simd::fma(two, Simd::sub(d[4], d[2]), inner);
  }
  static inline void output(const Reg (&m)[5], Reg (&y)[2]) {
    y[0] = Simd::add(Simd::add(m[0], m[3]), Simd::add(m[1], m[2]));
    y[1] = Simd::fma(splat(0.5f), m[3], Simd::add(m[4], Simd::sub(m[1], m[2])));
  }
};

// Floats from memory that ends at `end`; zeros beyond.
inline Reg read_before(const float* p, const float* end) {
  const std::int64_t left = end - p;
  if (left >= kW) return Simd::load(p);
  return left > 0 ? Simd::load_some(p, static_cast<int>(left)) : Simd::zero();
}

template <int N>
void winograd_input_of(const WinogradInput& job) {
  for (std::int64_t x = 0; x < job.tiles; x += kW) {
    Reg rows[N][N];  // [column][row] after the transformation down the columns
    {
      Reg d[N][N];
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) {
        const float* p = job.in + i * job.pitch + 2 * x;
        // Columns 0, 2, 4 are one stream of even places, one tile apart; so are 1 and 3.
        const Reg a = read_before(p, job.end), b = read_before(p + kW, job.end);
        d[0][i] = Simd::even_lanes(a, b);
        d[1][i] = Simd::odd_lanes(a, b);
#pragma GCC unroll 8
        for (int j = 2; j < N; ++j) {
          const float* next = p + 2 * kW + j - 2;
          d[j][i] = Simd::shift_in(d[j - 2][i], splat(next < job.end ? *next : 0.0f));
        }
      }
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) Filtering<N>::input(d[j], rows[j]);
    }
    const int lanes = static_cast<int>(job.tiles - x < kW ? job.tiles - x : kW);
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      Reg line[N], t[N];
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) line[j] = rows[j][i];
      Filtering<N>::input(line, t);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j)
        write(job.out + (i * N + j) * job.out_stride + x, t[j], lanes, nullptr, 0);
    }
  }
}

// Inputs whose products are added in one chain, see spmm/finish.h.
constexpr std::int64_t kChain = 64;

// What the inputs [begin, end) at row `i` of the points add to the outputs of `O` channels.
template <int N, int O>
inline void winograd_row(const WinogradSums& job, int i, std::int64_t begin, std::int64_t end,
                         const float* weight, Reg (&y)[O][2][2]) {
  Reg sum[O][N];
#pragma GCC unroll 8
  for (int o = 0; o < O; ++o) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) sum[o][j] = Simd::zero();
  }
  const float* in = job.in + i * N * job.inputs * job.in_stride;
  for (std::int64_t c = begin; c < end; ++c, weight += N * O) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      Reg x = Simd::load(in + (j * job.inputs + c) * job.in_stride);
      Simd::hold(x);
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) sum[o][j] = Simd::fma(splat(weight[j * O + o]), x, sum[o][j]);
    }
  }
  // Column i of A^T: what a row of products adds to the upper and to the lower outputs.
  const float upper = i + 1 < N ? 1.0f : 0.0f;
  const float lower = i == 0 ? 0.0f : i == 2 ? -1.0f : i == 3 && N == 5 ? 0.5f : 1.0f;
#pragma GCC unroll 8
  for (int o = 0; o < O; ++o) {
    Reg r[2];
    Filtering<N>::output(sum[o], r);
    for (int b = 0; b < 2; ++b) {
      y[o][0][b] = Simd::fma(splat(upper), r[b], y[o][0][b]);
      y[o][1][b] = Simd::fma(splat(lower), r[b], y[o][1][b]);
    }
  }
}

// `O` output channels of one vector of tiles.
template <int N, int O>
inline void winograd_block(const WinogradSums& job, std::int64_t first) {
  Reg y[O][2][2];
#pragma GCC unroll 8
  for (int o = 0; o < O; ++o)
    y[o][0][0] = y[o][0][1] = y[o][1][0] = y[o][1][1] = splat(job.bias[first + o]);
  const float* weight = job.weights + first * N * N * job.inputs;
  for (int i = 0; i < N; ++i) {
    for (std::int64_t begin = 0; begin < job.inputs; begin += kChain) {
      const std::int64_t end = job.inputs - begin < kChain ? job.inputs : begin + kChain;
      winograd_row<N, O>(job, i, begin, end, weight, y);
      weight += (end - begin) * N * O;
    }
  }
  const Reg low = splat(job.low), high = splat(job.high);
#pragma GCC unroll 8
  for (int o = 0; o < O; ++o) {
    if (first + o >= job.outputs) return;
    float* plane = job.out + (first + o) * job.out_stride;
    for (int a = 0; a < 2; ++a) {
      for (int b = 0; b < 2; ++b)
        y[o][a][b] = Simd::min(high, Simd::max(low, y[o][a][b]));
      const Reg halves[2] = {Simd::interleave_low(y[o][a][0], y[o][a][1]),
                             Simd::interleave_high(y[o][a][0], y[o][a][1])};
      for (int h = 0; h < 2; ++h) {
        const auto& half = job.halves[h];
        if (half.lanes == 0 || a >= half.rows) continue;
        float* to = plane + half.to + a * job.out_pitch;
        write(to, halves[h], half.lanes, nullptr, 0);
        // So many planes are too many streams for prefetchers: ask for what comes next in each.
        __builtin_prefetch(to + 2 * kW, 1, 3);
      }
    }
  }
}

// Output channels whose sums fit into registers.
constexpr int outputs_at_once(int points) {
  return Simd::kRegisters < 32 ? 2 : points == 4 ? 4 : 3;
}
int winograd_outputs(int points) { return outputs_at_once(points); }

template <int N>
void winograd_sums_of(const WinogradSums& job) {
  constexpr int kAtOnce = outputs_at_once(N);
  for (std::int64_t o = 0; o < job.outputs; o += kAtOnce) winograd_block<N, kAtOnce>(job, o);
}

void winograd_input(int points, const WinogradInput& job) {
  points == 4 ? winograd_input_of<4>(job) : winograd_input_of<5>(job);
}

void winograd_sums(int points, const WinogradSums& job) {
  points == 4 ? winograd_sums_of<4>(job) : winograd_sums_of<5>(job);
}

}  // namespace
