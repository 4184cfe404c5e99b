#include <algorithm>
#include <limits>
#include <memory>

#include "ep/training_internal.h"
#include "window/columns.h"
#include "window/dense.h"
#include "window/dense_tiles.h"
#include "window/depthwise.h"

namespace onnxprune::ep {
namespace {

using kernels::Dense;
using kernels::DenseTiles;
using kernels::Depthwise;
using Floats = std::unique_ptr<float[]>;

constexpr int64_t kSlopePieces = 4;  // of the input channels: each reads all of the output's derivative

int32_t narrow(int64_t value) {
  if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max())
    refuse("convolution: a number out of range: " + std::to_string(value));
  return static_cast<int32_t>(value);
}

// Strides, dilations and pads of a node, in the standard's words; one or two directions.
class WindowKernel : public OpKernel {
 public:
  explicit WindowKernel(const abi::KernelInfo* info)
      : strides_(info_ints(info, "strides")),
        dilations_(info_ints(info, "dilations")),
        pads_(info_ints(info, "pads")) {}

 protected:
  // For tensors [N, C, ...pixels] and a kernel.
  kernels::ConvGeometry geometry(const Shape& x, const Shape& kernel) const {
    const size_t rank = kernel.size();
    if (rank < 1 || rank > 2 || x.size() != rank + 2)
      refuse("convolution of " + to_string(x) + " with a kernel of " + to_string(kernel));
    const auto number = [&](const Shape& list, size_t count, size_t i, int64_t fallback) {
      if (!list.empty() && list.size() != count)
        refuse("convolution: " + std::to_string(list.size()) + " numbers where " + std::to_string(count) +
               " are needed");
      return narrow(list.empty() ? fallback : list[i]);
    };
    kernels::ConvGeometry g;
    g.in_channels = g.out_channels = g.groups = narrow(x[1]);
    const auto direction = [&](size_t i, int32_t* size, int32_t* stride, int32_t* dilation, int32_t* before,
                               int32_t* after) {
      *size = narrow(kernel[i]);
      *stride = number(strides_, rank, i, 1);
      *dilation = number(dilations_, rank, i, 1);
      *before = number(pads_, 2 * rank, i, 0);
      *after = number(pads_, 2 * rank, rank + i, 0);
    };
    if (rank == 2) direction(0, &g.kernel_h, &g.stride_h, &g.dilation_h, &g.pad_top, &g.pad_bottom);
    direction(rank - 1, &g.kernel_w, &g.stride_w, &g.dilation_w, &g.pad_left, &g.pad_right);
    return g;
  }
  static int64_t height(const Shape& x) { return x.size() == 4 ? x[2] : 1; }

 private:
  Shape strides_, dilations_, pads_;
};

class DepthwiseKernel : public WindowKernel {
 public:
  using WindowKernel::WindowKernel;

 protected:
  // For tensors [N, C, ...pixels] and kernels [C, 1, ...kernel].
  Depthwise depthwise(const Shape& x, const Shape& w) const {
    if (x.size() < 3 || w.size() < 3 || w[0] != x[1] || w[1] != 1)
      refuse("depth-wise convolution of " + to_string(x) + " with a kernel of " + to_string(w));
    const kernels::ConvGeometry g = geometry(x, Shape(w.begin() + 2, w.end()));
    const kernels::Status status = Depthwise::check(g, x[0], height(x), x.back());
    if (!status.ok()) refuse(status.message);
    return Depthwise(g, x[0], height(x), x.back());
  }

  static Shape output_shape(const Depthwise& d, Shape x) {
    x.back() = d.out_width();
    if (x.size() == 4) x[2] = d.out_height();
    return x;
  }
  static void check_derivative(const Depthwise& d, const Shape& x, const Shape& g) {
    if (output_shape(d, x) != g)
      refuse("depth-wise convolution of " + to_string(x) + ": a derivative of shape " + to_string(g) + " instead of " +
             to_string(output_shape(d, x)));
  }
};

// y = DepthwiseConv(x, w, b?)
class ConvKernel final : public DepthwiseKernel {
 public:
  using DepthwiseKernel::DepthwiseKernel;
  void compute(abi::KernelContext* context) override {
    const Input x = required(context, 0), w = required(context, 1), b = run_input(context, 2);
    const Depthwise d = depthwise(x.shape, w.shape);
    if (b.data != nullptr && b.shape != Shape{d.channels()})
      refuse("depth-wise convolution: a bias of shape " + to_string(b.shape));
    float* const y = run_output(context, output_shape(d, x.shape));
    share(context, d.planes(), [&](int64_t first, int64_t last) { d.run(x.data, w.data, b.data, y, first, last); });
  }
};

// dx = DepthwiseConvInputGrad(g, w); attribute `size`: rows and columns of x.
class InputGradKernel final : public DepthwiseKernel {
 public:
  explicit InputGradKernel(const abi::KernelInfo* info) : DepthwiseKernel(info), size_(info_ints(info, "size")) {}
  void compute(abi::KernelContext* context) override {
    const Input g = required(context, 0), w = required(context, 1);
    if (g.shape.size() != size_.size() + 2)
      refuse("depth-wise convolution: a derivative of shape " + to_string(g.shape));
    Shape x{g.shape[0], g.shape[1]};
    x.insert(x.end(), size_.begin(), size_.end());
    const Depthwise d = depthwise(x, w.shape);
    check_derivative(d, x, g.shape);
    float* const dx = run_output(context, x);
    share(context, d.planes(),
          [&](int64_t first, int64_t last) { d.input_gradient(g.data, w.data, dx, first, last); });
  }

 private:
  Shape size_;
};

// dw = DepthwiseConvWeightGrad(x, g); attribute `kernel_shape`.
class WeightGradKernel final : public DepthwiseKernel {
 public:
  explicit WeightGradKernel(const abi::KernelInfo* info)
      : DepthwiseKernel(info), kernel_(info_ints(info, "kernel_shape")) {}
  void compute(abi::KernelContext* context) override {
    const Input x = required(context, 0), g = required(context, 1);
    if (x.shape.size() < 2) refuse("depth-wise convolution: of " + to_string(x.shape));
    Shape w{x.shape[1], 1};
    w.insert(w.end(), kernel_.begin(), kernel_.end());
    const Depthwise d = depthwise(x.shape, w);
    check_derivative(d, x.shape, g.shape);
    float* const dw = run_output(context, w);
    share(context, d.channels(),
          [&](int64_t first, int64_t last) { d.weight_gradient(x.data, g.data, dw, first, last); });
  }

 private:
  Shape kernel_;
};

class DenseKernel : public WindowKernel {
 public:
  using WindowKernel::WindowKernel;

 protected:
  // For tensors [N, C, ...pixels] and weights [M, C, ...kernel].
  kernels::ConvGeometry dense(const Shape& x, const Shape& w) const {
    if (x.size() < 3 || w.size() < 3 || w[1] != x[1])
      refuse("dense convolution of " + to_string(x) + " with a kernel of " + to_string(w));
    kernels::ConvGeometry g = geometry(x, Shape(w.begin() + 2, w.end()));
    g.groups = 1;
    g.out_channels = narrow(w[0]);
    return g;
  }
  static Dense checked(const kernels::ConvGeometry& g, const Shape& x) {
    const kernels::Status status = Dense::check(g, x[0], height(x), x.back());
    if (!status.ok()) refuse(status.message);
    return Dense(g, x[0], height(x), x.back());
  }
  static Shape output_shape(const Dense& d, Shape x, int64_t channels) {
    x[1] = channels;
    x.back() = d.out_width();
    if (x.size() == 4) x[2] = d.out_height();
    return x;
  }
  static void check_derivative(const Shape& x, const Shape& g, const Shape& y) {
    if (y != g)
      refuse("dense convolution of " + to_string(x) + ": a derivative of shape " + to_string(g) + " instead of " +
             to_string(y));
  }
  // What passed `checked`, by whichever way is faster.
  static void run(abi::KernelContext* context, const kernels::ConvGeometry& g, const Shape& shape, const float* x,
                  const float* w, bool turned, const float* bias, float* y) {
    if (DenseTiles::fits(g, height(shape), shape.back()))
      run(context, DenseTiles(g, shape[0], height(shape), shape.back()), x, w, turned, bias, y);
    else
      run(context, Dense(g, shape[0], height(shape), shape.back()), x, w, turned, bias, y);
  }
  template <class Way>
  static void run(abi::KernelContext* context, const Way& d, const float* x, const float* w, bool turned,
                  const float* bias, float* y) {
    const Floats packed(new float[static_cast<size_t>(d.packed_floats())]);
    share(context, d.blocks(), [&](int64_t first, int64_t last) { d.pack(w, turned, packed.get(), first, last); });
    share(context, d.bands(),
          [&](int64_t first, int64_t last) { d.run(x, packed.get(), bias, y, first, last); });
  }
};

// y = DenseConv(x, w, b?)
class DenseConvKernel final : public DenseKernel {
 public:
  using DenseKernel::DenseKernel;
  void compute(abi::KernelContext* context) override {
    const Input x = required(context, 0), w = required(context, 1), b = run_input(context, 2);
    const kernels::ConvGeometry g = dense(x.shape, w.shape);
    const Shape y = output_shape(checked(g, x.shape), x.shape, w.shape[0]);
    if (b.data != nullptr && b.shape != Shape{w.shape[0]})
      refuse("dense convolution: a bias of shape " + to_string(b.shape));
    run(context, g, x.shape, x.data, w.data, false, b.data, run_output(context, y));
  }
};

// dx = DenseConvInputGrad(g, w), for strides of 1; attribute `size`: rows and columns of x.
class DenseInputGradKernel final : public DenseKernel {
 public:
  explicit DenseInputGradKernel(const abi::KernelInfo* info) : DenseKernel(info), size_(info_ints(info, "size")) {}
  void compute(abi::KernelContext* context) override {
    const Input g = required(context, 0), w = required(context, 1);
    if (g.shape.size() != size_.size() + 2 || w.shape.size() != g.shape.size())
      refuse("dense convolution: a derivative of shape " + to_string(g.shape));
    Shape x{g.shape[0], w.shape[1]};
    x.insert(x.end(), size_.begin(), size_.end());
    const kernels::ConvGeometry forward = dense(x, w.shape);
    const Dense d = checked(forward, x);
    check_derivative(x, g.shape, output_shape(d, x, w.shape[0]));
    if (!Dense::turns(forward)) refuse("dense convolution: an input derivative for strides or too much padding");
    const kernels::ConvGeometry back = Dense::turned(forward, d);
    checked(back, g.shape);
    run(context, back, g.shape, g.data, w.data, true, nullptr, run_output(context, x));
  }

 private:
  Shape size_;
};

// dw = DenseConvWeightGrad(x, g); attribute `kernel_shape`.
class DenseWeightGradKernel final : public DenseKernel {
 public:
  explicit DenseWeightGradKernel(const abi::KernelInfo* info)
      : DenseKernel(info), kernel_(info_ints(info, "kernel_shape")) {}
  void compute(abi::KernelContext* context) override {
    const Input x = required(context, 0), g = required(context, 1);
    if (x.shape.size() < 2 || g.shape.size() < 2) refuse("dense convolution: of " + to_string(x.shape));
    Shape w{g.shape[1], x.shape[1]};
    w.insert(w.end(), kernel_.begin(), kernel_.end());
    const kernels::ConvGeometry forward = dense(x.shape, w);
    const Dense d = checked(forward, x.shape);
    check_derivative(x.shape, g.shape, output_shape(d, x.shape, w[0]));
    float* const dw = run_output(context, w);
    const int64_t images = x.shape[0], pixels = d.out_height() * d.out_width();
    const Floats turned(new float[static_cast<size_t>(images * pixels * d.lines())]);
    share(context, images, [&](int64_t first, int64_t last) { d.turn_out(g.data, turned.get(), first, last); });
    if (DenseTiles::fits(forward, height(x.shape), x.shape.back())) {
      const DenseTiles tiles(forward, images, height(x.shape), x.shape.back());
      if (tiles.slopes_fit()) return by_tiles(context, tiles, x, turned.get(), dw);
    }
    const int64_t channels = x.shape[1], pieces = std::min(channels, kSlopePieces);
    share(context, pieces, [&](int64_t first, int64_t last) {
      d.weight_gradient(x.data, turned.get(), dw, channels * first / pieces, channels * last / pieces);
    });
  }

 private:
  static void by_tiles(abi::KernelContext* context, const DenseTiles& d, const Input& x, const float* g, float* dw) {
    const Floats sums(new float[static_cast<size_t>(d.pieces() * d.slope_floats())]);
    share(context, d.pieces(), [&](int64_t first, int64_t last) { d.slopes(x.data, g, sums.get(), first, last); });
    share(context, x.shape[1], [&](int64_t first, int64_t last) { d.weight_gradient(sums.get(), dw, first, last); });
  }

  Shape kernel_;
};

// matrix = ConvColumns(x), [C * kernel, N * outputs]; attribute `kernel_shape`.
class ColumnsKernel final : public WindowKernel {
 public:
  explicit ColumnsKernel(const abi::KernelInfo* info) : WindowKernel(info), kernel_(info_ints(info, "kernel_shape")) {}
  void compute(abi::KernelContext* context) override {
    const Input x = required(context, 0);
    const kernels::ConvGeometry g = geometry(x.shape, kernel_);
    const int64_t images = x.shape[0], rows = height(x.shape), columns = x.shape.back();
    const kernels::Status status = kernels::check_window(g, images, rows, columns);
    if (!status.ok()) refuse(status.message);
    const int64_t lines = int64_t{g.in_channels} * g.taps();
    const int64_t pixels = kernels::rows_of(g, rows).out * kernels::columns_of(g, columns).out;
    float* const matrix = run_output(context, {lines, images * pixels});
    share(context, lines, [&](int64_t first, int64_t last) {
      kernels::window_columns(g, images, rows, columns, x.data, matrix, first, last);
    });
  }

 private:
  Shape kernel_;
};

}  // namespace

std::vector<TrainingOp> window_ops() {
  return {
      {"DepthwiseConv", {kTensor, kTensor, kTerm}, make<ConvKernel>},
      {"DepthwiseConvInputGrad", {kTensor, kTensor}, make<InputGradKernel>},
      {"DepthwiseConvWeightGrad", {kTensor, kTensor}, make<WeightGradKernel>},
      {"DenseConv", {kTensor, kTensor, kTerm}, make<DenseConvKernel>},
      {"DenseConvInputGrad", {kTensor, kTensor}, make<DenseInputGradKernel>},
      {"DenseConvWeightGrad", {kTensor, kTensor}, make<DenseWeightGradKernel>},
      {"ConvColumns", {kTensor}, make<ColumnsKernel>},
  };
}

}  // namespace onnxprune::ep
