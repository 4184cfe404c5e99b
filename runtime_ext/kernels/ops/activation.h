// Activation functions, exact to float rounding (relative error below 1e-6 against double libm; the
// tests measure it). Polynomials are our own least-maximum fits, see the comments.
#pragma once

#include "../plan.h"

namespace {

using onnxprune::kernels::Activation;
using onnxprune::kernels::Epilogue;
using onnxprune::kernels::Residual;
using Reg = Simd::Reg;

inline Reg splat(float v) { return Simd::set1(v); }

template <int N>
inline Reg polynomial(Reg x, const float (&c)[N]) {  // c[0] + c[1] x + ...
  Reg p = splat(c[N - 1]);
  for (int i = N - 2; i >= 0; --i) p = Simd::fma(p, x, splat(c[i]));
  return p;
}

// e^r on |r| <= ln2 / 2: 1 + r + r^2 P(r) (P of degree 4, fit error 3e-9).
inline Reg small_exponential(Reg r) {
  static constexpr float kP[] = {0.4999999403953552f, 0.1666652113199234f, 0.04166838899254799f,
                                 0.00836874544620514f, 0.001381453825160861f};
  const Reg p = Simd::fma(Simd::mul(polynomial(r, kP), r), r, r);
  return Simd::add(p, splat(1.0f));
}

// e^x, clamped to [2^-126, 2^127.5]. Cody-Waite reduction.
inline Reg exponential(Reg x) {
  x = Simd::min(splat(88.3f), Simd::max(splat(-87.3f), x));
  const Reg n = Simd::round(Simd::mul(x, splat(1.44269504088896f)));
  Reg r = Simd::fma(n, splat(-0.693359375f), x);  // ln2 in two parts, the first one exact
  r = Simd::fma(n, splat(2.12194440054690582e-4f), r);
  return Simd::mul(small_exponential(r), Simd::exp2_int(n));
}

// Zero below -87.3, where the clamped exponential would leave a small number that a large x (in
// SiLU) could blow up. The power stays so small that its reciprocal is no denormal number: processors
// take a hundred cycles for each of these.
inline Reg logistic(Reg x) {
  const Reg power = exponential(Simd::min(splat(87.3f), Simd::sub(Simd::zero(), x)));
  const Reg y = Simd::div(splat(1.0f), Simd::add(splat(1.0f), power));
  return Simd::where_less(x, splat(-87.3f), Simd::zero(), y);
}

// x + x^3 P(x^2) below 0.6 (fit error 3e-9), 1 - 2 / (e^2|x| + 1) above.
inline Reg hyperbolic_tangent(Reg x) {
  static constexpr float kP[] = {-0.33333298563957214f, 0.13331924378871918f,
                                 -0.053783826529979706f, 0.020795950666069984f,
                                 -0.005895125214010477f};
  const Reg negative = Simd::sub(Simd::zero(), x);
  const Reg size = Simd::where_less(x, negative, negative, x);
  const Reg square = Simd::mul(x, x);
  const Reg small = Simd::fma(Simd::mul(polynomial(square, kP), square), x, x);
  const Reg grown = exponential(Simd::min(splat(87.3f), Simd::add(size, size)));  // see logistic
  const Reg large = Simd::sub(splat(1.0f), Simd::div(splat(2.0f), Simd::add(grown, splat(1.0f))));
  const Reg with_sign = Simd::where_less(x, Simd::zero(), Simd::sub(Simd::zero(), large), large);
  return Simd::where_less(size, splat(0.6f), small, with_sign);
}

// x Phi(x). With z = |x| / sqrt 2: erfc z = e^(-z^2) erfcx(z), erfcx(z) = t P(2t - 1) and
// t = 1 / (1 + 0.3 z) (fit error 2e-8 on [0, 9.6]). x^2 is taken in two parts, because its rounding
// error would be multiplied by the exponent; so the left tail keeps its relative accuracy, up to where
// it would be a denormal number.
inline Reg gelu_exact(Reg x) {
  static constexpr float kP[] = {
      0.3249799311161041f,  0.276523619890213f,       0.19878153502941132f,
      0.118716761469841f,   0.05695505067706108f,     0.020419782027602196f,
      0.00438378332182765f, -0.00025476093287579715f, -0.0005056991358287632f};
  const Reg negative = Simd::sub(Simd::zero(), x);
  const Reg size = Simd::min(splat(12.94f), Simd::where_less(x, negative, negative, x));
  const Reg t = Simd::div(splat(1.0f), Simd::fma(size, splat(0.21213203435596426f), splat(1.0f)));
  const Reg scaled = Simd::mul(t, polynomial(Simd::fma(t, splat(2.0f), splat(-1.0f)), kP));
  const Reg square = Simd::mul(size, size);
  const Reg rest = Simd::square_error(size, square);
  Reg decay = exponential(Simd::mul(square, splat(-0.5f)));
  decay = Simd::mul(decay, Simd::fma(rest, splat(-0.5f), splat(1.0f)));
  const Reg tail = Simd::mul(splat(0.5f), Simd::mul(scaled, decay));
  const Reg right = Simd::where_less(splat(13.0f), x, splat(1.0f), Simd::sub(splat(1.0f), tail));
  const Reg left = Simd::where_less(x, splat(-12.94f), Simd::zero(), tail);
  return Simd::mul(x, Simd::where_less(x, Simd::zero(), left, right));
}

// (1 + tanh u) / 2 is the logistic function of 2u.
inline Reg gelu_by_tanh(Reg x) {
  const Reg cubic = Simd::mul(Simd::mul(Simd::mul(splat(0.044715f), x), x), x);
  const Reg twice = Simd::mul(splat(1.5957691216057308f), Simd::add(x, cubic));
  return Simd::mul(x, logistic(twice));
}

inline Reg unit_clamp(Reg x) { return Simd::min(splat(1.0f), Simd::max(Simd::zero(), x)); }

// A NaN stays a NaN in all of them but those that quantise.
template <Activation A>
inline Reg activated(Reg x, float alpha, float beta, float step) {
  switch (A) {
    case Activation::quantise: x = Simd::div(x, splat(step)); [[fallthrough]];
    case Activation::round:
      // NaN becomes the lowest number, as in onnxruntime.
      return Simd::round(Simd::min(splat(beta), Simd::max(x, splat(alpha))));
    case Activation::relu: return Simd::max(Simd::zero(), x);
    case Activation::leaky_relu:
      return Simd::where_less(x, Simd::zero(), Simd::mul(x, splat(alpha)), x);
    case Activation::clip: return Simd::min(splat(beta), Simd::max(splat(alpha), x));
    case Activation::hard_swish:
      return Simd::mul(x, unit_clamp(Simd::fma(x, splat(1.0f / 6.0f), splat(0.5f))));
    case Activation::hard_sigmoid: return unit_clamp(Simd::fma(x, splat(alpha), splat(beta)));
    case Activation::sigmoid: return Simd::keep_nan(x, logistic(x));
    case Activation::silu: return Simd::mul(x, logistic(x));
    case Activation::tanh: return Simd::keep_nan(x, hyperbolic_tangent(x));
    case Activation::gelu_erf: return gelu_exact(x);
    case Activation::gelu_tanh: return gelu_by_tanh(x);
    default: return x;
  }
}

// Calls body with an object whose `apply(reg)` is the activation: the switch stays outside loops.
template <Activation A>
struct Applied {
  float alpha, beta, step;
  explicit Applied(const Epilogue& e) : alpha(e.alpha), beta(e.beta), step(e.step) {}
  inline Reg apply(Reg x) const { return activated<A>(x, alpha, beta, step); }
};

template <class Body>
inline void with_activation(const Epilogue& e, Body&& body) {
  switch (e.activation) {
    case Activation::relu: return body(Applied<Activation::relu>(e));
    case Activation::leaky_relu: return body(Applied<Activation::leaky_relu>(e));
    case Activation::clip: return body(Applied<Activation::clip>(e));
    case Activation::hard_swish: return body(Applied<Activation::hard_swish>(e));
    case Activation::hard_sigmoid: return body(Applied<Activation::hard_sigmoid>(e));
    case Activation::sigmoid: return body(Applied<Activation::sigmoid>(e));
    case Activation::silu: return body(Applied<Activation::silu>(e));
    case Activation::tanh: return body(Applied<Activation::tanh>(e));
    case Activation::gelu_erf: return body(Applied<Activation::gelu_erf>(e));
    case Activation::gelu_tanh: return body(Applied<Activation::gelu_tanh>(e));
    case Activation::round: return body(Applied<Activation::round>(e));
    case Activation::quantise: return body(Applied<Activation::quantise>(e));
    default: return body(Applied<Activation::none>(e));
  }
}

}  // namespace
