// Normalisation, softmax and dense products of OpsTable.
#pragma once

#include <limits>

#include "pointwise.h"

namespace {

// The arguments of OpsTable::layer_norm, in its order.
struct Norm {
  std::int64_t stride, features;
  const float *a, *b, *bias, *scale, *shift;
  float epsilon;
  bool centred;
  float *out, *sum_out;
};

// P vectors of tokens at a time, three passes over the features (sum, squares about the mean,
// result): the two-pass variance keeps its accuracy when the mean is large. `lanes` of the last
// vector count.
template <int P>
inline void norm_tokens(const Norm& n, std::int64_t t, int lanes) {
  const bool sums = n.b != nullptr || n.bias != nullptr;
  float* const x_at = n.sum_out != nullptr ? n.sum_out : n.out;  // where a + b + bias is kept
  const float* const x = sums || n.sum_out != nullptr ? x_at : n.a;
  const auto lanes_of = [lanes](int p) { return p + 1 == P ? lanes : kW; };
  Reg mean[P], squares[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) mean[p] = squares[p] = Simd::zero();
  const Reg over = splat(1.0f / static_cast<float>(n.features));
  if (n.centred || x != n.a) {
    for (std::int64_t f = 0; f < n.features; ++f) {
      const std::int64_t at = f * n.stride + t;
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        Reg v = read(n.a + at + p * kW, lanes_of(p));
        if (n.b != nullptr) v = Simd::add(v, read(n.b + at + p * kW, lanes_of(p)));
        if (n.bias != nullptr) v = Simd::add(v, splat(n.bias[f]));
        if (x != n.a) write(x_at + at + p * kW, v, lanes_of(p), nullptr, 0);
        mean[p] = Simd::add(mean[p], v);
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) mean[p] = n.centred ? Simd::mul(mean[p], over) : Simd::zero();
  }
  for (std::int64_t f = 0; f < n.features; ++f) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const Reg d = Simd::sub(read(x + f * n.stride + t + p * kW, lanes_of(p)), mean[p]);
      squares[p] = Simd::fma(d, d, squares[p]);
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    const Reg deviation = Simd::sqrt(Simd::fma(squares[p], over, splat(n.epsilon)));
    squares[p] = Simd::div(splat(1.0f), deviation);
  }
  for (std::int64_t f = 0; f < n.features; ++f) {
    const std::int64_t at = f * n.stride + t;
    const Reg scale = splat(n.scale[f]), shift = splat(n.shift != nullptr ? n.shift[f] : 0.0f);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const Reg d = Simd::mul(Simd::sub(read(x + at + p * kW, lanes_of(p)), mean[p]), squares[p]);
      write(n.out + at + p * kW, Simd::fma(d, scale, shift), lanes_of(p), nullptr, 0);
    }
  }
}

// One token whose features are contiguous.
inline void norm_row(const Norm& n) {
  const bool sums = n.b != nullptr || n.bias != nullptr || n.sum_out != nullptr;
  float* const x_at = n.sum_out != nullptr ? n.sum_out : n.out;
  const float* const x = sums ? x_at : n.a;
  const float over = 1.0f / static_cast<float>(n.features);
  Reg total = Simd::zero();
  for_vectors(n.features, [&](std::int64_t i, int lanes) {
    Reg v = read(n.a + i, lanes);
    if (n.b != nullptr) v = Simd::add(v, read(n.b + i, lanes));
    if (n.bias != nullptr) v = Simd::add(v, read(n.bias + i, lanes));
    if (sums) write(x_at + i, v, lanes, nullptr, 0);
    total = Simd::add(total, v);
  });
  const Reg mean = splat(n.centred ? Simd::sum(total) * over : 0.0f);
  Reg squares = Simd::zero();
  std::int64_t i = 0;
  for (; i + kW <= n.features; i += kW) {
    const Reg d = Simd::sub(Simd::load(x + i), mean);
    squares = Simd::fma(d, d, squares);
  }
  float rest = 0.0f;  // lanes past the end would count the mean
  for (; i < n.features; ++i) {
    float m;
    Simd::store_some(&m, mean, 1);
    rest += (x[i] - m) * (x[i] - m);
  }
  const Reg variance = splat((Simd::sum(squares) + rest) * over);
  const Reg inverse = Simd::div(splat(1.0f), Simd::sqrt(Simd::add(variance, splat(n.epsilon))));
  for_vectors(n.features, [&](std::int64_t at, int lanes) {
    const Reg d = Simd::mul(Simd::sub(read(x + at, lanes), mean), inverse);
    const Reg shift = n.shift != nullptr ? read(n.shift + at, lanes) : Simd::zero();
    write(n.out + at, Simd::fma(d, read(n.scale + at, lanes), shift), lanes, nullptr, 0);
  });
}

void layer_norm(std::int64_t stride, std::int64_t features, const float* a, const float* b,
                const float* bias, const float* scale, const float* shift, float epsilon,
                bool centred, float* out, float* sum_out, std::int64_t first, std::int64_t last) {
  const Norm n{stride, features, a, b, bias, scale, shift, epsilon, centred, out, sum_out};
  if (stride == 1 && first == 0 && last == 1) return norm_row(n);
  // Whole cache lines, and enough independent sums to hide the latency of an addition.
  constexpr int kP = Simd::kWidth == 16 ? 2 : 4;
  std::int64_t t = first;
  for (; t + kP * kW <= last; t += kP * kW) norm_tokens<kP>(n, t, kW);
  for (; t < last; t += kW)
    norm_tokens<1>(n, t, last - t < kW ? static_cast<int>(last - t) : kW);
}

// e^x, and zero where that is too little to count: the smallest numbers divided by their sum would be
// denormal ones, with which multiplications take a hundred times as long (what is masked by -10,000).
inline Reg weight_of(Reg x) { return Simd::where_less(x, splat(-80.0f), Simd::zero(), exponential(x)); }

void softmax_row(const float* in, float* out, std::int64_t columns, float scale,
                 const float* mask) {
  for_vectors(columns, [&](std::int64_t i, int lanes) {
    Reg v = Simd::mul(read(in + i, lanes), splat(scale));
    if (mask != nullptr) v = Simd::add(v, read(mask + i, lanes));
    write(out + i, v, lanes, nullptr, 0);
  });
  const float top = largest(out, columns);
  float total = 0.0f;
  Reg sums = Simd::zero();
  for_vectors(columns, [&](std::int64_t i, int lanes) {
    const Reg e = weight_of(Simd::sub(read(out + i, lanes), splat(top)));
    write(out + i, e, lanes, nullptr, 0);
    if (lanes == kW) {
      sums = Simd::add(sums, e);
    } else {
      for (std::int64_t j = i; j < columns; ++j) total += out[j];
    }
  });
  const Reg inverse = splat(1.0f / (total + Simd::sum(sums)));
  for_vectors(columns, [&](std::int64_t i, int lanes) {
    write(out + i, Simd::mul(read(out + i, lanes), inverse), lanes, nullptr, 0);
  });
}

template <int P>
inline void softmax_column_block(float* at, std::int64_t stride, std::int64_t rows, int lanes,
                                 const float* bias, std::int64_t bias_row, bool bias_by_row,
                                 float fill) {
  const auto lanes_of = [lanes](int p) { return p + 1 == P ? lanes : kW; };
  Reg top[P], total[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    top[p] = splat(-std::numeric_limits<float>::infinity());
    total[p] = Simd::zero();
  }
  const Reg replaced = splat(fill), least = splat(std::numeric_limits<float>::lowest());
  for (std::int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      float* const x = at + r * stride + p * kW;
      Reg v = read(x, lanes_of(p));
      if (bias != nullptr) {
        const Reg m = bias_by_row ? splat(bias[r * bias_row])
                                  : read(bias + r * bias_row + p * kW, lanes_of(p));
        v = Simd::where_less(m, least, replaced, Simd::add(v, m));
        write(x, v, lanes_of(p), nullptr, 0);
      }
      top[p] = Simd::max(top[p], v);
    }
  }
  for (std::int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      float* const x = at + r * stride + p * kW;
      const Reg e = weight_of(Simd::sub(read(x, lanes_of(p)), top[p]));
      write(x, e, lanes_of(p), nullptr, 0);
      total[p] = Simd::add(total[p], e);
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) total[p] = Simd::div(splat(1.0f), total[p]);
  for (std::int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      float* const x = at + r * stride + p * kW;
      write(x, Simd::mul(read(x, lanes_of(p)), total[p]), lanes_of(p), nullptr, 0);
    }
  }
}

void softmax_columns(float* at, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                     const float* bias, std::int64_t bias_row, bool bias_by_row, float fill) {
  std::int64_t j = 0;
  const auto shifted = [&] { return bias == nullptr || bias_by_row ? bias : bias + j; };
  for (; j + 2 * kW <= columns; j += 2 * kW)
    softmax_column_block<2>(at + j, stride, rows, kW, shifted(), bias_row, bias_by_row, fill);
  for (; j < columns; j += kW) {
    const int lanes = columns - j < kW ? static_cast<int>(columns - j) : kW;
    softmax_column_block<1>(at + j, stride, rows, lanes, shifted(), bias_row, bias_by_row, fill);
  }
}

// R rows of C by up to P vectors; `lanes` of the last vector.
template <int R, int P>
inline void matmul_block(std::int64_t k, float alpha, const float* a, std::int64_t a_row,
                         std::int64_t a_col, const float* b, std::int64_t b_row, float* c,
                         std::int64_t c_row, int lanes) {
  Reg total[R][P];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) total[r][p] = Simd::zero();
  }
  for (std::int64_t i = 0; i < k; ++i) {
    Reg x[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) x[p] = read(b + i * b_row + p * kW, p + 1 == P ? lanes : kW);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Reg w = splat(a[r * a_row + i * a_col]);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) total[r][p] = Simd::fma(w, x[p], total[r][p]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      write(c + r * c_row + p * kW, Simd::mul(total[r][p], splat(alpha)), p + 1 == P ? lanes : kW,
            nullptr, 0);
    }
  }
}

template <int R>
inline void matmul_rows(std::int64_t n, std::int64_t k, float alpha, const float* a,
                        std::int64_t a_row, std::int64_t a_col, const float* b, std::int64_t b_row,
                        float* c, std::int64_t c_row) {
  constexpr int kP = Simd::kRegisters == 32 ? 4 : 2;
  std::int64_t j = 0;
  for (; j + kP * kW <= n; j += kP * kW)
    matmul_block<R, kP>(k, alpha, a, a_row, a_col, b + j, b_row, c + j, c_row, kW);
  for (; j < n; j += kW) {
    const int lanes = n - j < kW ? static_cast<int>(n - j) : kW;
    matmul_block<R, 1>(k, alpha, a, a_row, a_col, b + j, b_row, c + j, c_row, lanes);
  }
}

void matmul(std::int64_t n, std::int64_t k, float alpha, const float* a, std::int64_t a_row,
            std::int64_t a_col, const float* b, std::int64_t b_row, float* c, std::int64_t c_row,
            std::int64_t first, std::int64_t last) {
  std::int64_t r = first;
  for (; r + 6 <= last; r += 6)
    matmul_rows<6>(n, k, alpha, a + r * a_row, a_row, a_col, b, b_row, c + r * c_row, c_row);
  a += r * a_row;
  c += r * c_row;
  switch (last - r) {
    case 5: return matmul_rows<5>(n, k, alpha, a, a_row, a_col, b, b_row, c, c_row);
    case 4: return matmul_rows<4>(n, k, alpha, a, a_row, a_col, b, b_row, c, c_row);
    case 3: return matmul_rows<3>(n, k, alpha, a, a_row, a_col, b, b_row, c, c_row);
    case 2: return matmul_rows<2>(n, k, alpha, a, a_row, a_col, b, b_row, c, c_row);
    case 1: return matmul_rows<1>(n, k, alpha, a, a_row, a_col, b, b_row, c, c_row);
    default: return;
  }
}

}  // namespace
