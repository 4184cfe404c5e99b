// Results of every fallible call of the kernel library. No exception crosses its interface.
#pragma once

#include <cstdint>

namespace onnxprune::kernels {

enum class Code : std::uint8_t {
  ok = 0,
  invalid_argument,  // the caller asked for something that makes no sense (sizes, null pointers)
  unsupported,       // meaningful, but no kernel here does it: leave the node to the CPU provider
  corrupt,           // a packed blob or sparse input is damaged; the message says where
  out_of_memory,
};

// A code and a message ("what, where, what to do"); empty when ok. Plain data, copied freely.
struct Status {
  Code code = Code::ok;
  char message[200] = {};
  bool ok() const { return code == Code::ok; }
};

// printf-style construction of a failed status.
[[gnu::format(printf, 2, 3)]] Status failure(Code code, const char* format, ...);

}  // namespace onnxprune::kernels
