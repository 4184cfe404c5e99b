// Sums over the taps of a window whose inputs lie at fixed distances, and their derivatives: one long
// row at a time, see window/depthwise.h.
#pragma once

#include "pointwise.h"

namespace {

void interleave(const float* even, const float* odd, float* out, std::int64_t count) {
  std::int64_t i = 0;
  for (; 2 * (i + kW) <= count; i += kW) {
    const Reg a = Simd::load(even + i), b = Simd::load(odd + i);
    Simd::store(out + 2 * i, Simd::interleave_low(a, b));
    Simd::store(out + 2 * i + kW, Simd::interleave_high(a, b));
  }
  for (i = 2 * i; i < count; ++i) out[i] = i % 2 == 0 ? even[i / 2] : odd[i / 2];
}

template <int V>
inline void tap_sums_at(const float* in, const std::int64_t* offsets, const float* weights,
                        std::int64_t taps, float bias, float* out) {
  Reg sum[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) sum[v] = splat(bias);
  for (std::int64_t t = 0; t < taps; ++t) {
    const float* const p = in + offsets[t];
    const Reg w = splat(weights[t]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[v] = Simd::fma(w, Simd::load(p + v * kW), sum[v]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) Simd::store(out + v * kW, sum[v]);
}

void tap_sums(const float* in, const std::int64_t* offsets, const float* weights, std::int64_t taps,
              float bias, float* out, std::int64_t vectors) {
  std::int64_t v = 0;
  for (; v + 4 <= vectors; v += 4)
    tap_sums_at<4>(in + v * kW, offsets, weights, taps, bias, out + v * kW);
  for (; v + 2 <= vectors; v += 2)
    tap_sums_at<2>(in + v * kW, offsets, weights, taps, bias, out + v * kW);
  if (v < vectors) tap_sums_at<1>(in + v * kW, offsets, weights, taps, bias, out + v * kW);
}

// Taps whose sums fit into registers together, enough of them to hide each other's latency.
constexpr int kTapDots = 9;

template <int Taps>
inline void tap_dots_of(const float* in, const std::int64_t* offsets, const float* g,
                        std::int64_t vectors, float* sums) {
  Reg sum[Taps];
#pragma GCC unroll 9
  for (int t = 0; t < Taps; ++t) sum[t] = Simd::zero();
  for (std::int64_t i = 0; i < vectors * kW; i += kW) {
    const Reg factor = Simd::load(g + i);
#pragma GCC unroll 9
    for (int t = 0; t < Taps; ++t)
      sum[t] = Simd::fma(factor, Simd::load(in + offsets[t] + i), sum[t]);
  }
#pragma GCC unroll 9
  for (int t = 0; t < Taps; ++t) sums[t] = Simd::sum(sum[t]);
}

template <int Most>
inline void some_tap_dots(const float* in, const std::int64_t* offsets, std::int64_t taps,
                          const float* g, std::int64_t vectors, float* sums) {
  if (taps == Most) {
    tap_dots_of<Most>(in, offsets, g, vectors, sums);
  } else if constexpr (Most > 1) {
    some_tap_dots<Most - 1>(in, offsets, taps, g, vectors, sums);
  }
}

void tap_dots(const float* in, const std::int64_t* offsets, std::int64_t taps, const float* g,
              std::int64_t vectors, float* sums) {
  for (std::int64_t groups = (taps + kTapDots - 1) / kTapDots; groups > 0; --groups) {
    const std::int64_t some = (taps + groups - 1) / groups;
    some_tap_dots<kTapDots>(in, offsets, some, g, vectors, sums);
    offsets += some;
    sums += some;
    taps -= some;
  }
}

}  // namespace
