// Every form of the encoder against a disassembler (objdump; the test says so where there is none).
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "harness.h"

#if defined(__x86_64__)
#include "code/encoder.h"

namespace {

using namespace onnxprune::kernels;

const char* const kGp[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

std::string vector_name(bool wide, int reg) { return (wide ? "zmm" : "ymm") + std::to_string(reg); }

std::string address(Mem m) {
  char text[64];
  const std::int64_t d = m.disp;
  std::snprintf(text, sizeof text, "[%s%c0x%llx]", kGp[static_cast<int>(m.base)], d < 0 ? '-' : '+',
                static_cast<unsigned long long>(d < 0 ? -d : d));
  return text;
}

struct Listing {
  std::vector<std::uint8_t> code = std::vector<std::uint8_t>(1 << 20);
  Encoder encoder{code.data(), code.size()};
  std::vector<std::string> expected;
  void say(const std::string& text) { expected.push_back(text); }
};

// The operands of every instruction, over all registers, bases and displacement forms.
void all_forms(Listing* l) {
  Encoder& e = l->encoder;
  const std::int32_t displacements[] = {0,    4,    -4,    64,   508,    -512,    512,
                                        8128, 8192, -8192, 8256, 100000, -100000, 1 << 30};
  const Gp bases[] = {Gp::rax, Gp::rcx, Gp::rdx, Gp::rbx, Gp::rbp, Gp::rsi, Gp::rdi,
                      Gp::r8,  Gp::r9,  Gp::r10, Gp::r11, Gp::r13, Gp::r15};
  testing::Random random(1);
  for (int round = 0; round < 600; ++round) {
    const bool wide = round % 2 == 0;
    const int regs = wide ? 32 : 16;
    const int a = random.below(regs), b = random.below(regs), c = random.below(regs),
              k = random.between(1, 7);
    const Mem m{bases[random.below(13)], displacements[random.below(14)]};
    const std::string A = vector_name(wide, a), B = vector_name(wide, b), C = vector_name(wide, c);
    const std::string size = wide ? "ZMMWORD PTR " : "YMMWORD PTR ";
    e.load(wide, a, m);
    l->say("vmovups " + A + "," + size + address(m));
    e.store(wide, m, a);
    l->say("vmovups " + size + address(m) + "," + A);
    e.broadcast(wide, a, m);
    l->say("vbroadcastss " + A + ",DWORD PTR " + address(m));
    e.fma(wide, a, b, c);
    l->say("vfmadd231ps " + A + "," + B + "," + C);
    e.fma(wide, a, b, m);
    l->say("vfmadd231ps " + A + "," + B + "," + size + address(m));
    e.add(wide, a, b, m);
    l->say("vaddps " + A + "," + B + "," + size + address(m));
    e.max(wide, a, b, c);
    l->say("vmaxps " + A + "," + B + "," + C);
    e.min(wide, a, b, c);
    l->say("vminps " + A + "," + B + "," + C);
    e.move(wide, a, b);
    l->say("vmovaps " + A + "," + B);
    e.round(wide, a, b);
    l->say((wide ? "vrndscaleps " : "vroundps ") + A + "," + B + ",0x0");
    e.clear(wide, a);
    l->say((wide ? "vpxord " : "vxorps ") + A + "," + A + "," + A);
    if (wide) {
      const std::string kept = "{k" + std::to_string(k) + "}{z}";
      const std::int32_t floats = random.between(-128, 127);
      e.near_fma(Encoder::near_fma_sum(a, m.base) | Encoder::near_fma_input(b) |
                 Encoder::near_fma_displacement(floats));
      l->say("vfmadd231ps " + A + "," + B + ",DWORD BCST " + address({m.base, floats * 4}));
      e.shift_lanes(a, b, c, static_cast<std::uint8_t>(round % 15 + 1));
      char lanes[16];
      std::snprintf(lanes, sizeof lanes, "0x%x", round % 15 + 1);
      l->say("valignd " + A + "," + B + "," + C + "," + lanes);
      e.max(true, a, b, c, k);
      l->say("vmaxps " + A + kept + "," + B + "," + C);
      e.min(true, a, b, c, k);
      l->say("vminps " + A + kept + "," + B + "," + C);
      e.multiply_broadcast(a, b, m);
      l->say("vmulps " + A + "," + B + ",DWORD BCST " + address(m));
      e.round(true, a, b, k);
      l->say("vrndscaleps " + A + kept + "," + B + ",0x0");
      e.move(true, a, b, k);
      l->say("vmovaps " + A + kept + "," + B);
    } else {
      e.multiply(a, b, c);
      l->say("vmulps " + A + "," + B + "," + C);
      e.bit_and(a, b, m);
      l->say("vandps " + A + "," + B + ",YMMWORD PTR " + address(m));
    }
    e.load_mask(k, m);
    l->say("kmovw k" + std::to_string(k) + ",WORD PTR " + address(m));
    const Gp g = bases[random.below(13)], h = bases[random.below(13)];
    const std::string G = kGp[static_cast<int>(g)], H = kGp[static_cast<int>(h)];
    e.load(g, m);
    l->say("mov " + G + ",QWORD PTR " + address(m));
    e.address(g, m);
    l->say("lea " + G + "," + address(m));
    e.copy(g, h);
    l->say("mov " + G + "," + H);
    const std::int32_t value = displacements[random.below(14)];
    char number[32];
    std::snprintf(number, sizeof number, "0x%llx",
                  static_cast<unsigned long long>(static_cast<std::int64_t>(value)));
    e.add(g, value);
    l->say("add " + G + "," + number);
    e.decrement(g);
    l->say("dec " + G);
    e.prefetch(m);
    l->say("prefetcht0 BYTE PTR " + address(m));
    e.prefetch_second(m);
    l->say("prefetcht1 BYTE PTR " + address(m));
    e.prefetch_write(m);
    l->say("prefetchw BYTE PTR " + address(m));
    e.zero_upper();
    l->say("vzeroupper");
    e.ret();
    l->say("ret");
  }
  const std::size_t start = e.size();
  e.ret();
  l->say("ret");
  char target[64];
  e.jump_back_if_not_zero(start);
  std::snprintf(target, sizeof target, "jne 0x%zx", start);
  l->say(target);
}

// Lower case, single spaces, no comments or zero displacements: the differences between versions.
std::string normalised(const std::string& line) {
  std::string out;
  for (const char c : line.substr(0, line.find('#'))) {
    if (c == ' ' && (out.empty() || out.back() == ' ' || out.back() == ',')) continue;
    out.push_back(c);
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  for (const char* gone : {"{1to16}", "+0x0]"}) {
    const std::size_t at = out.find(gone);
    if (at != std::string::npos)
      out.replace(at, std::string(gone).size(), gone[0] == '+' ? "]" : "");
  }
  return out;
}

}  // namespace

TEST(encoder_against_disassembler) {
  Listing listing;
  all_forms(&listing);
  CHECK(!listing.encoder.overflowed());
  if (std::system("objdump --version > /dev/null 2>&1") != 0) {
    std::printf("  objdump not found: encodings not compared\n");
    return;
  }
  const std::string path =
      std::string(std::getenv("TMPDIR") != nullptr ? std::getenv("TMPDIR") : "/tmp") +
      "/onnxprune_encoder.bin";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(listing.code.data()),
             static_cast<std::streamsize>(listing.encoder.size()));
  FILE* pipe = popen(
      ("objdump -D -b binary -m i386:x86-64 -M intel --no-show-raw-insn " + path + " 2>/dev/null")
          .c_str(),
      "r");
  if (!CHECK(pipe != nullptr)) return;
  char line[512];
  std::size_t next = 0;
  while (std::fgets(line, sizeof line, pipe) != nullptr) {
    std::string text(line);
    const std::size_t colon = text.find(":\t");
    if (colon == std::string::npos) continue;
    text = text.substr(colon + 2);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    if (next >= listing.expected.size()) break;
    const std::string want = normalised(listing.expected[next]), got = normalised(text);
    CHECK_SAY(want == got, "expected '" + want + "', disassembled '" + got + "'");
    ++next;
  }
  pclose(pipe);
  std::remove(path.c_str());
  CHECK(next == listing.expected.size());
}

TEST(encoder_stops_at_the_end) {
  std::uint8_t buffer[40];
  Encoder e(buffer, 32);
  for (int i = 0; i < 100; ++i) {
    e.near_fma(Encoder::near_fma_sum(31, Gp::r9) | Encoder::near_fma_input(30));
    e.add(Gp::r9, 1 << 20);
    e.align(64);
  }
  CHECK(e.overflowed() && e.size() <= 32);
}
#endif
