// Matrix-vector primitives of OpsTable.
#pragma once

#include "pointwise.h"

namespace {

float sparse_dot(const float* values, const std::int32_t* columns, std::int64_t count,
                 const float* x) {
  Reg total[2] = {Simd::zero(), Simd::zero()};
  std::int64_t i = 0;
  for (; i + 2 * kW <= count; i += 2 * kW) {
    for (int j = 0; j < 2; ++j) {
      const Reg picked = Simd::gather(x, columns + i + j * kW);
      total[j] = Simd::fma(Simd::load(values + i + j * kW), picked, total[j]);
    }
  }
  if (i + kW <= count) {
    total[0] = Simd::fma(Simd::load(values + i), Simd::gather(x, columns + i), total[0]);
    i += kW;
  }
  float rest = 0.0f;
  for (; i < count; ++i) rest += values[i] * x[columns[i]];
  return rest + Simd::sum(Simd::add(total[0], total[1]));
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

// `Rows` sums over the columns of a block, several columns in flight.
template <int Rows>
inline void block_dot_rows(const float* values, const std::int32_t* columns, std::int64_t count,
                           const float* x, float* y) {
  constexpr int kLanes = Rows < kW ? Rows : kW, kRegs = Rows / kLanes;
  Reg total[2][kRegs];
  for (int r = 0; r < kRegs; ++r) total[0][r] = total[1][r] = Simd::zero();
  for (std::int64_t i = 0; i < count; ++i) {
    const Reg v = splat(x[columns[i]]);
    for (int r = 0; r < kRegs; ++r) {
      Reg& t = total[i & 1][r];
      t = Simd::fma(read(values + i * Rows + r * kLanes, kLanes), v, t);
    }
  }
  for (int r = 0; r < kRegs; ++r)
    write(y + r * kLanes, Simd::add(total[0][r], total[1][r]), kLanes, nullptr, 0);
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
