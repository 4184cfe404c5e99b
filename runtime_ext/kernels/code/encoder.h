// Encoder for the few x86-64 instructions that generated kernels consist of. VEX for 256-bit, EVEX
// for 512-bit registers, after the Intel 64 manual, volume 2, chapters 2.3 and 2.7. The tests
// decode every form with a disassembler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace onnxprune::kernels {

enum class Gp : std::uint8_t {
  rax = 0,
  rcx,
  rdx,
  rbx,
  rsp,
  rbp,
  rsi,
  rdi,
  r8,
  r9,
  r10,
  r11,
  r12,
  r13,
  r14,
  r15
};

// [base + disp]. The base must not be rsp or r12 (they need another byte; nothing here uses them).
struct Mem {
  Gp base;
  std::int32_t disp = 0;
};

// Writes into a buffer given by the caller and never past its end: `overflowed` says that it would
// have. 32 bytes of room suffice for any one instruction.
class Encoder {
 public:
  Encoder(std::uint8_t* buffer, std::size_t size)
      : begin_(buffer), at_(buffer), end_(buffer + size) {}
  std::size_t size() const { return static_cast<std::size_t>(at_ - begin_); }
  bool overflowed() const { return overflowed_; }

  // ---- vectors; `wide` = 512-bit (EVEX), otherwise 256-bit (VEX)
  // -----------------------------------
  void load(bool wide, int reg, Mem m) {
    memory(wide, 0x10, kMap0F, kNone, reg, 0, m, wide ? 64 : 1);
  }  // vmovups
  void store(bool wide, Mem m, int reg) {
    memory(wide, 0x11, kMap0F, kNone, reg, 0, m, wide ? 64 : 1);
  }  // vmovups
  void broadcast(bool wide, int reg, Mem m) {
    memory(wide, 0x18, kMap0F38, k66, reg, 0, m, wide ? 4 : 1);
  }  // vbroadcastss
  // dst += a * b
  void fma(bool wide, int dst, int a, int b) {
    registers(wide, 0xb8, kMap0F38, k66, dst, a, b, 0);
  }  // vfmadd231ps
  void fma(bool wide, int dst, int a, Mem m) {
    memory(wide, 0xb8, kMap0F38, k66, dst, a, m, wide ? 64 : 1);
  }
  // dst += a * broadcast of [base + 4 * floats], -128 <= floats <= 127, 512-bit: what most of generated
  // code consists of, so its seven bytes are put together (or-ed) from parts that are made once.
  static std::uint64_t near_fma_sum(int dst, Gp base) {
    const auto reg = static_cast<std::uint32_t>(dst), from = static_cast<std::uint32_t>(base);
    const std::uint32_t head =
        0x62u | ((~reg & 8) << 4 | 0x40u | (~from & 8) << 2 | (~reg & 16) | kMap0F38) << 8 |
        (4u | k66) << 16 | 0x50u << 24;
    const std::uint32_t tail = 0xb8u | (0x40u | (reg & 7) << 3 | (from & 7)) << 8;
    return head | static_cast<std::uint64_t>(tail) << 32;
  }
  static std::uint64_t near_fma_input(int a) {
    const auto second = static_cast<std::uint32_t>(a);
    return (~second & 15) << 19 | (~second & 16) << 23;
  }
  static std::uint64_t near_fma_displacement(std::int32_t floats) {
    return static_cast<std::uint64_t>(floats & 0xff) << 48;
  }
  void near_fma(std::uint64_t code) {
    if (!room(16)) return;
    std::memcpy(at_, &code, 8);
    at_ += 7;
  }
  void add(bool wide, int dst, int a, Mem m) {
    memory(wide, 0x58, kMap0F, kNone, dst, a, m, wide ? 64 : 1);
  }  // vaddps
  void max(bool wide, int dst, int a, int b, int keep = 0) {
    registers(wide, 0x5f, kMap0F, kNone, dst, a, b, keep);
  }  // vmaxps
  void min(bool wide, int dst, int a, int b, int keep = 0) {
    registers(wide, 0x5d, kMap0F, kNone, dst, a, b, keep);
  }  // vminps
  void multiply(int dst, int a, int b) {
    registers(false, 0x59, kMap0F, kNone, dst, a, b, 0);
  }  // vmulps ymm
  // dst = a * broadcast of [m], 512-bit
  void multiply_broadcast(int dst, int a, Mem m) {  // vmulps zmm, zmm, [m]{1to16}
    if (!room(16)) return;
    prefix(true, 0x59, kMap0F, kNone, dst, a, static_cast<int>(m.base) & 8, false, 0);
    at_[-2] |= 0x10;
    address_bytes(dst, m, 4);
  }
  // To whole numbers, halves to even.
  void round(bool wide, int dst, int src, int keep = 0) {  // vrndscaleps zmm, vroundps ymm
    registers(wide, 0x08, kMap0F3A, k66, dst, 0, src, keep);
    bytes({0});
  }
  void move(bool wide, int dst, int src, int keep = 0) {
    registers(wide, 0x28, kMap0F, kNone, dst, 0, src, keep);
  }  // vmovaps
  void clear(bool wide, int reg) {  // vpxord zmm, vxorps ymm
    registers(wide, wide ? 0xef : 0x57, kMap0F, wide ? k66 : kNone, reg, reg, reg, 0);
  }
  // dst = (high:low) >> 32 * lanes, the lower 512 bits
  void shift_lanes(int dst, int high, int low, std::uint8_t lanes) {  // valignd
    registers(true, 0x03, kMap0F3A, k66, dst, high, low, 0);
    bytes({lanes});
  }
  void bit_and(int dst, int a, Mem m) {
    memory(false, 0x54, kMap0F, kNone, dst, a, m, 1);
  }  // vandps ymm
  void load_mask(int k, Mem m);  // kmovw k, [m]; `keep` = k above: other lanes become zero
  void zero_upper() { bytes({0xc5, 0xf8, 0x77}); }  // vzeroupper

  // ---- integers
  // ------------------------------------------------------------------------------------
  void load(Gp reg, Mem m) { integer(0x8b, static_cast<int>(reg), m); }     // mov r64, [m]
  void address(Gp reg, Mem m) { integer(0x8d, static_cast<int>(reg), m); }  // lea
  void copy(Gp dst, Gp src);
  void add(Gp reg, std::int32_t value);
  void decrement(Gp reg);
  void prefetch(Mem m) { hint(0x18, 1, m); }         // prefetcht0
  void prefetch_second(Mem m) { hint(0x18, 2, m); }  // prefetcht1
  void prefetch_write(Mem m) { hint(0x0d, 1, m); }   // prefetchw
  void jump_back_if_not_zero(std::size_t target);  // jnz to a position returned by size()
  void ret() { bytes({0xc3}); }
  void align(std::size_t unit);  // with nops
  void data(const void* from, std::size_t count);  // as it is

 private:
  enum Map : std::uint8_t { kMap0F = 1, kMap0F38 = 2, kMap0F3A = 3 };
  enum Prefix : std::uint8_t { kNone = 0, k66 = 1 };

  void hint(std::uint8_t opcode, int extension, Mem m);
  bool room(std::size_t count) {
    if (static_cast<std::size_t>(end_ - at_) >= count) return true;
    overflowed_ = true;
    return false;
  }
  void bytes(std::initializer_list<std::uint8_t> list) {
    if (!room(list.size())) return;
    for (const std::uint8_t b : list) *at_++ = b;
  }
  void put32(std::int32_t value) {
    std::memcpy(at_, &value, 4);
    at_ += 4;
  }
  // ModRM and displacement for [base + disp]; `scale` divides an 8-bit displacement (EVEX disp8*N).
  void address_bytes(int reg, Mem m, int scale) {
    const int base = static_cast<int>(m.base);
    if (m.disp % scale == 0 && m.disp / scale >= -128 && m.disp / scale <= 127) {
      *at_++ = static_cast<std::uint8_t>(0x40 | ((reg & 7) << 3) | (base & 7));
      *at_++ = static_cast<std::uint8_t>(m.disp / scale);
    } else {
      *at_++ = static_cast<std::uint8_t>(0x80 | ((reg & 7) << 3) | (base & 7));
      put32(m.disp);
    }
  }
  void prefix(bool wide, std::uint8_t opcode, Map map, Prefix pp, int reg, int second, bool rm_bit3,
              bool rm_bit4, int keep);
  void memory(bool wide, std::uint8_t opcode, Map map, Prefix pp, int reg, int second, Mem m,
              int scale) {
    if (!room(16)) return;
    prefix(wide, opcode, map, pp, reg, second, static_cast<int>(m.base) & 8, false, 0);
    address_bytes(reg, m, scale);
  }
  void registers(bool wide, std::uint8_t opcode, Map map, Prefix pp, int reg, int second, int rm,
                 int keep) {
    if (!room(16)) return;
    prefix(wide, opcode, map, pp, reg, second, rm & 8, rm & 16, keep);
    *at_++ = static_cast<std::uint8_t>(0xc0 | ((reg & 7) << 3) | (rm & 7));
  }
  void integer(std::uint8_t opcode, int reg, Mem m) {
    if (!room(16)) return;
    *at_++ = static_cast<std::uint8_t>(0x48 | (reg & 8 ? 4 : 0) |
                                       (static_cast<int>(m.base) & 8 ? 1 : 0));
    *at_++ = opcode;
    address_bytes(reg, m, 1);
  }

  std::uint8_t* begin_;
  std::uint8_t* at_;
  std::uint8_t* end_;
  bool overflowed_ = false;
};

// The prefix is all that differs between the forms; it is on the hot path of code generation.
inline void Encoder::prefix(bool wide, std::uint8_t opcode, Map map, Prefix pp, int reg, int second,
                            bool rm_bit3, bool rm_bit4, int keep) {
  const auto inverted = [](bool bit, int shift) {
    return static_cast<std::uint8_t>(bit ? 0 : 1 << shift);
  };
  if (wide) {
    at_[0] = 0x62;
    at_[1] = static_cast<std::uint8_t>(inverted(reg & 8, 7) | inverted(rm_bit4, 6) |
                                       inverted(rm_bit3, 5) | inverted(reg & 16, 4) | map);
    at_[2] = static_cast<std::uint8_t>(((~second & 15) << 3) | 4 | pp);
    at_[3] = static_cast<std::uint8_t>((keep != 0 ? 0x80 : 0) | 0x40 |
                                       inverted(second & 16, 3) | keep);
    at_[4] = opcode;
    at_ += 5;
  } else if (map == kMap0F && !rm_bit3) {  // the two-byte form
    at_[0] = 0xc5;
    at_[1] = static_cast<std::uint8_t>(inverted(reg & 8, 7) | ((~second & 15) << 3) | 4 | pp);
    at_[2] = opcode;
    at_ += 3;
  } else {
    at_[0] = 0xc4;
    at_[1] = static_cast<std::uint8_t>(inverted(reg & 8, 7) | 0x40 | inverted(rm_bit3, 5) | map);
    at_[2] = static_cast<std::uint8_t>(((~second & 15) << 3) | 4 | pp);
    at_[3] = opcode;
    at_ += 4;
  }
}

}  // namespace onnxprune::kernels
