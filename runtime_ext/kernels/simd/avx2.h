// Eight floats in a register: AVX2 with FMA. See avx512.h for the conventions.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct Simd {
  static constexpr int kWidth = 8;
  static constexpr int kRegisters = 16;
  static constexpr bool kCompresses = false;
  static constexpr bool kShifts = false;  // `after` is one instruction
  using Reg = __m256;

  static inline Reg zero() { return _mm256_setzero_ps(); }
  static inline Reg set1(float v) { return _mm256_set1_ps(v); }
  static inline Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static inline void store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
  static inline __m256i lanes(std::uint32_t bits) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane),
                              lane);
  }
  static inline Reg load_some(const float* p, int count) {
    return _mm256_maskload_ps(p, lanes((1u << count) - 1u));
  }
  static inline void store_some(float* p, Reg v, int count) {
    _mm256_maskstore_ps(p, lanes((1u << count) - 1u), v);
  }
  static inline Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static inline Reg square_error(Reg a, Reg square) {
    return _mm256_fmsub_ps(a, a, square);
  }  // a * a - square, exactly
  static inline Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static inline Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static inline Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static inline Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static inline Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static inline Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static inline Reg sqrt(Reg a) { return _mm256_sqrt_ps(a); }
  static inline Reg round(Reg a) { return _mm256_round_ps(a, 0); }
  static inline Reg exp2_int(Reg n) {
    const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
  }
  static inline Reg inverse_root(Reg a) {
    const Reg half = mul(a, set1(-0.5f));
    Reg y = _mm256_rsqrt_ps(a);
    y = mul(y, fma(mul(half, y), y, set1(1.5f)));
    return mul(y, fma(mul(half, y), y, set1(1.5f)));
  }
  static inline Reg split(Reg a, Reg* e) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i two_thirds = _mm256_set1_epi32(0x3f2aaaab);
    const __m256i n = _mm256_srai_epi32(_mm256_sub_epi32(bits, two_thirds), 23);
    *e = _mm256_cvtepi32_ps(n);
    return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(n, 23)));
  }
  static inline Reg where_less(Reg x, Reg y, Reg a, Reg b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_LT_OQ));
  }
  static inline Reg keep_nan(Reg x, Reg a) {
    return _mm256_blendv_ps(a, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  }
  // Lanes kept by entry `i` of a list of masks, each of eight floats of all ones or zeros.
  static inline Reg keep(Reg a, const void* masks, int i) {
    return _mm256_and_ps(a, load(static_cast<const float*>(masks) + i * kWidth));
  }
  static inline Reg keep_lanes(Reg a, std::uint32_t bits) {
    return _mm256_and_ps(a, _mm256_castsi256_ps(lanes(bits)));
  }
  static inline Reg even_lanes(Reg a, Reg b) {
    const __m256 mixed = _mm256_shuffle_ps(a, b, 0x88);  // halves of a and b alternate
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
  }
  static inline Reg odd_lanes(Reg a, Reg b) {
    const __m256 mixed = _mm256_shuffle_ps(a, b, 0xdd);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
  }
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
    _mm256_maskstore_ps(p, lanes(((1u << last) - 1u) & ~((1u << first) - 1u)), v);
  }
  static inline Reg load_between(const float* p, int first, int last, Reg fill) {
    const __m256i kept = lanes(((1u << last) - 1u) & ~((1u << first) - 1u));
    return _mm256_blendv_ps(fill, _mm256_maskload_ps(p, kept), _mm256_castsi256_ps(kept));
  }
  static inline Reg interleave_low(Reg a, Reg b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
  }
  static inline Reg interleave_high(Reg a, Reg b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
  }
  static inline void hold(Reg& a) { asm("" : "+x"(a)); }
  // The lanes N, N + 1 ... of a, then those of b; N <= 4.
  template <int N>
  static inline Reg after(Reg a, Reg b) {
    const __m256i low = _mm256_castps_si256(a), middle = _mm256_castps_si256(_mm256_permute2f128_ps(a, b, 0x21));
    return _mm256_castsi256_ps(_mm256_alignr_epi8(middle, low, 4 * N));
  }
  static inline Reg shift_in(Reg a, Reg last) {
    const __m256i next = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0);
    return _mm256_blend_ps(_mm256_permutevar8x32_ps(a, next), last, 0x80);
  }
  static inline Reg shift_behind(Reg a, Reg previous) {
    const __m256i before = _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6);
    return _mm256_blend_ps(_mm256_permutevar8x32_ps(a, before),
                           _mm256_permutevar8x32_ps(previous, before), 0x01);
  }
  // Numbers picked out of 32 in a row: pick[i] = from[index[i]], index < 32. Out of each eight by the
  // lower three bits; the others choose.
  struct Picker {
    Reg of[4];
  };
  static inline Picker picker(const float* from) {
    return {{load(from), load(from + 8), load(from + 16), load(from + 24)}};
  }
  static inline __m256i pick_index(const std::uint8_t* index) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(index)));
  }
  static inline Reg pick(const Picker& p, __m256i index) {
    const __m256 eights = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
    const __m256 sixteens = _mm256_castsi256_ps(_mm256_slli_epi32(index, 27));
    const Reg low = _mm256_blendv_ps(_mm256_permutevar8x32_ps(p.of[0], index),
                                     _mm256_permutevar8x32_ps(p.of[1], index), eights);
    const Reg high = _mm256_blendv_ps(_mm256_permutevar8x32_ps(p.of[2], index),
                                      _mm256_permutevar8x32_ps(p.of[3], index), eights);
    return _mm256_blendv_ps(low, high, sixteens);
  }
  static inline float sum(Reg a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static inline float largest(Reg a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }
};

}  // namespace
