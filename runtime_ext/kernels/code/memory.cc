#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace onnxprune::kernels {
namespace {

constexpr std::size_t kLargePage = 2 << 20;

std::size_t whole_pages(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

}  // namespace

CodeMemory::~CodeMemory() { release(); }

CodeMemory::CodeMemory(CodeMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

CodeMemory& CodeMemory::operator=(CodeMemory&& other) noexcept {
  if (this != &other) {
    release();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

void CodeMemory::release() {
  if (data_ != nullptr) munmap(data_, size_);
  data_ = nullptr;
  size_ = 0;
}

bool CodeMemory::allocate(std::size_t bytes, std::size_t certain) {
  release();
  const std::size_t size = whole_pages(bytes),
                    large = std::min(certain, size) / kLargePage * kLargePage;
  const std::size_t slack = large == 0 ? 0 : kLargePage;
  void* pages =
      mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return false;
  data_ = static_cast<std::uint8_t*>(pages);
  if (slack != 0) {
    const std::size_t off = reinterpret_cast<std::uintptr_t>(pages) % kLargePage,
                      before = off == 0 ? 0 : kLargePage - off;
    if (before != 0) munmap(data_, before);
    data_ += before;
    if (before != slack) munmap(data_ + size, slack - before);
#ifdef MADV_HUGEPAGE
    madvise(data_, large, MADV_HUGEPAGE);
#endif
  }
  size_ = size;
  return true;
}

bool CodeMemory::seal(std::size_t used) {
  const std::size_t kept = whole_pages(used);
  if (kept < size_ && munmap(data_ + kept, size_ - kept) == 0) size_ = kept;
  return mprotect(data_, size_, PROT_READ | PROT_EXEC) == 0;
}

}  // namespace onnxprune::kernels
