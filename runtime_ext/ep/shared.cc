#include "ep/shared.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <random>

namespace onnxprune::ep {
namespace {

// VHASH (Dai and Krovetz, "VHASH Security", 2007) without its last step, which would shorten the result:
// NH, a sum of products of sums with the key, makes 128 bits of every block; a polynomial modulo 2^127 - 1
// joins the blocks. Twice, with other keys, as one NH of 64-bit words leaves a chance of 2^-64.
using Wide = unsigned __int128;

constexpr size_t kWords = 128;  // of a block
constexpr Wide kPrime = (Wide{1} << 127) - 1;

struct Key {
  uint64_t sums[kWords + 2];  // the second NH has the key of the first, two words on
  Wide points[2];             // of the polynomials
  Key() {
    std::random_device source;
    auto word = [&] { return uint64_t{source()} << 32 | source(); };
    for (uint64_t& k : sums) k = word();
    for (Wide& p : points) p = (Wide{word()} << 64 | word()) >> 2;
  }
};

const Key& key() {
  static const Key held;
  return held;
}

Wide folded(Wide x) { return (x & kPrime) + (x >> 127); }

// (a * b + c) mod 2^127 - 1, up to one multiple; a <= 2^127, b < 2^126.
Wide step(Wide a, Wide b, Wide c) {
  const uint64_t a0 = static_cast<uint64_t>(a), a1 = static_cast<uint64_t>(a >> 64), b0 = static_cast<uint64_t>(b),
                 b1 = static_cast<uint64_t>(b >> 64);
  const Wide low = Wide{a0} * b0, high = Wide{a1} * b1;
  const Wide middle = Wide{a1} * b0 + Wide{a0} * b1;
  // 2^128 is 2, and 2^127 is 1.
  Wide sum = folded(low) + folded(2 * high);
  sum = folded(sum) + folded(((middle & ((Wide{1} << 63) - 1)) << 64) + (middle >> 63));
  return folded(folded(sum) + folded(c));
}

}  // namespace

void Hasher::block(const unsigned char* data) {
  const Key& k = key();
  Wide a = 0, b = 0;
  for (size_t i = 0; i < kWords; i += 2) {
    uint64_t x, y;
    std::memcpy(&x, data + 8 * i, 8);
    std::memcpy(&y, data + 8 * i + 8, 8);
    a += Wide{x + k.sums[i]} * (y + k.sums[i + 1]);
    b += Wide{x + k.sums[i + 2]} * (y + k.sums[i + 3]);
  }
  state_[0] = step(state_[0], k.points[0], a);
  state_[1] = step(state_[1], k.points[1], b);
}

void Hasher::append(const void* data, size_t size) {
  const auto* from = static_cast<const unsigned char*>(data);
  size_ += size;
  while (size > 0) {
    if (waiting_ == 0 && size >= kBlock) {
      block(from);
      from += kBlock;
      size -= kBlock;
      continue;
    }
    const size_t part = std::min(size, kBlock - waiting_);
    std::memcpy(buffer_ + waiting_, from, part);
    waiting_ += part;
    from += part;
    size -= part;
    if (waiting_ < kBlock) continue;
    block(buffer_);
    waiting_ = 0;
  }
}

Hasher& Hasher::bytes(const void* data, size_t size) {
  const uint64_t count = size;
  append(&count, sizeof count);
  append(data, size);
  return *this;
}

Digest Hasher::digest() const {
  Hasher last = *this;
  std::memset(last.buffer_ + last.waiting_, 0, kBlock - last.waiting_);
  last.block(last.buffer_);
  Digest out;
  for (size_t i = 0; i < 2; ++i) {
    Wide sum = step(last.state_[i], key().points[i], size_);
    if (sum >= kPrime) sum -= kPrime;
    out.words[2 * i] = static_cast<uint64_t>(sum);
    out.words[2 * i + 1] = static_cast<uint64_t>(sum >> 64);
  }
  return out;
}

void Lately::use(std::shared_ptr<const void> thing, size_t bytes) {
  if (!thing || bytes > most_) return;
  std::list<Entry> gone;  // taken apart once others may go on
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto known = places_.find(thing.get());
  if (known != places_.end()) {
    order_.splice(order_.begin(), order_, known->second);
    return;
  }
  const void* place = thing.get();
  order_.push_front({std::move(thing), bytes});
  places_[place] = order_.begin();
  held_ += bytes;
  while (held_ > most_) {
    const auto last = std::prev(order_.end());
    held_ -= last->bytes;
    places_.erase(last->thing.get());
    gone.splice(gone.begin(), order_, last);
  }
}

size_t Lately::bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return held_;
}

Lately& lately() {
  static Lately held([] {
    constexpr size_t kMegabyte = size_t{1} << 20, kUsual = 128, kMost = size_t{1} << 24;
    const char* wish = std::getenv("ONNXPRUNE_IDLE_MB");
    char* end = nullptr;
    const unsigned long long megabytes = wish != nullptr ? std::strtoull(wish, &end, 10) : 0;
    const bool number = wish != nullptr && end != wish && *end == '\0' && *wish != '-';
    return (number ? std::min(static_cast<size_t>(megabytes), kMost) : kUsual) * kMegabyte;
  }());
  return held;
}

}  // namespace onnxprune::ep
