#include "ep/reference.h"

#include <algorithm>
#include <stdexcept>

namespace onnxprune::ep {
namespace {

[[noreturn]] void misfit(const std::string& what) { throw std::invalid_argument("onnxprune: " + what); }

int64_t product(const Shape& shape, size_t first, size_t last) {
  int64_t n = 1;
  for (size_t i = first; i < last; ++i) n *= shape[i];
  return n;
}

// Moves `index` to the next element of `shape` in row-major order; false after the last.
bool advance(Shape* index, const Shape& shape) {
  for (size_t i = shape.size(); i-- > 0;) {
    if (++(*index)[i] < shape[i]) return true;
    (*index)[i] = 0;
  }
  return false;
}

// Shape of two operands broadcast against each other.
Shape broadcast(const Shape& a, const Shape& b) {
  Shape out(std::max(a.size(), b.size()), 1);
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t back = out.size() - i;  // counted from the end
    const int64_t x = back <= a.size() ? a[a.size() - back] : 1, y = back <= b.size() ? b[b.size() - back] : 1;
    if (x != y && x != 1 && y != 1) misfit("shapes " + to_string(a) + " and " + to_string(b) + " do not broadcast");
    out[i] = x == 1 ? y : x;
  }
  return out;
}

// Position in a tensor of shape `own`, aligned at the end with `index`.
int64_t broadcast_position(const Shape& own, const Shape& index) {
  int64_t position = 0;
  for (size_t i = 0; i < own.size(); ++i)
    position = position * own[i] + (own[i] == 1 ? 0 : index[index.size() - own.size() + i]);
  return position;
}

}  // namespace

void check_conv(ConvAttributes* a, const Shape& weight) {
  if (weight.size() < 3) misfit("a convolution weight needs at least 3 axes, not shape " + to_string(weight));
  const size_t axes = weight.size() - 2;
  const Shape kernel(weight.begin() + 2, weight.end());
  if (a->kernel.empty()) a->kernel = kernel;
  if (a->strides.empty()) a->strides.assign(axes, 1);
  if (a->dilations.empty()) a->dilations.assign(axes, 1);
  if (a->pads.empty()) a->pads.assign(2 * axes, 0);
  if (a->kernel != kernel || a->strides.size() != axes || a->dilations.size() != axes || a->pads.size() != 2 * axes)
    misfit("convolution attributes do not fit a weight of shape " + to_string(weight));
  for (const Shape* list : {&a->kernel, &a->strides, &a->dilations})
    for (int64_t v : *list)
      if (v < 1 || v > (1 << 20)) misfit("convolution: kernel, stride and dilation must be 1 .. 2^20");
  for (int64_t v : a->pads)
    if (v < 0 || v > (1 << 20)) misfit("convolution: pads must be 0 .. 2^20");
  if (a->groups < 1 || weight[0] % a->groups != 0) misfit("convolution: groups do not divide the outputs");
  if (a->auto_pad != "NOTSET" && a->auto_pad != "SAME_UPPER" && a->auto_pad != "SAME_LOWER" && a->auto_pad != "VALID")
    misfit("convolution: unknown auto_pad '" + a->auto_pad + "'");
}

std::vector<Window> conv_windows(const ConvAttributes& a, const Shape& weight, const Shape& input) {
  if (input.size() != weight.size() || input[1] != weight[1] * a.groups)
    misfit("an input of shape " + to_string(input) + " does not fit a convolution weight of shape " + to_string(weight) +
           " in " + std::to_string(a.groups) + " groups");
  std::vector<Window> out;
  const size_t axes = weight.size() - 2;
  for (size_t i = 0; i < axes; ++i) {
    Window w{a.kernel[i], a.strides[i], a.dilations[i], a.pads[i], a.pads[axes + i]};
    const AutoPad mode = a.auto_pad == "SAME_UPPER"   ? AutoPad::same_upper
                         : a.auto_pad == "SAME_LOWER" ? AutoPad::same_lower
                         : a.auto_pad == "VALID"      ? AutoPad::valid
                                                      : AutoPad::none;
    if (!resolve_auto_pad(&w, mode, Dim::of(input[i + 2])))
      misfit("automatic padding of a window smaller than its stride");
    if (window_output(w, input[i + 2]) < 1) misfit("the window does not fit into an input of shape " + to_string(input));
    out.push_back(w);
  }
  return out;
}

Shape conv_output_shape(const std::vector<Window>& windows, const Shape& weight, const Shape& input) {
  Shape out{input[0], weight[0]};
  for (size_t i = 0; i < windows.size(); ++i) out.push_back(window_output(windows[i], input[i + 2]));
  return out;
}

void reference_conv(const std::vector<Window>& windows, int64_t groups, const float* x, const Shape& x_shape,
                    const float* w, const Shape& w_shape, float* y, const Shape& y_shape) {
  const size_t axes = windows.size();
  const Shape out_space(y_shape.begin() + 2, y_shape.end()), kernel(w_shape.begin() + 2, w_shape.end());
  const int64_t pixels = product(x_shape, 2, x_shape.size()), taps = product(w_shape, 2, w_shape.size());
  const int64_t per_group = w_shape[1], outputs = w_shape[0];
  if (product(y_shape, 0, y_shape.size()) == 0) return;
  for (int64_t n = 0; n < y_shape[0]; ++n) {
    for (int64_t o = 0; o < outputs; ++o) {
      const int64_t group = o / (outputs / groups);
      Shape at(axes, 0);
      do {
        double sum = 0;
        Shape tap(axes, 0);
        int64_t t = 0;
        do {
          int64_t offset = 0;
          bool inside = true;
          for (size_t i = 0; i < axes; ++i) {
            const int64_t p = at[i] * windows[i].stride - windows[i].pad_begin + tap[i] * windows[i].dilation;
            inside = inside && p >= 0 && p < x_shape[i + 2];
            offset = offset * x_shape[i + 2] + p;
          }
          if (inside) {
            for (int64_t c = 0; c < per_group; ++c)
              sum += static_cast<double>(w[(o * per_group + c) * taps + t]) *
                     x[(n * x_shape[1] + group * per_group + c) * pixels + offset];
          }
          ++t;
        } while (advance(&tap, kernel));
        *y++ = static_cast<float>(sum);
      } while (advance(&at, out_space));
    }
  }
}

Shape matmul_output_shape(const Shape& a, const Shape& b) {
  if (a.empty() || b.empty()) misfit("a matrix product of a scalar");
  const int64_t inner_a = a.back(), inner_b = b.size() == 1 ? b[0] : b[b.size() - 2];
  if (inner_a != inner_b) misfit("shapes " + to_string(a) + " and " + to_string(b) + " do not multiply");
  Shape out = broadcast(Shape(a.begin(), a.end() - std::min<std::ptrdiff_t>(2, static_cast<std::ptrdiff_t>(a.size()))),
                        Shape(b.begin(), b.end() - std::min<std::ptrdiff_t>(2, static_cast<std::ptrdiff_t>(b.size()))));
  if (a.size() > 1) out.push_back(a[a.size() - 2]);
  if (b.size() > 1) out.push_back(b.back());
  return out;
}

void reference_matmul(const float* a, const Shape& a_shape, const float* b, const Shape& b_shape, float* y) {
  // Ranks of 1 become matrices of one row or column.
  Shape a2 = a_shape, b2 = b_shape;
  if (a2.size() == 1) a2.insert(a2.begin(), 1);
  if (b2.size() == 1) b2.push_back(1);
  const int64_t m = a2[a2.size() - 2], k = a2.back(), n = b2.back();
  const Shape batch_a(a2.begin(), a2.end() - 2), batch_b(b2.begin(), b2.end() - 2);
  const Shape batch = broadcast(batch_a, batch_b);
  if (product(batch, 0, batch.size()) == 0) return;
  Shape at(batch.size(), 0);
  do {
    const float* x = a + broadcast_position(batch_a, at) * m * k;
    const float* w = b + broadcast_position(batch_b, at) * k * n;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t q = 0; q < k; ++q) sum += static_cast<double>(x[i * k + q]) * w[q * n + j];
        *y++ = static_cast<float>(sum);
      }
    }
  } while (advance(&at, batch));
}

void reference_gemm(const float* a, const Shape& a_shape, bool transpose_a, const float* b, const Shape& b_shape,
                    bool transpose_b, float alpha, float* y) {
  const int64_t m = a_shape[transpose_a ? 1 : 0], k = a_shape[transpose_a ? 0 : 1];
  const int64_t n = b_shape[transpose_b ? 0 : 1];
  if (k != b_shape[transpose_b ? 1 : 0])
    misfit("shapes " + to_string(a_shape) + " and " + to_string(b_shape) + " do not multiply");
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t q = 0; q < k; ++q)
        sum += static_cast<double>(a[transpose_a ? q * m + i : i * k + q]) * b[transpose_b ? j * k + q : q * n + j];
      *y++ = static_cast<float>(alpha * sum);
    }
  }
}

void add_broadcast(float* y, const Shape& shape, const float* term, const Shape& term_shape, float factor) {
  if (broadcast(shape, term_shape) != shape)
    misfit("a term of shape " + to_string(term_shape) + " does not fit a result of shape " + to_string(shape));
  if (product(shape, 0, shape.size()) == 0) return;
  Shape at(shape.size(), 0);
  do {
    *y++ += factor * term[broadcast_position(term_shape, at)];
  } while (advance(&at, shape));
}

}  // namespace onnxprune::ep
