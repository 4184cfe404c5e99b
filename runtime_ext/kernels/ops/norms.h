// Normalisation primitives of OpsTable.
#pragma once

#include <limits>

#include "pointwise.h"

namespace {

using onnxprune::kernels::ResponseNorm;

// s^exponent for normal s > 0 and |exponent| <= 4, as 2^(exponent * log2 s): with s = m * 2^e, m in [2/3, 4/3),
// log2 m = t P(t) of t = m - 1 (fit error 7e-9). The exponent is taken in two parts, so that the product of the
// first one with e is exact and what is left of it, near 0, keeps its digits. Zero instead of denormal numbers.
class Power {
 public:
  explicit Power(float exponent) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &exponent, sizeof bits);
    bits &= 0xfffff000u;
    __builtin_memcpy(&high_, &bits, sizeof bits);
    all_ = exponent;
  }

  inline Reg of(Reg s) const {
    static constexpr float kP[] = {1.442695140838623f,   -0.7213455438613892f, 0.4808906614780426f,
                                   -0.3608437478542328f, 0.2888964116573334f,  -0.23594766855239868f,
                                   0.19948886334896088f, -0.2261451929807663f, 0.21226531267166138f};
    Reg e;
    const Reg t = Simd::sub(Simd::split(s, &e), splat(1.0f));
    const Reg whole = Simd::mul(e, splat(high_));
    const Reg rest = Simd::fma(Simd::mul(t, polynomial(t, kP)), splat(all_), Simd::mul(e, splat(all_ - high_)));
    const Reg n = Simd::round(Simd::add(whole, rest));
    const Reg r = Simd::mul(Simd::add(Simd::sub(whole, n), rest), splat(0.6931471805599453f));
    return Simd::keep_nan(s, Simd::mul(small_exponential(r), Simd::exp2_int(Simd::max(splat(-127.0f), n))));
  }

 private:
  float high_, all_;
};

// s^(-3/4), what nearly everybody wants: y = s^(-1/2), times its root.
struct InverseThreeQuarters {
  inline Reg of(Reg s) const {
    const Reg y = Simd::inverse_root(s);
    return Simd::mul(Simd::mul(y, Simd::inverse_root(y)), y);
  }
};

template <class InversePower>
inline void divide_by_power(const ResponseNorm& norm, const InversePower& power, const float* in, std::int64_t stride,
                            std::int64_t taps, const float* x, float* out, std::int64_t count) {
  const Reg factor = splat(norm.alpha / static_cast<float>(norm.size)), bias = splat(norm.bias);
  const Reg most = splat(std::numeric_limits<float>::max());
  for_vectors(count, [&](std::int64_t i, int lanes) {
    Reg sum = Simd::zero();
    for (std::int64_t t = 0; t < taps; ++t) {
      const Reg a = read(in + t * stride + i, lanes);
      sum = Simd::fma(a, a, sum);
    }
    const Reg s = Simd::fma(sum, factor, bias);
    const Reg inverse = Simd::where_less(most, s, Simd::zero(), power.of(s));
    write(out + i, Simd::mul(read(x + i, lanes), inverse), lanes, nullptr, i);
  });
}

void response_norm(const ResponseNorm& norm, const float* in, std::int64_t stride, std::int64_t taps,
                   const float* x, float* out, std::int64_t count) {
  if (norm.beta == 0.75f) return divide_by_power(norm, InverseThreeQuarters{}, in, stride, taps, x, out, count);
  divide_by_power(norm, Power(-norm.beta), in, stride, taps, x, out, count);
}

float squared_deviations(const float* row, float mean, const std::uint16_t* mask, std::int64_t count) {
  Reg total = Simd::zero();
  for_vectors(count, [&](std::int64_t i, int lanes) {
    Reg d = Simd::sub(read(row + i, lanes), splat(mean));
    if (mask != nullptr) {
      d = Simd::keep_lanes(d, mask[i / kW]);
    } else if (lanes < kW) {
      d = Simd::keep_lanes(d, (1u << lanes) - 1u);
    }
    total = Simd::fma(d, d, total);
  });
  return Simd::sum(total);
}

}  // namespace
