// The portable version: groups of four floats in the compiler's generic vector type, which becomes
// whatever the target has without any extra flag (SSE2, NEON or plain scalar code).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct Simd {
  static constexpr int kWidth = 4;
  static constexpr int kRegisters = 16;
  static constexpr bool kCompresses = false;
  static constexpr bool kShifts = false;  // `after` is one instruction
  typedef float Reg __attribute__((vector_size(16)));
  typedef std::int32_t Int __attribute__((vector_size(16)));

  static inline Reg zero() { return Reg{0, 0, 0, 0}; }
  static inline Reg set1(float v) { return Reg{v, v, v, v}; }
  static inline Reg load(const float* p) {
    Reg r;
    std::memcpy(&r, p, sizeof r);
    return r;
  }
  static inline void store(float* p, Reg v) { std::memcpy(p, &v, sizeof v); }
  static inline Reg load_some(const float* p, int count) {
    Reg r = zero();
    std::memcpy(&r, p, static_cast<std::size_t>(count) * sizeof(float));
    return r;
  }
  static inline void store_some(float* p, Reg v, int count) {
    std::memcpy(p, &v, static_cast<std::size_t>(count) * sizeof(float));
  }
  static inline Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }
  // a * a - square, exactly: without a fused multiply-add by splitting a into halves of 12 bits
  // (Dekker 1971).
  static inline Reg square_error(Reg a, Reg square) {
    Int bits;
    std::memcpy(&bits, &a, sizeof bits);
    bits &= static_cast<std::int32_t>(0xfffff000u);
    Reg high;
    std::memcpy(&high, &bits, sizeof high);
    const Reg low = a - high;
    return ((high * high - square) + 2.0f * (high * low)) + low * low;
  }
  static inline Reg add(Reg a, Reg b) { return a + b; }
  static inline Reg sub(Reg a, Reg b) { return a - b; }
  static inline Reg mul(Reg a, Reg b) { return a * b; }
  static inline Reg div(Reg a, Reg b) { return a / b; }
  static inline Reg select(Int mask, Reg a, Reg b) {
    Int x, y;
    std::memcpy(&x, &a, sizeof x);
    std::memcpy(&y, &b, sizeof y);
    const Int r = (mask & x) | (~mask & y);
    Reg out;
    std::memcpy(&out, &r, sizeof out);
    return out;
  }
  static inline Reg max(Reg a, Reg b) { return select(a > b, a, b); }
  static inline Reg min(Reg a, Reg b) { return select(a < b, a, b); }
  static inline Reg sqrt(Reg a) {
    return Reg{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]),
               __builtin_sqrtf(a[3])};
  }
  // To the nearest integer for |a| < 2^22, ties to even.
  static inline Reg round(Reg a) {
    const Reg magic = set1(12582912.0f);
    return (a + magic) - magic;
  }
  static inline Reg exp2_int(Reg n) {
    const Int e = (__builtin_convertvector(n, Int) + 127) << 23;
    Reg r;
    std::memcpy(&r, &e, sizeof r);
    return r;
  }
  static inline Reg inverse_root(Reg a) { return set1(1.0f) / sqrt(a); }
  static inline Reg split(Reg a, Reg* e) {
    Int bits;
    std::memcpy(&bits, &a, sizeof bits);
    const Int n = (bits - 0x3f2aaaab) >> 23;
    *e = __builtin_convertvector(n, Reg);
    bits -= n << 23;
    Reg m;
    std::memcpy(&m, &bits, sizeof m);
    return m;
  }
  static inline Reg where_less(Reg x, Reg y, Reg a, Reg b) { return select(x < y, a, b); }
  static inline Reg keep_nan(Reg x, Reg a) { return select(x == x, a, x); }
  // Lanes kept by entry `i` of a list of masks.
  static inline Reg keep(Reg a, const void* masks, int i) {
    return keep_lanes(a, static_cast<const std::uint16_t*>(masks)[i]);
  }
  static inline Reg keep_lanes(Reg a, std::uint32_t bits) {
    const Int lane = {1, 2, 4, 8};
    const auto b = static_cast<std::int32_t>(bits);
    return select((Int{b, b, b, b} & lane) == lane, a, zero());
  }
  static inline Reg even_lanes(Reg a, Reg b) { return Reg{a[0], a[2], b[0], b[2]}; }
  static inline Reg odd_lanes(Reg a, Reg b) { return Reg{a[1], a[3], b[1], b[3]}; }
  static inline void deal_three(const Reg (&lines)[3], Reg (&streams)[3]) {
    float from[3 * kWidth], to[3 * kWidth];
    for (int k = 0; k < 3; ++k) store(from + k * kWidth, lines[k]);
    for (int i = 0; i < 3 * kWidth; ++i) to[i % 3 * kWidth + i / 3] = from[i];
    for (int k = 0; k < 3; ++k) streams[k] = load(to + k * kWidth);
  }
  static inline void join_three(const Reg (&streams)[3], Reg (&lines)[3]) {
    float from[3 * kWidth], to[3 * kWidth];
    for (int k = 0; k < 3; ++k) store(from + k * kWidth, streams[k]);
    for (int i = 0; i < 3 * kWidth; ++i) to[i] = from[i % 3 * kWidth + i / 3];
    for (int k = 0; k < 3; ++k) lines[k] = load(to + k * kWidth);
  }
  static inline void store_between(float* p, Reg v, int first, int last) {
    for (int i = first; i < last; ++i) p[i] = v[i];
  }
  static inline Reg load_between(const float* p, int first, int last, Reg fill) {
    for (int i = first; i < last; ++i) fill[i] = p[i];
    return fill;
  }
  static inline Reg interleave_low(Reg a, Reg b) { return Reg{a[0], b[0], a[1], b[1]}; }
  static inline Reg interleave_high(Reg a, Reg b) { return Reg{a[2], b[2], a[3], b[3]}; }
  static inline void hold(Reg&) {}
  // The lanes N, N + 1 ... of a, then those of b.
  template <int N>
  static inline Reg after(Reg a, Reg b) {
    Reg out = a;
    for (int i = 0; i < kWidth; ++i) out[i] = i + N < kWidth ? a[(i + N) % kWidth] : b[(i + N) % kWidth];
    return out;
  }
  static inline Reg shift_in(Reg a, Reg last) { return Reg{a[1], a[2], a[3], last[0]}; }
  static inline Reg shift_behind(Reg a, Reg previous) { return Reg{previous[3], a[0], a[1], a[2]}; }
  // Numbers picked out of 32 in a row: pick[i] = from[index[i]], index < 32.
  using Picker = const float*;
  static inline Picker picker(const float* from) { return from; }
  static inline const std::uint8_t* pick_index(const std::uint8_t* index) { return index; }
  static inline Reg pick(Picker p, const std::uint8_t* index) {
    return Reg{p[index[0]], p[index[1]], p[index[2]], p[index[3]]};
  }
  static inline float sum(Reg a) { return (a[0] + a[2]) + (a[1] + a[3]); }
  static inline float largest(Reg a) {
    const float x = a[0] > a[2] ? a[0] : a[2], y = a[1] > a[3] ? a[1] : a[3];
    return x > y ? x : y;
  }
};

}  // namespace
