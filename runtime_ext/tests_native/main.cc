// kernel_tests [--deny-exec] [TEXT]: runs all tests, or those whose name contains TEXT. --deny-exec
// asks the system to refuse executable memory first, as hardened hosts do (Linux 6.3 or newer).
#include <chrono>
#include <cstring>

#include "harness.h"

#if defined(__linux__)
#include <sys/prctl.h>
#endif

namespace {

bool deny_executable_memory() {
#if defined(__linux__)
  constexpr int set_memory_deny_write_execute = 65, refuse_exec_gain = 1;
  return prctl(set_memory_deny_write_execute, refuse_exec_gain, 0, 0, 0) == 0;
#else
  return false;
#endif
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--deny-exec") == 0) {
    if (!deny_executable_memory()) {
      std::printf("this kernel cannot refuse executable memory: nothing tested\n");
      return 0;
    }
    testing::executable_memory_denied() = true;
    --argc;
    ++argv;
  }
  for (const testing::Test& test : testing::tests()) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) continue;
    const auto start = std::chrono::steady_clock::now();
    const long failed = testing::failures(), checked = testing::checks();
    test.run();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    std::printf("%-32s %8ld checks %6.2f s  %s\n", test.name, testing::checks() - checked,
                taken.count(), testing::failures() == failed ? "ok" : "FAILED");
  }
  std::printf("%ld checks, %ld failures\n", testing::checks(), testing::failures());
  return testing::failures() == 0 && testing::checks() > 0 ? 0 : 1;
}
