// Dimensions that may be known only as a name.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace onnxprune::ep {

// A size, or a symbol that stands for the same size wherever it occurs.
struct Dim {
  int64_t value = -1;
  std::string symbol;

  bool known() const { return value >= 0; }
  static Dim of(int64_t value) { return Dim{value, ""}; }
  static Dim named(std::string symbol) { return Dim{-1, std::move(symbol)}; }

  friend bool operator==(const Dim& a, const Dim& b) {
    if (a.known() || b.known()) return a.value == b.value;
    return !a.symbol.empty() && a.symbol == b.symbol;
  }
  friend bool operator!=(const Dim& a, const Dim& b) { return !(a == b); }
};

using Dims = std::vector<Dim>;
using Shape = std::vector<int64_t>;

// One sliding-window axis: the kernel's extent on it and how the window moves.
struct Window {
  int64_t kernel = 1, stride = 1, dilation = 1, pad_begin = 0, pad_end = 0;
  int64_t extent() const { return (kernel - 1) * dilation + 1; }
  // Whether all numbers, and the size it slides over, are so small that no arithmetic here overflows.
  bool in_range(int64_t size) const;
};

enum class AutoPad : uint8_t { none, same_upper, same_lower, valid };

// Pads that SAME_UPPER / SAME_LOWER / VALID mean for an input of `size`. False where they depend on a
// size that is open, or where onnxruntime's and ONNX's reading of them differ (window smaller than
// its stride).
bool resolve_auto_pad(Window* window, AutoPad mode, const Dim& size);
// A size for an open dimension: what `leaf` says of a plain symbol, and what follows from that for one that
// window_output, larger or resized (ep/resize.h) made.
int64_t assume(const Dim& dim, const std::function<int64_t(const std::string&)>& leaf);
// What comes of two sizes of which one may be 1 and then counts for the other: where one of them cannot be 1 it is
// that one. Otherwise a symbol for the larger of both.
Dim larger(const Dim& a, const Dim& b);
// The plain symbol in it, the first one where there are two.
std::string leaf_of(const std::string& symbol);

// Output size of `window` over `size`; 0 when it does not fit.
int64_t window_output(const Window& window, int64_t size);
// The same with an open size: the input's own symbol where the size does not change.
Dim window_output(const Window& window, const Dim& size);

// The taps of the window that read anything but padding, wherever it stands over `size`: `count` of them from
// `first` on. All of them where none does.
struct LiveTaps {
  int64_t first = 0, count = 0;
};
LiveTaps live_taps(const Window& window, int64_t size);

std::string to_string(const Shape& shape);

}  // namespace onnxprune::ep
