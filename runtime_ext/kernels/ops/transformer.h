// Normalisation, softmax and dense products of OpsTable.
#pragma once

#include "pointwise.h"

namespace {

// One vector of tokens at a time, three passes over the features (sum, squares about the mean,
// result): the two-pass variance keeps its accuracy when the mean is large.
void layer_norm(std::int64_t stride, std::int64_t features, const float* a, const float* b,
                const float* bias, const float* scale, const float* shift, float epsilon,
                float* out, float* sum_out, std::int64_t first, std::int64_t last) {
  const bool sums = b != nullptr || bias != nullptr;
  float* const x_at = sum_out != nullptr ? sum_out : out;  // where a + b + bias is kept
  const float* const x = sums || sum_out != nullptr ? x_at : a;
  for (std::int64_t t = first; t < last; t += kW) {
    const int lanes = last - t < kW ? static_cast<int>(last - t) : kW;
    Reg total = Simd::zero();
    for (std::int64_t f = 0; f < features; ++f) {
      Reg v = read(a + f * stride + t, lanes);
      if (b != nullptr) v = Simd::add(v, read(b + f * stride + t, lanes));
      if (bias != nullptr) v = Simd::add(v, splat(bias[f]));
      if (x != a) write(x_at + f * stride + t, v, lanes, nullptr, 0);
      total = Simd::add(total, v);
    }
    const Reg over = splat(1.0f / static_cast<float>(features));
    const Reg mean = Simd::mul(total, over);
    Reg squares = Simd::zero();
    for (std::int64_t f = 0; f < features; ++f) {
      const Reg d = Simd::sub(read(x + f * stride + t, lanes), mean);
      squares = Simd::fma(d, d, squares);
    }
    const Reg deviation = Simd::sqrt(Simd::fma(squares, over, splat(epsilon)));
    const Reg inverse = Simd::div(splat(1.0f), deviation);
    for (std::int64_t f = 0; f < features; ++f) {
      const Reg d = Simd::mul(Simd::sub(read(x + f * stride + t, lanes), mean), inverse);
      const Reg v = Simd::fma(d, splat(scale[f]), splat(shift != nullptr ? shift[f] : 0.0f));
      write(out + f * stride + t, v, lanes, nullptr, 0);
    }
  }
}

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
    const Reg e = exponential(Simd::sub(read(out + i, lanes), splat(top)));
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
  for (; r < last; ++r)
    matmul_rows<1>(n, k, alpha, a + r * a_row, a_row, a_col, b, b_row, c + r * c_row, c_row);
}

}  // namespace
