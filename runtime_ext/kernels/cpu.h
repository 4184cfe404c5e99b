// Which instruction sets this processor *and* operating system allow, and which one is in force.
#pragma once

#include <cstdint>

namespace onnxprune::kernels {

enum class Isa : std::uint8_t { scalar = 0, avx2 = 1, avx512 = 2 };

// "scalar", "avx2", "avx512".
const char* isa_name(Isa isa);
// The inverse; false when the name is unknown.
bool isa_from_name(const char* name, Isa* isa);

// Compiled in, reported by CPUID, and its registers saved by the operating system (XGETBV).
bool isa_supported(Isa isa);

// Whether it multiplies and adds 8-bit integers in one instruction (VNNI), if programs like.
bool integer_dot_products();

// The best supported one, or what ONNXPRUNE_ISA=scalar|avx2|avx512 forces. A forced set that this
// machine lacks is not used: the best supported one below it is. Read once per process.
Isa active_isa();

// Caches of the running core in bytes (CPUID leaves 4 / 0x8000001D; sane defaults elsewhere).
struct CacheSizes {
  std::int64_t l1_data = 32 << 10;
  std::int64_t l2 = 512 << 10;
};
CacheSizes cache_sizes();

}  // namespace onnxprune::kernels
