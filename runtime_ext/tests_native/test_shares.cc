// Sharing of work items: everyone gets what nobody else has, own ones first.
#include "shares.h"

#include <thread>
#include <vector>

#include "harness.h"

using namespace onnxprune::kernels;

TEST(shares_begin_at_the_own_front_and_end_at_the_others_back) {
  Shares shares(2);
  shares.deal(8, 2);
  std::int64_t first = 0, last = 0, next = 0;
  while (next < 4) {
    if (!CHECK(shares.take(0, &first, &last) && first == next && last <= 4)) return;
    next = last;
  }
  for (next = 8; next > 4; next = first) {
    if (!CHECK(shares.take(0, &first, &last) && last == next && first >= 4)) return;
  }
  CHECK(!shares.take(0, &first, &last) && !shares.take(1, &first, &last));
}

TEST(shares_give_every_item_once) {
  testing::Random random(5);
  Shares shares(4);
  for (int round = 0; round < 300; ++round) {
    const int threads = random.between(1, 4), count = random.between(0, 70);
    shares.deal(count, threads);
    std::vector<std::vector<int>> taken(static_cast<std::size_t>(threads));  // by thread: how often
    const auto work = [&](int thread) {
      std::vector<int>& mine = taken[static_cast<std::size_t>(thread)];
      mine.assign(static_cast<std::size_t>(count), 0);
      std::int64_t first = 0, last = 0;
      while (shares.take(thread, &first, &last)) {
        for (; first < last; ++first) ++mine[static_cast<std::size_t>(first)];
      }
    };
    std::vector<std::thread> helpers;
    for (int t = 1; t < threads; ++t) helpers.emplace_back(work, t);
    work(0);
    for (std::thread& helper : helpers) helper.join();
    bool once = true;
    for (int i = 0; i < count; ++i) {
      int times = 0;
      for (const std::vector<int>& mine : taken) times += mine[static_cast<std::size_t>(i)];
      once = once && times == 1;
    }
    CHECK(once);
  }
}
