#include "ep/dims.h"

#include <algorithm>
#include <cstdlib>
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

int64_t assume(const Dim& dim, int64_t leaf) {
  if (dim.known()) return std::max<int64_t>(dim.value, 0);
  const std::string& text = dim.symbol;
  if (text.rfind("r(", 0) == 0 && text.back() == ')') {  // r(size,factor)
    const size_t comma = text.rfind(',');
    const double inner = static_cast<double>(assume(Dim::named(text.substr(2, comma - 2)), leaf));
    return std::max<int64_t>(1, static_cast<int64_t>(inner * std::strtod(text.c_str() + comma + 1, nullptr)));
  }
  if (text.rfind("w(", 0) != 0 || text.back() != ')') return leaf;
  const size_t second = text.rfind(','), first = second == 0 ? std::string::npos : text.rfind(',', second - 1);
  if (second == std::string::npos || first == std::string::npos) return leaf;
  const int64_t inner = assume(Dim::named(text.substr(2, first - 2)), leaf);
  const int64_t spare = std::strtoll(text.c_str() + first + 1, nullptr, 10);
  const int64_t stride = std::max<int64_t>(1, std::strtoll(text.c_str() + second + 1, nullptr, 10));
  return std::max<int64_t>(1, inner + spare < 0 ? 1 : (inner + spare) / stride + 1);
}

std::string to_string(const Shape& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? "," : "") + std::to_string(shape[i]);
  return out + "]";
}

}  // namespace onnxprune::ep
