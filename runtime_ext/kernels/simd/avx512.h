// Sixteen floats in a register: AVX-512F. Included by exactly one instruction set's source files;
// everything has internal linkage so that no other file can end up calling code it must not run.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct Simd {
  static constexpr int kWidth = 16;
  static constexpr int kRegisters = 32;
  static constexpr bool kCompresses = true;
  static constexpr bool kShifts = true;  // `after` is one instruction
  using Reg = __m512;

  static inline Reg zero() { return _mm512_setzero_ps(); }
  static inline Reg set1(float v) { return _mm512_set1_ps(v); }
  static inline Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static inline void store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
  static inline Reg load_some(const float* p, int count) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), p);
  }
  static inline void store_some(float* p, Reg v, int count) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1u), v);
  }
  // The lower half of a vector, at half the cost on processors that split vectors.
  struct Half {
    using Reg = __m256;
    static inline Reg low(__m512 a) { return _mm512_castps512_ps256(a); }
    static inline Reg set1(float v) { return _mm256_set1_ps(v); }
    static inline Reg load(const float* p) { return _mm256_loadu_ps(p); }
    static inline void store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
    static inline Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
    static inline Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
    static inline Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
    static inline Reg round(Reg a) { return _mm256_round_ps(a, 0); }
    static inline Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
    static inline Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
    static inline Reg keep(Reg a, const void* masks, int i) {
      return low(Simd::keep(_mm512_castps256_ps512(a), masks, i));
    }
  };
  static inline Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
  static inline Reg square_error(Reg a, Reg square) {
    return _mm512_fmsub_ps(a, a, square);
  }  // a * a - square, exactly
  static inline Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static inline Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static inline Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static inline Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  // b where either is NaN, so a NaN activation in second place survives.
  static inline Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static inline Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static inline Reg sqrt(Reg a) { return _mm512_sqrt_ps(a); }
  static inline Reg round(Reg a) { return _mm512_roundscale_ps(a, 0); }
  // 2^n for integral n in [-126, 127].
  static inline Reg exp2_int(Reg n) {
    const __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
  }
  // 1 / sqrt(a) of positive normal numbers, to a rounding error: an estimate and a step of Newton's.
  static inline Reg inverse_root(Reg a) {
    const Reg y = _mm512_rsqrt14_ps(a);
    return mul(y, fma(mul(mul(a, set1(-0.5f)), y), y, set1(1.5f)));
  }
  // A positive normal number as m * 2^e with m in [2/3, 4/3); returns m.
  static inline Reg split(Reg a, Reg* e) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i two_thirds = _mm512_set1_epi32(0x3f2aaaab);
    const __m512i n = _mm512_srai_epi32(_mm512_sub_epi32(bits, two_thirds), 23);
    *e = _mm512_cvtepi32_ps(n);
    return _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(n, 23)));
  }
  // a where x < y, else b.
  static inline Reg where_less(Reg x, Reg y, Reg a, Reg b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
  }
  // a where x is not NaN, else x.
  static inline Reg keep_nan(Reg x, Reg a) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), a, x);
  }
  // Zero in the lanes whose bit is 0.
  // Lanes kept by entry `i` of a list of masks.
  static inline Reg keep(Reg a, const void* masks, int i) {
    return keep_lanes(a, static_cast<const std::uint16_t*>(masks)[i]);
  }
  static inline Reg keep_lanes(Reg a, std::uint32_t bits) {
    return _mm512_maskz_mov_ps(static_cast<__mmask16>(bits), a);
  }
  // The lanes 0, 2, 4 ... of a, then of b.
  static inline Reg even_lanes(Reg a, Reg b) {
    const __m512i pick =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, pick, b);
  }
  // The lanes 1, 3, 5 ... of a, then of b.
  static inline Reg odd_lanes(Reg a, Reg b) {
    const __m512i pick =
        _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(a, pick, b);
  }
  // Three streams out of lines in which their elements take turns, and back.
  // Lane i of result k is element at(k, i) of the three.
  struct Thirds {
    alignas(64) std::int32_t two[3][16], three[3][16];
    std::uint16_t last[3];
  };
  static constexpr Thirds thirds(bool deal) {
    Thirds t{};
    for (int k = 0; k < 3; ++k) {
      for (int i = 0; i < 16; ++i) {
        const int n = i + 16 * k, at = deal ? 3 * i + k : n / 3 + n % 3 * 16;
        t.two[k][i] = at % 32;
        t.three[k][i] = at % 16;
        if (at >= 32) t.last[k] = static_cast<std::uint16_t>(t.last[k] | 1 << i);
      }
    }
    return t;
  }
  static inline void rearrange(const Thirds& t, const Reg (&from)[3], Reg (&to)[3]) {
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k) {
      const Reg low = _mm512_permutex2var_ps(from[0], _mm512_load_si512(t.two[k]), from[1]);
      to[k] = _mm512_mask_permutexvar_ps(low, t.last[k], _mm512_load_si512(t.three[k]), from[2]);
    }
  }
  static inline void deal_three(const Reg (&lines)[3], Reg (&streams)[3]) {
    static constexpr Thirds table = thirds(true);
    rearrange(table, lines, streams);
  }
  static inline void join_three(const Reg (&streams)[3], Reg (&lines)[3]) {
    static constexpr Thirds table = thirds(false);
    rearrange(table, streams, lines);
  }
  // Only the lanes first .. last-1.
  static inline void store_between(float* p, Reg v, int first, int last) {
    const std::uint32_t bits = ((1u << last) - 1u) & ~((1u << first) - 1u);
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(bits), v);
  }
  // `fill` with the lanes first .. last-1 from memory, which alone is touched.
  static inline Reg load_between(const float* p, int first, int last, Reg fill) {
    const std::uint32_t bits = ((1u << last) - 1u) & ~((1u << first) - 1u);
    return _mm512_mask_loadu_ps(fill, static_cast<__mmask16>(bits), p);
  }
  // a0, b0, a1, b1 ... of the lower halves, of the upper halves.
  static inline Reg interleave_low(Reg a, Reg b) {
    const __m512i pick =
        _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(a, pick, b);
  }
  static inline Reg interleave_high(Reg a, Reg b) {
    const __m512i pick =
        _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return _mm512_permutex2var_ps(a, pick, b);
  }
  // Keeps a value that is used several times in a register: the compiler would rather load it again
  // with every use, which costs more than it saves.
  static inline void hold(Reg& a) { asm("" : "+v"(a)); }
  // The lanes N, N + 1 ... of a, then those of b.
  template <int N>
  static inline Reg after(Reg a, Reg b) {
    return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(b), _mm512_castps_si512(a), N));
  }
  // The lanes 1, 2 ... of a, then `last`, which is the same in all lanes.
  static inline Reg shift_in(Reg a, Reg last) {
    return _mm512_castsi512_ps(
        _mm512_alignr_epi32(_mm512_castps_si512(last), _mm512_castps_si512(a), 1));
  }
  // The last lane of `previous`, then the lanes 0, 1 ... of a.
  static inline Reg shift_behind(Reg a, Reg previous) {
    return _mm512_castsi512_ps(
        _mm512_alignr_epi32(_mm512_castps_si512(a), _mm512_castps_si512(previous), 15));
  }
  // Lanes that are not zero; NaN is not.
  static inline std::uint32_t not_zero(Reg a) {
    return _mm512_cmp_ps_mask(a, zero(), _CMP_NEQ_UQ);
  }
  // The given lanes, or base + their numbers, close together. (A store that compresses by itself is many
  // times slower on some processors.)
  static inline void store_compressed(float* to, Reg a, std::uint32_t bits) {
    store(to, _mm512_maskz_compress_ps(static_cast<__mmask16>(bits), a));
  }
  static inline __m512i lane_numbers(std::int32_t base, std::uint32_t bits) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits),
                                       _mm512_add_epi32(lane, _mm512_set1_epi32(base)));
  }
  static inline void store_lane_numbers(std::uint16_t* to, std::int32_t base, std::uint32_t bits) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtepi32_epi16(lane_numbers(base, bits)));
  }
  static inline void store_lane_numbers(std::uint32_t* to, std::int32_t base, std::uint32_t bits) {
    _mm512_storeu_si512(to, lane_numbers(base, bits));
  }
  // Numbers picked out of 32 in a row: pick[i] = from[index[i]], index < 32.
  struct Picker {
    Reg low, high;
  };
  static inline Picker picker(const float* from) { return {load(from), load(from + 16)}; }
  static inline __m512i pick_index(const std::uint8_t* index) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(index)));
  }
  static inline Reg pick(const Picker& p, __m512i index) {
    return _mm512_permutex2var_ps(p.low, index, p.high);
  }
  static inline float sum(Reg a) { return _mm512_reduce_add_ps(a); }
  static inline float largest(Reg a) { return _mm512_reduce_max_ps(a); }
};

}  // namespace
