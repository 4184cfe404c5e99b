#include "ep/dims.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>

namespace onnxprune::ep {

bool resolve_auto_pad(Window* window, AutoPad mode, const Dim& size) {
  if (mode == AutoPad::none) return true;
  window->pad_begin = window->pad_end = 0;
  if (mode == AutoPad::valid) return true;
  if (window->extent() < window->stride) return false;
  // ONNX Conv: output = ceil(size / stride); the odd one goes to the end for SAME_UPPER.
  int64_t total = window->extent() - 1;
  if (window->stride > 1) {
    if (!size.known()) return false;
    int64_t output = (size.value + window->stride - 1) / window->stride;
    total = std::max<int64_t>(0, (output - 1) * window->stride + window->extent() - size.value);
  }
  int64_t small = total / 2;
  window->pad_begin = mode == AutoPad::same_upper ? small : total - small;
  window->pad_end = total - window->pad_begin;
  return true;
}

bool Window::in_range(int64_t size) const {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  for (const int64_t number : {kernel, stride, dilation, pad_begin, pad_end, size})
    if (number > kMost || number < -kMost) return false;
  return true;
}

int64_t window_output(const Window& window, int64_t size) {
  int64_t room = size + window.pad_begin + window.pad_end - window.extent();
  return room < 0 ? 0 : room / window.stride + 1;
}

Dim window_output(const Window& window, const Dim& size) {
  if (size.known()) return Dim::of(window_output(window, size.value));
  if (size.symbol.empty()) return Dim{};
  // The output size is (size + spare) / stride + 1: windows that agree in these give equal sizes.
  const int64_t spare = window.pad_begin + window.pad_end - window.extent();
  if (window.stride == 1 && spare == -1) return size;
  return Dim::named("w(" + size.symbol + "," + std::to_string(spare) + "," + std::to_string(window.stride) + ")");
}

namespace {

// A symbol that window_output or resized made: "w(size,spare,stride)", "r(size,factor)", or, of a
// transposed window, "t(size,stride,offset)"; or larger: "m(size,size)".
struct Made {
  char by = 0;  // 0: a plain one
  std::string inner, other;
  double first = 0, second = 0;
};

Made made(const std::string& text) {
  Made out;
  if (text.size() < 3 || std::strchr("wrtm", text[0]) == nullptr || text[1] != '(' || text.back() != ')') return out;
  if (text[0] == 'm') {
    int depth = 0;
    for (size_t i = 2; i + 1 < text.size(); ++i) {
      depth += text[i] == '(' ? 1 : text[i] == ')' ? -1 : 0;
      if (text[i] != ',' || depth != 0) continue;
      out.by = 'm';
      out.inner = text.substr(2, i - 2);
      out.other = text.substr(i + 1, text.size() - i - 2);
      break;
    }
    return out;
  }
  const size_t last = text.rfind(',');
  const size_t end = text[0] != 'r' && last != std::string::npos && last > 0 ? text.rfind(',', last - 1) : last;
  if (end == std::string::npos || end < 2) return out;
  out.by = text[0];
  out.inner = text.substr(2, end - 2);
  out.first = std::strtod(text.c_str() + end + 1, nullptr);
  out.second = std::strtod(text.c_str() + last + 1, nullptr);
  return out;
}

// Whether it is at least 2, whatever the sizes are that it comes from (none is 0 where there is anything to do).
bool is_several(const Dim& dim) {
  if (dim.known()) return dim.value > 1;
  const Made outer = made(dim.symbol);
  if (outer.by == 'r') return outer.first >= 2;
  if (outer.by == 't') return outer.first + outer.second >= 2;
  return outer.by == 'm' && (is_several(Dim::named(outer.inner)) || is_several(Dim::named(outer.other)));
}

}  // namespace

Dim larger(const Dim& a, const Dim& b) {
  if (a == b || b == Dim::of(1) || is_several(a)) return a;
  if (a == Dim::of(1) || is_several(b)) return b;
  if (a.known()) return a;  // 0, against something open
  if (b.known()) return b;
  return a.symbol.empty() || b.symbol.empty() ? Dim{} : Dim::named("m(" + a.symbol + "," + b.symbol + ")");
}

std::string leaf_of(const std::string& symbol) {
  const Made outer = made(symbol);
  return outer.by == 0 ? symbol : leaf_of(outer.inner);
}

int64_t assume(const Dim& dim, const std::function<int64_t(const std::string&)>& leaf) {
  if (dim.known()) return std::max<int64_t>(dim.value, 0);
  const Made outer = made(dim.symbol);
  if (outer.by == 0) return leaf(dim.symbol);
  const int64_t inner = assume(Dim::named(outer.inner), leaf);
  if (outer.by == 'm') return std::max(inner, assume(Dim::named(outer.other), leaf));
  if (outer.by == 'r') return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(inner) * outer.first));
  if (outer.by == 't') return std::max<int64_t>(1, inner * static_cast<int64_t>(outer.first) + static_cast<int64_t>(outer.second));
  const int64_t room = inner + static_cast<int64_t>(outer.first);
  return room < 0 ? 1 : std::max<int64_t>(1, room / std::max<int64_t>(1, static_cast<int64_t>(outer.second)) + 1);
}

LiveTaps live_taps(const Window& window, int64_t size) {
  const int64_t last = window_output(window, size) - 1;
  LiveTaps live;
  for (int64_t tap = 0; tap < window.kernel; ++tap) {
    // It reads stride * i + at for i = 0 .. last, of which the least that is not negative decides.
    const int64_t at = tap * window.dilation - window.pad_begin;
    const int64_t from = at >= 0 ? at : at + (window.stride - 1 - at) / window.stride * window.stride;
    if (from >= size || from > at + last * window.stride) continue;
    if (live.count == 0) live.first = tap;
    live.count = tap + 1 - live.first;
  }
  return live.count == 0 ? LiveTaps{0, window.kernel} : live;
}

std::string to_string(const Shape& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? "," : "") + std::to_string(shape[i]);
  return out + "]";
}

}  // namespace onnxprune::ep
