// Whether code can be generated and run here: decided once, by running a function that was just
// made.
#include <cstdlib>
#include <cstring>

#include "../cpu.h"
#include "../plan.h"
#include "encoder.h"
#include "memory.h"

namespace onnxprune::kernels {
namespace {

const char* check() {
  const char* wish = std::getenv("ONNXPRUNE_JIT");
  if (wish != nullptr && std::strcmp(wish, "0") == 0) return "switched off by ONNXPRUNE_JIT=0";
  if (!isa_supported(Isa::avx2)) return "the processor or the operating system lacks AVX2";
  CodeMemory memory;
  if (!memory.allocate(64)) return "no memory for code";
  Encoder encoder(memory.data(), memory.size());
  encoder.copy(Gp::rax, Gp::rdi);
  encoder.ret();
  if (!memory.seal(encoder.size())) return "the system refuses executable memory";
  const auto same = reinterpret_cast<std::int64_t (*)(std::int64_t)>(
      reinterpret_cast<std::uintptr_t>(memory.data()));
  return same(12345) == 12345 ? nullptr : "generated code does not run as it should";
}

}  // namespace

bool code_generation_available(const char** reason) {
  static const char* const obstacle = check();
  if (reason != nullptr) *reason = obstacle == nullptr ? "" : obstacle;
  return obstacle == nullptr;
}

}  // namespace onnxprune::kernels
