// Transposition, a square of vectors at a time.
#pragma once

#include "pointwise.h"

namespace {

// Rows i and i + W/2 interleaved, log2 W times, are the columns.
inline void transpose_square(const float* from, std::int64_t from_stride, float* to,
                             std::int64_t to_stride) {
  Reg a[kW], b[kW];
#pragma GCC unroll 16
  for (int i = 0; i < kW; ++i) a[i] = Simd::load(from + i * from_stride);
#pragma GCC unroll 4
  for (int half = 1; half < kW; half *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kW / 2; ++i) {
      b[2 * i] = Simd::interleave_low(a[i], a[i + kW / 2]);
      b[2 * i + 1] = Simd::interleave_high(a[i], a[i + kW / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kW; ++i) a[i] = b[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kW; ++i) Simd::store(to + i * to_stride, a[i]);
}

void transpose(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t cols,
               float* to, std::int64_t to_stride) {
  for (std::int64_t r = 0; r < rows; r += kW) {
    const std::int64_t last_row = r + kW < rows ? r + kW : rows;
    for (std::int64_t c = 0; c < cols; c += kW) {
      const std::int64_t last = c + kW < cols ? c + kW : cols;
      if (last_row - r == kW && last - c == kW) {
        transpose_square(from + r * from_stride + c, from_stride, to + c * to_stride + r,
                         to_stride);
        continue;
      }
      for (std::int64_t i = c; i < last; ++i)
        for (std::int64_t j = r; j < last_row; ++j)
          to[i * to_stride + j] = from[j * from_stride + i];
    }
  }
}

}  // namespace
