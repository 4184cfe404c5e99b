// Digests, and what sessions share by them.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "ep/shared.h"
#include "harness.h"

using onnxprune::ep::Digest;
using onnxprune::ep::Hasher;
using onnxprune::ep::Lately;
using onnxprune::ep::Shared;

namespace {

Digest of(const std::vector<unsigned char>& data) { return Hasher().bytes(data.data(), data.size()).digest(); }

std::vector<unsigned char> noise(std::size_t size) {
  testing::Random random(size + 1);
  std::vector<unsigned char> data(size);
  for (unsigned char& byte : data) byte = static_cast<unsigned char>(random.below(256));
  return data;
}

// Counts those alive.
struct Thing {
  explicit Thing(int number) : value(number) { ++alive; }
  ~Thing() { --alive; }
  Thing(const Thing&) = delete;
  Thing& operator=(const Thing&) = delete;
  int value;
  static std::atomic<int> alive;
};
std::atomic<int> Thing::alive{0};

std::shared_ptr<const Thing> make(int number) { return std::unique_ptr<const Thing>(new Thing(number)); }

}  // namespace

TEST(digest_of_equal_contents_is_equal) {
  for (const std::size_t size : {0, 1, 7, 8, 1015, 1016, 1017, 1024, 5000, 100000}) {
    const std::vector<unsigned char> data = noise(size);
    const Digest digest = of(data);
    CHECK(digest.known());
    CHECK(digest == of(data));
    std::vector<unsigned char> moved(size + 3);  // at another alignment
    std::copy(data.begin(), data.end(), moved.begin() + 3);
    CHECK(digest == Hasher().bytes(moved.data() + 3, size).digest());
  }
}

TEST(digest_sees_every_bit_and_the_length) {
  std::set<std::array<std::uint64_t, 4>> seen;
  long given = 0;
  auto add = [&](const Digest& digest) {
    seen.insert(digest.words);
    ++given;
  };
  for (std::size_t size = 0; size <= 2100; ++size) add(of(std::vector<unsigned char>(size)));  // zeros
  for (const std::size_t size : {1, 64, 1016, 1024, 3000}) {
    std::vector<unsigned char> data = noise(size);
    add(of(data));
    for (std::size_t i = 0; i < size; ++i) {
      const auto bit = static_cast<unsigned char>(1u << i % 8);
      data[i] ^= bit;
      add(of(data));
      data[i] ^= bit;
    }
  }
  // The same bytes in other pieces, and in another order of blocks.
  const std::string text = "abcdef";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) add(Hasher().text(text.substr(0, cut)).text(text.substr(cut)).digest());
  add(Hasher().text(text).digest());
  std::vector<unsigned char> blocks = noise(4096 - 8);
  std::vector<unsigned char> swapped = blocks;
  std::swap_ranges(swapped.begin() + 1016, swapped.begin() + 2040, swapped.begin() + 2040);
  add(of(blocks));
  add(of(swapped));
  CHECK(static_cast<long>(seen.size()) == given);
}

TEST(digest_of_a_large_weight_sees_one_number) {
  std::vector<float> weight(1 << 20, 0.5f);
  const Digest before = Hasher().list(weight).digest();
  weight[777777] = std::nextafter(0.5f, 1.0f);
  CHECK(!(before == Hasher().list(weight).digest()));
  weight[777777] = 0.5f;
  CHECK(before == Hasher().list(weight).digest());
}

TEST(shared_things_go_with_their_last_holder) {
  Shared<const Thing> shared;
  const Digest one = Hasher().put(1).digest(), two = Hasher().put(2).digest();
  CHECK(shared.find(one) == nullptr);
  auto first = shared.keep(one, make(1));
  CHECK(shared.find(one) == first && shared.find(two) == nullptr);
  CHECK(shared.keep(one, make(3)) == first);  // the earlier one stays, the later one goes
  CHECK(Thing::alive == 1);
  auto second = shared.find(one);
  first.reset();
  CHECK(Thing::alive == 1 && shared.find(one) == second);
  second.reset();
  CHECK(Thing::alive == 0 && shared.find(one) == nullptr);
  second = shared.keep(one, make(4));
  CHECK(shared.find(one) == second && second->value == 4);
  // What nobody knows the contents of is never shared.
  auto other = shared.keep(Digest{}, make(5));
  CHECK(other->value == 5 && shared.find(Digest{}) == nullptr);
}

TEST(shared_entries_do_not_pile_up) {
  Shared<const Thing> shared;
  std::vector<std::shared_ptr<const Thing>> kept;
  for (int i = 0; i < 10000; ++i) {
    auto made = shared.keep(Hasher().put(i).digest(), make(i));
    if (i % 100 == 0) kept.push_back(made);
  }
  CHECK(Thing::alive == 100);
  CHECK(shared.entries() < 400);
  for (int i = 0; i < 10000; i += 100) CHECK(shared.find(Hasher().put(i).digest()) == kept[static_cast<std::size_t>(i / 100)]);
}

TEST(lately_used_things_stay_up_to_so_many_bytes) {
  Lately lately(100);
  Shared<const Thing> shared;
  auto digest = [](int number) { return Hasher().put(number).digest(); };
  for (int i = 0; i < 5; ++i) lately.use(shared.keep(digest(i), make(i)), 30);
  CHECK(Thing::alive == 3 && lately.bytes() == 90);  // 2, 3 and 4
  CHECK(shared.find(digest(1)) == nullptr);
  lately.use(shared.find(digest(2)), 30);  // now the latest
  lately.use(shared.keep(digest(5), make(5)), 30);
  CHECK(shared.find(digest(2)) != nullptr && shared.find(digest(3)) == nullptr);
  CHECK(Thing::alive == 3 && lately.bytes() == 90);
  auto held = shared.keep(digest(6), make(6));
  lately.use(held, 101);  // larger than all
  lately.use(nullptr, 1);
  CHECK(Thing::alive == 4 && lately.bytes() == 90);
  lately.use(held, 100);
  CHECK(Thing::alive == 1 && lately.bytes() == 100);
  Lately none(0);
  none.use(shared.keep(digest(7), make(7)), 1);
  CHECK(none.bytes() == 0 && shared.find(digest(7)) == nullptr);
}

TEST(shared_from_several_threads) {
  Shared<const Thing> shared;
  std::atomic<int> wrong{0}, started{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      ++started;
      while (started < 8) std::this_thread::yield();
      for (int round = 0; round < 2000; ++round) {
        const int number = round % 7;
        const Digest digest = Hasher().put(number).digest();
        auto held = shared.find(digest);
        if (!held) held = shared.keep(digest, make(number));
        if (held->value != number || shared.find(digest) != held) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(Thing::alive == 0);
}
