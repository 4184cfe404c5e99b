// A very small test harness: TEST(name) { ... CHECK(...) }, run by main.cc.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace testing {

struct Test {
  const char* name;
  void (*run)();
};
inline std::vector<Test>& tests() {
  static std::vector<Test> list;
  return list;
}
inline long& failures() {
  static long count = 0;
  return count;
}
inline long& checks() {
  static long count = 0;
  return count;
}
inline bool& executable_memory_denied() {
  static bool denied = false;
  return denied;
}
struct Register {
  Register(const char* name, void (*run)()) { tests().push_back({name, run}); }
};
inline bool check(bool ok, const char* file, int line, const std::string& what) {
  ++checks();
  if (!ok && ++failures() <= 40) std::printf("%s:%d: %s\n", file, line, what.c_str());
  return ok;
}

// Deterministic numbers (xorshift), the same on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 0x1234567) {
    for (int i = 0; i < 8; ++i) next();
  }
  std::uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  int below(int n) { return static_cast<int>((next() >> 20) % static_cast<std::uint64_t>(n)); }
  int between(int low, int high) { return low + below(high - low + 1); }
  float uniform() { return static_cast<float>(next() >> 40) / static_cast<float>(1 << 24); }
  float symmetric() { return 2.0f * uniform() - 1.0f; }

 private:
  std::uint64_t state_;
};

}  // namespace testing

#define TEST(name)                                                    \
  static void test_##name();                                          \
  static const testing::Register register_##name(#name, test_##name); \
  static void test_##name()
#define CHECK(condition) testing::check((condition), __FILE__, __LINE__, #condition)
#define CHECK_SAY(condition, message) testing::check((condition), __FILE__, __LINE__, message)
