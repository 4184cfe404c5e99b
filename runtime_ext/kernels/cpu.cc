#include "cpu.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace onnxprune::kernels {
namespace {

#if defined(__x86_64__)
// Register state the operating system saves on a context switch (XCR0). Reported by CPUID alone a
// feature may still fault when the system does not save its registers.
std::uint64_t saved_state() {
  std::uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

Isa detect() {
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::scalar;
  const bool fma = c & (1u << 12), osxsave = c & (1u << 27), avx = c & (1u << 28);
  if (!(fma && osxsave && avx)) return Isa::scalar;
  const std::uint64_t state = saved_state();
  if ((state & 0x6) != 0x6) return Isa::scalar;  // xmm, ymm
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return Isa::scalar;
  const bool avx2 = b & (1u << 5), avx512f = b & (1u << 16);
  if (!avx2) return Isa::scalar;
  return avx512f && (state & 0xe6) == 0xe6 ? Isa::avx512 : Isa::avx2;  // opmask, zmm
}

bool detect_dot_products() {
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  if (detect() == Isa::scalar || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool wide = c & (1u << 11);  // AVX512_VNNI
  return (wide && detect() == Isa::avx512) ||
         (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4)));  // AVX-VNNI
}

CacheSizes detect_caches() {
  CacheSizes sizes;
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  char vendor[13] = {};
  if (!__get_cpuid(0, &a, &b, &c, &d)) return sizes;
  std::memcpy(vendor, &b, 4);
  std::memcpy(vendor + 4, &d, 4);
  std::memcpy(vendor + 8, &c, 4);
  const std::uint32_t leaf = std::strcmp(vendor, "AuthenticAMD") == 0 ? 0x8000001Du : 4u;
  for (std::uint32_t i = 0; i < 8; ++i) {
    if (!__get_cpuid_count(leaf, i, &a, &b, &c, &d)) break;
    const std::uint32_t type = a & 0x1f, level = (a >> 5) & 7;
    if (type == 0) break;
    if (type == 2) continue;  // instruction cache
    const std::int64_t bytes = static_cast<std::int64_t>((b >> 22) + 1) *
                               (((b >> 12) & 0x3ff) + 1) * ((b & 0xfff) + 1) *
                               (static_cast<std::int64_t>(c) + 1);
    if (level == 1 && bytes >= (8 << 10) && bytes <= (1 << 20)) sizes.l1_data = bytes;
    if (level == 2 && bytes >= (64 << 10) && bytes <= (64 << 20)) sizes.l2 = bytes;
  }
  return sizes;
}
#else
Isa detect() { return Isa::scalar; }
CacheSizes detect_caches() { return {}; }
bool detect_dot_products() { return false; }
#endif

Isa best() {
  static const Isa isa = detect();
  return isa;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "scalar";
  }
}

bool isa_from_name(const char* name, Isa* isa) {
  for (const Isa candidate : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (name != nullptr && std::strcmp(name, isa_name(candidate)) == 0) {
      *isa = candidate;
      return true;
    }
  }
  return false;
}

bool integer_dot_products() {
  static const bool has = detect_dot_products();
  return has;
}

bool isa_supported(Isa isa) { return isa <= best(); }

Isa active_isa() {
  static const Isa active = [] {
    Isa forced = best();
    isa_from_name(std::getenv("ONNXPRUNE_ISA"), &forced);
    return forced <= best() ? forced : best();
  }();
  return active;
}

CacheSizes cache_sizes() {
  static const CacheSizes sizes = detect_caches();
  return sizes;
}

}  // namespace onnxprune::kernels
