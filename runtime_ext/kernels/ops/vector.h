// Matrix-vector primitives of OpsTable.
#pragma once

#include "pointwise.h"

namespace {

// One float at a time: on the processors measured, gather instructions are slower than scalar
// loads.
template <class Index>
float sparse_dot(const float* values, const Index* columns, std::int64_t count, const float* x) {
  constexpr int kChains = 8;
  float total[kChains] = {};
  std::int64_t i = 0;
  for (; i + kChains <= count; i += kChains) {
#pragma GCC unroll 8
    for (int j = 0; j < kChains; ++j) total[j] += values[i + j] * x[columns[i + j]];
  }
  for (; i < count; ++i) total[0] += values[i] * x[columns[i]];
  return ((total[0] + total[1]) + (total[2] + total[3])) +
         ((total[4] + total[5]) + (total[6] + total[7]));
}

float dense_dot(const float* values, const float* x, std::int64_t count) {
  Reg total[4] = {Simd::zero(), Simd::zero(), Simd::zero(), Simd::zero()};
  std::int64_t i = 0;
  for (; i + 4 * kW <= count; i += 4 * kW) {
    for (int j = 0; j < 4; ++j) {
      total[j] = Simd::fma(Simd::load(values + i + j * kW), Simd::load(x + i + j * kW), total[j]);
    }
  }
  for (; i + kW <= count; i += kW)
    total[0] = Simd::fma(Simd::load(values + i), Simd::load(x + i), total[0]);
  float rest = 0.0f;
  for (; i < count; ++i) rest += values[i] * x[i];
  return rest + Simd::sum(Simd::add(Simd::add(total[0], total[1]), Simd::add(total[2], total[3])));
}

// `Rows` sums over the columns of a block; four columns in flight hide the latency of the sums.
template <int Rows>
inline void block_dot_rows(const float* values, const std::int32_t* columns, std::int64_t count,
                           const float* x, float* y) {
  typedef float Lanes __attribute__((vector_size(Rows * 4)));
  Lanes total[4] = {};
  const auto add = [&](std::int64_t i, Lanes* to) {
    Lanes w;
    __builtin_memcpy(&w, values + i * Rows, sizeof w);
    *to += w * x[columns[i]];
  };
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int j = 0; j < 4; ++j) add(i + j, &total[j]);
  }
  for (; i < count; ++i) add(i, &total[0]);
  const Lanes all = (total[0] + total[1]) + (total[2] + total[3]);
  __builtin_memcpy(y, &all, sizeof all);
}

void block_dot(int rows, const float* values, const std::int32_t* columns, std::int64_t count,
               const float* x, float* y) {
  switch (rows) {
    case 2: return block_dot_rows<2>(values, columns, count, x, y);
    case 4: return block_dot_rows<4>(values, columns, count, x, y);
    case 8: return block_dot_rows<8>(values, columns, count, x, y);
    default: return block_dot_rows<16>(values, columns, count, x, y);
  }
}

}  // namespace
