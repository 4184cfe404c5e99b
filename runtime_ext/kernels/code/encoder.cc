#include "encoder.h"

namespace onnxprune::kernels {

void Encoder::load_mask(int k, Mem m) {  // VEX.L0.0F.W0 90 /r
  if (!room(16)) return;
  const bool high = static_cast<int>(m.base) & 8;
  if (high) {
    bytes({0xc4, 0xc1, 0x78, 0x90});
  } else {
    bytes({0xc5, 0xf8, 0x90});
  }
  address_bytes(k, m, 1);
}

void Encoder::copy(Gp dst, Gp src) {
  const int d = static_cast<int>(dst), s = static_cast<int>(src);
  bytes({static_cast<std::uint8_t>(0x48 | (s & 8 ? 4 : 0) | (d & 8 ? 1 : 0)), 0x89,
         static_cast<std::uint8_t>(0xc0 | ((s & 7) << 3) | (d & 7))});
}

void Encoder::add(Gp reg, std::int32_t value) {
  if (!room(16)) return;
  const int r = static_cast<int>(reg);
  const bool small = value >= -128 && value <= 127;
  bytes({static_cast<std::uint8_t>(0x48 | (r & 8 ? 1 : 0)),
         static_cast<std::uint8_t>(small ? 0x83 : 0x81),
         static_cast<std::uint8_t>(0xc0 | (r & 7))});
  if (small) {
    bytes({static_cast<std::uint8_t>(value)});
  } else {
    put32(value);
  }
}

void Encoder::decrement(Gp reg) {
  const int r = static_cast<int>(reg);
  bytes({static_cast<std::uint8_t>(0x48 | (r & 8 ? 1 : 0)), 0xff,
         static_cast<std::uint8_t>(0xc8 | (r & 7))});
}

void Encoder::hint(std::uint8_t opcode, int extension, Mem m) {
  if (!room(16)) return;
  if (static_cast<int>(m.base) & 8) bytes({0x41});
  bytes({0x0f, opcode});
  address_bytes(extension, m, 1);
}

void Encoder::data(const void* from, std::size_t count) {
  if (count == 0 || !room(count)) return;
  std::memcpy(at_, from, count);
  at_ += count;
}

void Encoder::jump_back_if_not_zero(std::size_t target) {
  if (!room(16)) return;
  const std::int64_t distance =
      static_cast<std::int64_t>(target) - static_cast<std::int64_t>(size()) - 6;
  bytes({0x0f, 0x85});
  put32(static_cast<std::int32_t>(distance));
}

void Encoder::align(std::size_t unit) {
  while (size() % unit != 0 && room(1)) bytes({0x90});
}

}  // namespace onnxprune::kernels
