// Winograd's minimal filtering: Y = A^T [(G g G^T) * (B^T d B)] A (Winograd 1980; Lavin and Gray,
// arXiv:1509.09308), tiles of 2 x 2 outputs for 3 x 3 taps and of 3 x 3 outputs for 4 x 4 taps. Points
// 0, 1, -1, (2, -1/2,) infinity: measured, the first are as exact as plain sums, the second lose less
// than three times as much (on points: Barabasz et al., ACM TOMS 46(4), 2020). Lanes are tiles.
#pragma once

#include "pointwise.h"

namespace {

using onnxprune::kernels::WinogradInput;
using onnxprune::kernels::WinogradSlopes;
using onnxprune::kernels::WinogradSums;

template <int N>
struct Filtering;

template <>
struct Filtering<4> {  // points 0, 1, -1, infinity
  static constexpr int kOutputs = 2;
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
struct Filtering<6> {  // points 0, 1, -1, 2, -1/2, infinity
  static constexpr int kOutputs = 3;
  static inline void input(const Reg (&d)[6], Reg (&t)[6]) {
    const Reg two = splat(2.0f), three = splat(3.0f), four = splat(4.0f), five = splat(5.0f);
    const Reg a = Simd::sub(d[3], d[1]), b = Simd::sub(d[4], d[2]);
    const auto ends = [&](int i, Reg inner) {  // 2 (d_i + d_i+4) - 3 inner - 4 d_i+2
      const Reg outer = Simd::sub(Simd::mul(two, Simd::add(d[i], d[i + 4])), Simd::mul(three, inner));
      return Simd::sub(outer, Simd::mul(four, d[i + 2]));
    };
    t[0] = ends(0, a);
    t[1] = Simd::fma(two, Simd::sub(d[1], d[4]), Simd::fma(five, d[2], d[3]));
    t[2] = Simd::fma(two, Simd::add(d[1], d[4]), Simd::sub(d[2], Simd::mul(five, d[3])));
    t[3] = Simd::fma(two, b, a);
    t[4] = Simd::sub(Simd::mul(two, a), b);
    t[5] = ends(1, b);
  }
  static inline void output(const Reg (&m)[6], Reg (&y)[3]) {
    const Reg sum = Simd::add(m[1], m[2]), difference = Simd::sub(m[1], m[2]);
    y[0] = Simd::add(Simd::add(m[0], sum), Simd::add(m[3], m[4]));
    y[1] = Simd::fma(splat(2.0f), m[3], Simd::fma(splat(-0.5f), m[4], difference));
    y[2] = Simd::fma(splat(4.0f), m[3], Simd::fma(splat(0.25f), m[4], Simd::add(sum, m[5])));
  }
};

// Floats from memory that ends at `end`; zeros beyond.
inline Reg read_before(const float* p, const float* end) {
  const std::int64_t left = end - p;
  if (left >= kW) return Simd::load(p);
  return left > 0 ? Simd::load_some(p, static_cast<int>(left)) : Simd::zero();
}

// The inputs 0 .. N-1 of each tile of a vector, from that of the first tile.
template <int N>
inline void tile_inputs(const float* p, const float* end, Reg (&d)[N][N], int row) {
  constexpr int kStep = Filtering<N>::kOutputs;
  Reg lines[kStep], streams[kStep];
#pragma GCC unroll 8
  for (int k = 0; k < kStep; ++k) lines[k] = read_before(p + k * kW, end);
  if constexpr (kStep == 2) {
    streams[0] = Simd::even_lanes(lines[0], lines[1]);
    streams[1] = Simd::odd_lanes(lines[0], lines[1]);
  } else {
    Simd::deal_three(lines, streams);
  }
  // Those beyond belong to the next tile, too.
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    const float* next = p + kStep * kW + j - kStep;
    d[j][row] = j < kStep ? streams[j % kStep]
                          : Simd::shift_in(d[j - kStep >= 0 ? j - kStep : 0][row],
                                           splat(next < end ? *next : 0.0f));
  }
}

template <int N>
void winograd_input_of(const WinogradInput& job) {
  for (std::int64_t x = 0; x < job.tiles; x += kW) {
    Reg rows[N][N];  // [column][row] after the transformation down the columns
    {
      Reg d[N][N];
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i)
        tile_inputs<N>(job.in + i * job.pitch + Filtering<N>::kOutputs * x, job.end, d, i);
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

// The products of the inputs [begin, end) at row `i` of the points, times A from the right: added to
// what earlier chains left, if there are any.
template <int N, int O>
inline void winograd_row(const WinogradSums& job, int i, std::int64_t begin, std::int64_t end,
                         const float* weight, Reg (&to)[O][Filtering<N>::kOutputs]) {
  constexpr int kM = Filtering<N>::kOutputs;
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
#pragma GCC unroll 8
  for (int o = 0; o < O; ++o) {
    Reg r[kM];
    Filtering<N>::output(sum[o], r);
#pragma GCC unroll 8
    for (int b = 0; b < kM; ++b) to[o][b] = begin == 0 ? r[b] : Simd::add(to[o][b], r[b]);
  }
}

// A row of outputs of both halves of the tiles: `M` pixels a tile, its first ones in y[0].
template <int M>
inline void store_tiles(const WinogradSums& job, const Reg (&y)[M], float* plane, int row) {
  Reg v[M];  // pixels side by side
  if constexpr (M == 2) {
    v[0] = Simd::interleave_low(y[0], y[1]);
    v[1] = Simd::interleave_high(y[0], y[1]);
  } else {
    Simd::join_three(y, v);
  }
  constexpr int kHalf = M * kW / 2;
  for (int h = 0; h < 2; ++h) {
    const auto& half = job.halves[h];
    if (row >= half.rows) continue;
    float* to = plane + half.to + row * job.out_pitch - h * kHalf;
    // Pixels [h * kHalf, h * kHalf + lanes) of the vectors.
#pragma GCC unroll 8
    for (int k = 0; k < M; ++k) {
      const int first = h * kHalf - k * kW, last = first + half.lanes;
      const int from = first < 0 ? 0 : first, until = last > kW ? kW : last;
      if (until <= from) continue;
      if (until - from == kW) {
        Simd::store(to + k * kW, v[k]);
      } else {
        Simd::store_between(to + k * kW, v[k], from, until);
      }
      // So many planes are too many streams for prefetchers: ask for what comes next in each.
      __builtin_prefetch(to + (k + M) * kW, 1, 3);
    }
  }
}

// `O` output channels of one vector of tiles.
template <int N, int O>
inline void winograd_block(const WinogradSums& job, std::int64_t first) {
  constexpr int kM = Filtering<N>::kOutputs;
  Reg rows[N][O][kM];
  const float* weight = job.weights + first * N * N * job.inputs;
  for (int i = 0; i < N; ++i) {
    for (std::int64_t begin = 0; begin < job.inputs; begin += kChain) {
      const std::int64_t end = job.inputs - begin < kChain ? job.inputs : begin + kChain;
      winograd_row<N, O>(job, i, begin, end, weight, rows[i]);
      weight += (end - begin) * N * O;
    }
  }
  const Reg low = splat(job.low), high = splat(job.high);
  for (int o = 0; o < O && first + o < job.outputs; ++o) {
    Reg y[kM][kM];
    const Reg bias = splat(job.bias[first + o]);
#pragma GCC unroll 8
    for (int b = 0; b < kM; ++b) {
      Reg m[N], column[kM];
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) m[i] = rows[i][o][b];
      Filtering<N>::output(m, column);
#pragma GCC unroll 8
      for (int a = 0; a < kM; ++a)
        y[a][b] = Simd::min(high, Simd::max(low, Simd::add(column[a], bias)));
    }
#pragma GCC unroll 8
    for (int a = 0; a < kM; ++a)
      store_tiles<kM>(job, y[a], job.out + (first + o) * job.out_stride, a);
  }
}

// Output channels whose sums fit into registers.
constexpr int outputs_at_once(int points) {
  return Simd::kRegisters < 32 ? (points == 4 ? 2 : 1) : points == 4 ? 4 : 3;
}
int winograd_outputs(int points) { return outputs_at_once(points); }

template <int N>
void winograd_sums_of(const WinogradSums& job) {
  constexpr int kAtOnce = outputs_at_once(N);
  for (std::int64_t o = 0; o < job.outputs; o += kAtOnce) winograd_block<N, kAtOnce>(job, o);
}

// A d A^T of 2 x 2 tiles, lanes are channels: the derivative behind tiles of 4 x 4 points becomes that of
// their products.
void winograd_slopes(const WinogradSlopes& job) {
  for (std::int64_t tile = 0; tile < job.tiles; ++tile) {
    const bool right = 2 * tile + 1 < job.columns, below = job.rows > 1;
    const float* const at = job.g + 2 * tile * job.lines;
    float* const to = job.out + tile * job.lines;
    for (std::int64_t i = 0; i < job.lines; i += kW) {
      Reg rows[4][2];
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const float* const g = at + j * job.lines + i;
        const Reg y0 = j == 0 || right ? Simd::load(g) : Simd::zero();
        const Reg y1 = below && (j == 0 || right) ? Simd::load(g + job.columns * job.lines) : Simd::zero();
        rows[0][j] = y0, rows[1][j] = Simd::add(y0, y1), rows[2][j] = Simd::sub(y0, y1), rows[3][j] = y1;
      }
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        float* const point = to + 4 * r * job.out_stride + i;
        Simd::store(point, rows[r][0]);
        Simd::store(point + job.out_stride, Simd::add(rows[r][0], rows[r][1]));
        Simd::store(point + 2 * job.out_stride, Simd::sub(rows[r][0], rows[r][1]));
        Simd::store(point + 3 * job.out_stride, rows[r][1]);
      }
    }
  }
}

void winograd_input(int points, const WinogradInput& job) {
  points == 4 ? winograd_input_of<4>(job) : winograd_input_of<6>(job);
}

void winograd_sums(int points, const WinogradSums& job) {
  points == 4 ? winograd_sums_of<4>(job) : winograd_sums_of<6>(job);
}

}  // namespace
