// Executable memory under W^X: pages are writable while code is generated, then executable and
// read-only; never both.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxprune::kernels {

class CodeMemory {
 public:
  CodeMemory() = default;
  ~CodeMemory();
  CodeMemory(CodeMemory&& other) noexcept;
  CodeMemory& operator=(CodeMemory&& other) noexcept;
  CodeMemory(const CodeMemory&) = delete;
  CodeMemory& operator=(const CodeMemory&) = delete;

  // Writable pages for at least `bytes`; false when refused. Of so many as will be used for certain, whole
  // large pages are asked for: they are ready sooner, and run with fewer translations.
  bool allocate(std::size_t bytes, std::size_t certain = 0);
  // Gives back what lies behind the first `used` bytes and makes the rest executable; false when
  // the system refuses executable memory (hardened hosts).
  bool seal(std::size_t used);

  std::uint8_t* data() { return data_; }
  const std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  void release();
  std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace onnxprune::kernels
