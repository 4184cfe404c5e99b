// Multiply-add peak of one core, measured.
#pragma once

#include <chrono>

#include "cpu.h"

// Best of several short runs of independent register multiply-adds of that width.
inline double peak_gflops(onnxprune::kernels::Isa isa) {
  using onnxprune::kernels::Isa;
  const long rounds = 1000000;
  double best = 0.0;
  for (int attempt = 0; attempt < 15; ++attempt) {
    long n = rounds;
    const auto start = std::chrono::steady_clock::now();
    double lanes = 4;
#if defined(__x86_64__)
#define CLOBBERS                                                                           \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "cc"
#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
    if (isa == Isa::avx512) {
      lanes = 16;
#define FMA(i) "vfmadd231ps %%zmm12,%%zmm12,%%zmm" #i "\n"
      __asm__ volatile("vpxord %%zmm12,%%zmm12,%%zmm12\n1:\n" TWELVE(FMA) "dec %0\njnz 1b\n"
                       : "+r"(n)::CLOBBERS);
#undef FMA
    } else if (isa == Isa::avx2) {
      lanes = 8;
#define FMA(i) "vfmadd231ps %%ymm12,%%ymm12,%%ymm" #i "\n"
      __asm__ volatile("vxorps %%ymm12,%%ymm12,%%ymm12\n1:\n" TWELVE(FMA) "dec %0\njnz 1b\n"
                       : "+r"(n)::CLOBBERS);
#undef FMA
    } else {  // baseline: a multiplication and an addition
#define FMA(i) "mulps %%xmm12,%%xmm12\naddps %%xmm12,%%xmm" #i "\n"
      __asm__ volatile("xorps %%xmm12,%%xmm12\n1:\n" TWELVE(FMA) "dec %0\njnz 1b\n"
                       : "+r"(n)::CLOBBERS);
#undef FMA
    }
#undef TWELVE
#undef CLOBBERS
#else
    volatile float sums[4] = {0, 0, 0, 0};
    for (; n > 0; --n) {
      for (int i = 0; i < 12; ++i) sums[i % 4] = sums[i % 4] * 0.5f + 0.5f;
    }
    lanes = 1;
#endif
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    const double gflops = 2.0 * lanes * 12.0 * static_cast<double>(rounds) / taken.count() / 1e9;
    best = gflops > best ? gflops : best;
  }
  return best;
}
