// How threads share the items of one piece of work. Each begins with a stretch of its own, the same one
// in every piece of work of equal size, so that it finds in its caches what it wrote there before. Who
// is done takes from the end of the others' stretches: nobody waits for a thread that came late, was
// interrupted, or was given the harder half.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace onnxprune::kernels {

class Shares {
 public:
  explicit Shares(int threads) : stretch_(static_cast<std::size_t>(threads)) {}

  // Deals the items 0 .. count-1 (fewer than 2^31) to the first `threads` threads. Nobody may be
  // taking any.
  void deal(std::int64_t count, int threads) {
    dealt_ = threads;
    for (int t = 0; t < threads; ++t)
      stretch_[static_cast<std::size_t>(t)].left = pair(count * t / threads, count * (t + 1) / threads);
  }

  // The items first .. last-1 are the thread's, and nobody else's; false when none are left. Half of
  // what is left of a stretch is taken at a time.
  bool take(int thread, std::int64_t* first, std::int64_t* last) {
    for (int i = 0; i < dealt_; ++i) {
      const int from = (thread + i) % dealt_;
      std::atomic<std::uint64_t>& left = stretch_[static_cast<std::size_t>(from)].left;
      std::uint64_t seen = left.load(std::memory_order_relaxed);
      for (;;) {
        const auto begin = static_cast<std::int64_t>(seen >> 32), end = static_cast<std::int64_t>(seen & 0xffffffffu);
        if (begin == end) break;
        const std::int64_t piece = (end - begin + 1) / 2;
        *first = from == thread ? begin : end - piece;
        *last = *first + piece;
        const std::uint64_t rest = from == thread ? pair(*last, end) : pair(begin, *first);
        if (left.compare_exchange_weak(seen, rest, std::memory_order_relaxed)) return true;
      }
    }
    return false;
  }

 private:
  static std::uint64_t pair(std::int64_t begin, std::int64_t end) {
    return static_cast<std::uint64_t>(begin) << 32 | static_cast<std::uint64_t>(end);
  }

  struct alignas(64) Stretch {  // a line of its own
    std::atomic<std::uint64_t> left{0};  // first item, behind the last one
  };
  std::vector<Stretch> stretch_;
  int dealt_ = 0;
};

}  // namespace onnxprune::kernels
