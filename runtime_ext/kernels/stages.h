// Work in stages: all pieces of one are done before any of the next begins. Whoever comes takes part;
// nobody is waited for that has not taken a piece, so that it also ends where threads come late, one
// after the other or not at all.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace onnxprune::kernels {

class Stages {
 public:
  // `pieces` (below 2^16) in each of `stages` (below 2^32), for `threads` threads.
  Stages(std::uint32_t stages, std::uint32_t pieces, int threads)
      : stages_(stages), pieces_(pieces), left_(static_cast<std::size_t>(threads)) {
    deal(0);
  }

  // Calls work(stage, piece) until all stages are done. Each thread begins with pieces of its own, the
  // same in every stage, and then helps the others.
  template <class Work>
  void run(int thread, Work&& work) {
    int idle = 0;
    for (;;) {
      std::uint32_t stage = 0, piece = 0;
      if (take(thread, &stage, &piece)) {
        idle = 0;
        work(stage, piece);
        if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == pieces_) {
          done_.store(0, std::memory_order_relaxed);
          deal(stage + 1);
        }
        continue;
      }
      if (over_.load(std::memory_order_acquire)) return;
      if (++idle > kSpins) std::this_thread::yield();
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }

 private:
  static constexpr int kSpins = 2000;

  static std::uint64_t entry(std::uint32_t stage, std::uint64_t begin, std::uint64_t end) {
    return static_cast<std::uint64_t>(stage) << 32 | begin << 16 | end;
  }

  void deal(std::uint32_t stage) {
    if (stage == stages_ || pieces_ == 0) {
      over_.store(true, std::memory_order_release);
      return;
    }
    const std::uint64_t threads = left_.size();
    for (std::uint64_t t = 0; t < threads; ++t)
      left_[t].entry.store(entry(stage, pieces_ * t / threads, pieces_ * (t + 1) / threads),
                           std::memory_order_release);
  }

  bool take(int thread, std::uint32_t* stage, std::uint32_t* piece) {
    const std::size_t threads = left_.size();
    for (std::size_t i = 0; i < threads; ++i) {
      auto& left = left_[(static_cast<std::size_t>(thread) + i) % threads].entry;
      std::uint64_t seen = left.load(std::memory_order_acquire);
      for (;;) {
        const std::uint64_t begin = seen >> 16 & 0xffff, end = seen & 0xffff;
        if (begin == end) break;
        *stage = static_cast<std::uint32_t>(seen >> 32);
        *piece = static_cast<std::uint32_t>(i == 0 ? begin : end - 1);
        const std::uint64_t rest = i == 0 ? entry(*stage, begin + 1, end) : entry(*stage, begin, end - 1);
        if (left.compare_exchange_weak(seen, rest, std::memory_order_acq_rel)) return true;
      }
    }
    return false;
  }

  struct alignas(64) Left {
    std::atomic<std::uint64_t> entry{0};  // stage, first piece, behind the last one
  };
  std::uint32_t stages_, pieces_;
  std::vector<Left> left_;
  std::atomic<std::uint32_t> done_{0};
  std::atomic<bool> over_{false};
};

}  // namespace onnxprune::kernels
