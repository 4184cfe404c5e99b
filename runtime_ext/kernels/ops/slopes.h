// Derivatives of elementwise functions in one pass, see gradients.h.
#pragma once

#include "pointwise.h"

namespace {

void clip_gradient(const float* y, const float* g, float low, float high, float* out,
                   std::int64_t count) {
  const Reg least = splat(low), most = splat(high), none = Simd::zero();
  for_vectors(count, [&](std::int64_t i, int lanes) {
    const Reg v = read(y + i, lanes);
    const Reg below = Simd::where_less(v, most, read(g + i, lanes), none);
    write(out + i, Simd::where_less(least, v, below, none), lanes, nullptr, 0);
  });
}

void sigmoid_gradient(const float* y, const float* g, float* out, std::int64_t count) {
  const Reg one = splat(1.0f);
  for_vectors(count, [&](std::int64_t i, int lanes) {
    const Reg s = read(y + i, lanes);
    const Reg slope = Simd::mul(s, Simd::sub(one, s));
    write(out + i, Simd::mul(read(g + i, lanes), slope), lanes, nullptr, 0);
  });
}

void silu_gradient(const float* x, const float* s, const float* g, float* out, std::int64_t count) {
  const Reg one = splat(1.0f);
  for_vectors(count, [&](std::int64_t i, int lanes) {
    const Reg share = read(s + i, lanes);
    const Reg rest = Simd::fma(read(x + i, lanes), Simd::sub(one, share), one);
    write(out + i, Simd::mul(read(g + i, lanes), Simd::mul(share, rest)), lanes, nullptr, 0);
  });
}

float squared_gap(const float* a, const float* b, float factor, float* slope, std::int64_t count) {
  constexpr int kChains = 4;
  const Reg scale = splat(factor);
  Reg sums[kChains] = {Simd::zero(), Simd::zero(), Simd::zero(), Simd::zero()};
  const auto add = [&](Reg* sum, std::int64_t i, int lanes) {
    const Reg gap = Simd::sub(read(a + i, lanes), read(b + i, lanes));
    *sum = Simd::fma(gap, gap, *sum);
    write(slope + i, Simd::mul(gap, scale), lanes, nullptr, 0);
  };
  std::int64_t i = 0;
  for (; i + kChains * kW <= count; i += kChains * kW) {
#pragma GCC unroll 4
    for (int k = 0; k < kChains; ++k) add(&sums[k], i + k * kW, kW);
  }
  for (; i + kW <= count; i += kW) add(&sums[0], i, kW);
  if (i < count) add(&sums[1], i, static_cast<int>(count - i));
  return Simd::sum(Simd::add(Simd::add(sums[0], sums[1]), Simd::add(sums[2], sums[3])));
}

}  // namespace
