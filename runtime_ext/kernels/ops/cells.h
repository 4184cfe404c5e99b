// Steps of recurrent cells: all gates of a unit at once.
#pragma once

#include "pointwise.h"

namespace {

using onnxprune::kernels::CellStep;

inline Reg sigmoid_of(Reg x) { return Simd::keep_nan(x, logistic(x)); }
inline Reg tanh_of(Reg x) { return Simd::keep_nan(x, hyperbolic_tangent(x)); }

// What gate `g` gets from the input and from the state.
inline Reg gate_sum(const CellStep& s, int g, std::int64_t i, int lanes) {
  return Simd::add(read(s.x + g * s.x_stride + i, lanes), read(s.r + g * s.r_stride + i, lanes));
}

inline void put(float* p, Reg v, int lanes) { write(p, v, lanes, nullptr, 0); }

// Gates i, o, f, c.
void lstm_step(const CellStep& s) {
  for_vectors(s.count, [&](std::int64_t i, int lanes) {
    const Reg in = sigmoid_of(gate_sum(s, 0, i, lanes)), out = sigmoid_of(gate_sum(s, 1, i, lanes));
    const Reg forget = sigmoid_of(gate_sum(s, 2, i, lanes));
    const Reg c = Simd::fma(forget, read(s.c_before + i, lanes),
                            Simd::mul(in, tanh_of(gate_sum(s, 3, i, lanes))));
    put(s.c + i, c, lanes);
    put(s.h + i, Simd::mul(out, tanh_of(c)), lanes);
  });
}

// (1 - z) n + z h
inline Reg mixed(Reg z, Reg n, Reg h) { return Simd::fma(z, Simd::sub(h, n), n); }

// Gates z, r, h.
void gru_step(const CellStep& s) {
  for_vectors(s.count, [&](std::int64_t i, int lanes) {
    const Reg z = sigmoid_of(gate_sum(s, 0, i, lanes)), r = sigmoid_of(gate_sum(s, 1, i, lanes));
    Reg own = read(s.r + 2 * s.r_stride + i, lanes);
    if (s.bias != nullptr) own = Simd::add(own, read(s.bias + i, lanes));
    const Reg n = tanh_of(Simd::fma(r, own, read(s.x + 2 * s.x_stride + i, lanes)));
    put(s.h + i, mixed(z, n, read(s.h_before + i, lanes)), lanes);
  });
}

void gru_gates(const CellStep& s) {
  for_vectors(s.count, [&](std::int64_t i, int lanes) {
    put(s.update + i, sigmoid_of(gate_sum(s, 0, i, lanes)), lanes);
    const Reg r = sigmoid_of(gate_sum(s, 1, i, lanes));
    put(s.reset + i, Simd::mul(r, read(s.h_before + i, lanes)), lanes);
  });
}

void gru_candidate(const CellStep& s) {
  for_vectors(s.count, [&](std::int64_t i, int lanes) {
    const Reg n = tanh_of(Simd::add(read(s.x + 2 * s.x_stride + i, lanes), read(s.r + i, lanes)));
    put(s.h + i, mixed(read(s.update + i, lanes), n, read(s.h_before + i, lanes)), lanes);
  });
}

void rnn_step(const CellStep& s) {
  for_vectors(s.count, [&](std::int64_t i, int lanes) {
    put(s.h + i, tanh_of(gate_sum(s, 0, i, lanes)), lanes);
  });
}

}  // namespace
