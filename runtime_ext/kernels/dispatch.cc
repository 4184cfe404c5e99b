#include "dispatch.h"

#include <cstring>

#include "ops/table.h"

namespace onnxprune::kernels {

#define TILE(family, isa) TileSet tiles_##family##_##isa();
#define CODE(family, isa)
#define WINDOW(family, isa)
#define DENSE(family, isa)
#include "kernels.inc"
#undef TILE
#undef CODE
#undef WINDOW
#undef DENSE

namespace {

constexpr Family family_of(const char* name) {
  return name[0] == 'b' ? Family::block : name[0] == 'r' ? Family::rows4 : Family::csr;
}

constexpr int height_of(const char* name) {
  return name[0] == 'b' ? name[5] - '0' : name[0] == 'r' ? 4 : 1;
}

const KernelRecord kRecords[] = {
#define TILE(family, isa)                           \
  {{"spmm_" #family "_f32_" #isa, Isa::isa, false}, \
   family_of(#family),                              \
   height_of(#family),                              \
   tiles_##family##_##isa},
#define WINDOW(family, isa) \
  {{#family "_f32_" #isa, Isa::isa, false}, Family::window, 1, nullptr},
#define DENSE(family, isa) \
  {{#family "_f32_" #isa, Isa::isa, false}, Family::winograd, 1, nullptr},
#define CODE(family, isa) {{"spmm_" #family "_f32_" #isa, Isa::isa, true}, Family::csr, 1, nullptr},
#include "kernels.inc"
#undef TILE
#undef CODE
#undef WINDOW
#undef DENSE
};
constexpr std::size_t kCount = sizeof kRecords / sizeof kRecords[0];

}  // namespace

std::size_t kernel_count() { return kCount; }
const KernelRecord& kernel_record(std::size_t index) { return kRecords[index]; }

std::size_t find_kernel(const char* name) {
  std::size_t i = 0;
  while (i < kCount && std::strcmp(kRecords[i].entry.name, name) != 0) ++i;
  return i;
}

const KernelEntry* kernel_list(std::size_t* count) {
  struct Entries {
    KernelEntry list[kCount];
    Entries() {
      for (std::size_t i = 0; i < kCount; ++i) list[i] = kRecords[i].entry;
    }
  };
  static const Entries entries;
  *count = kCount;
  return entries.list;
}

const OpsTable& ops_table(Isa isa) {
  static const OpsTable scalar = ops_scalar();
#if defined(__x86_64__)
  if (isa == Isa::avx512) {
    static const OpsTable avx512 = ops_avx512();
    return avx512;
  }
  if (isa == Isa::avx2) {
    static const OpsTable avx2 = ops_avx2();
    return avx2;
  }
#else
  (void)isa;
#endif
  return scalar;
}

}  // namespace onnxprune::kernels
