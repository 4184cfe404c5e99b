#include "ep/machine.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace onnxprune::ep {

kernels::Isa best_isa() {
  for (kernels::Isa isa : {kernels::Isa::avx512, kernels::Isa::avx2})
    if (kernels::isa_supported(isa)) return isa;
  return kernels::Isa::scalar;
}

double dense_factor() {
  static const double measured = [] {
    // A dense layer of ordinary size with our own dense kernel, which reaches this share of the speed
    // that the estimate is for.
    constexpr double kOurShare = 1.05;
    kernels::ConvGeometry g = kernels::matmul_geometry(128, 64);
    std::vector<float> weight(128 * 64, 0.5f);
    kernels::PackOptions pack;
    pack.storage = kernels::Storage::dense;
    kernels::WeightsPtr packed;
    kernels::PlanPtr plan;
    kernels::PlanOptions options;
    options.isa = best_isa();
    options.generate_code = false;
    const kernels::PlaneLayout layout = kernels::make_layout(14, 14);
    if (!kernels::pack_dense(g, {weight.data(), 128, 1}, pack, &packed).ok() ||
        !kernels::make_plan(*packed, layout, layout, options, &plan).ok())
      return 1.0;
    std::vector<float> in(static_cast<size_t>(layout.buffer_floats(128)) + 16, 0.25f);
    std::vector<float> out(static_cast<size_t>(layout.buffer_floats(64)) + 16);
    std::vector<char> scratch(plan->scratch_bytes() + 64);
    auto aligned = [](auto* p) {
      return p + (64 - reinterpret_cast<uintptr_t>(p) % 64) % 64 / sizeof *p;
    };
    kernels::RunArgs args;
    args.in = aligned(in.data());
    args.out = aligned(out.data());
    std::vector<double> runs;
    for (int run = 0; run < 41; ++run) {
      const auto start = std::chrono::steady_clock::now();
      plan->run(args, 0, plan->work_items(1), aligned(scratch.data()));
      runs.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    }
    std::nth_element(runs.begin(), runs.begin() + 10, runs.end());
    const double estimate = kernels::estimate_dense_cycles(g, 14 * 14, options.isa);
    return std::clamp(kOurShare * runs[10] * cycles_per_microsecond() / estimate, 0.5, 4.0);
  }();
  return measured;
}

double streaming_speed() {
  static const double measured = [] {
    const size_t numbers = static_cast<size_t>(std::clamp<int64_t>(3 * kernels::cache_sizes().l2, int64_t{1} << 22, int64_t{1} << 24)) / 8;
    const std::vector<uint64_t> data(numbers, 1);
    double best = 1e9;
    for (int round = 0; round < 4; ++round) {
      const auto start = std::chrono::steady_clock::now();
      uint64_t sums[4] = {};
      for (size_t i = 0; i + 8 <= numbers; i += 8)  // a line at a time
        for (size_t k = 0; k < 4; ++k) sums[k] += data[i + k] ^ data[i + 4 + k];
      asm volatile("" : : "r"(sums[0] + sums[1] + sums[2] + sums[3]));
      best = std::min(best, std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    }
    return std::clamp(8.0 * static_cast<double>(numbers) / (best * cycles_per_microsecond()), 2.0, kCached);
  }();
  return measured;
}

double cycles_per_microsecond() {
  static const double measured = [] {
    // A chain of dependent multiplications, whose latency is three cycles on every x86-64 processor of
    // the last decades; the empty assembly keeps the compiler from seeing through it. (Additions will not
    // do: some processors fold them, and where the loop lies decides about a cycle a step.)
    using clock = std::chrono::steady_clock;
    constexpr int kChain = 8, kSteps = 600;
    double best = 0;
    // Many short rounds: on a busy machine some of them are not interrupted.
    for (int round = 0; round < 60; ++round) {
      uint64_t x = 3, factor = 5;
      const auto start = clock::now();
      for (int i = 0; i < kSteps; ++i) {
        asm volatile("" : "+r"(factor));
#pragma GCC unroll 8
        for (int j = 0; j < kChain; ++j) {
          x *= factor;
          asm volatile("" : "+r"(x));
        }
      }
      const double us = std::chrono::duration<double, std::micro>(clock::now() - start).count();
      best = std::max(best, 3.0 * kChain * kSteps / std::max(us, 1e-3));
    }
    return best;
  }();
  return measured;
}

}  // namespace onnxprune::ep
