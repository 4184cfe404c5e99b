// Runs all tests, or those whose name contains the first argument.
#include <chrono>
#include <cstring>

#include "harness.h"

int main(int argc, char** argv) {
  for (const testing::Test& test : testing::tests()) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) continue;
    const auto start = std::chrono::steady_clock::now();
    const long failed = testing::failures(), checked = testing::checks();
    test.run();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    std::printf("%-32s %8ld checks %6.2f s  %s\n", test.name, testing::checks() - checked, taken.count(),
                testing::failures() == failed ? "ok" : "FAILED");
  }
  std::printf("%ld checks, %ld failures\n", testing::checks(), testing::failures());
  return testing::failures() == 0 && testing::checks() > 0 ? 0 : 1;
}
