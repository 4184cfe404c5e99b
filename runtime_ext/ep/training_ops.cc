#include "ep/training_ops.h"

#include <algorithm>
#include <limits>

#include "ep/operators.h"
#include "gradients.h"
#include "window/columns.h"
#include "window/depthwise.h"

namespace onnxprune::ep {
namespace {

using kernels::Depthwise;

constexpr int64_t kChunks = 32;  // pieces of work: enough for the threads of one session
constexpr int64_t kElements = kernels::kGapPiece;  // of a piece of pointwise work

[[noreturn]] void refuse(const std::string& what) {
  throw abi::Error("onnxprune: " + what, abi::kInvalidArgument);
}

int32_t narrow(int64_t value) {
  if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max())
    refuse("depth-wise convolution: a number out of range: " + std::to_string(value));
  return static_cast<int32_t>(value);
}

// Items 0 .. count - 1, which depend on nothing but their own number, in a few pieces.
void share(abi::KernelContext* context, int64_t count, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t chunks = std::min(count, kChunks);
  if (chunks > 0)
    parallel_for(context, static_cast<int>(chunks),
                 [&](int i) { body(count * i / chunks, count * (i + 1) / chunks); });
}

Input required(abi::KernelContext* context, size_t index) {
  Input input = run_input(context, index);
  if (input.data == nullptr && std::find(input.shape.begin(), input.shape.end(), 0) == input.shape.end())
    refuse("input " + std::to_string(index) + " is missing");
  return input;
}

// Elements of tensors of one shape, in pieces.
void share_elements(abi::KernelContext* context, const Shape& shape, const std::function<void(int64_t, int64_t)>& body) {
  int64_t count = 1;
  for (const int64_t n : shape) count *= n;
  share(context, (count + kElements - 1) / kElements,
        [&](int64_t first, int64_t last) { body(first * kElements, std::min(count, last * kElements)); });
}

void check_same(const char* name, const Input& a, const Input& b) {
  if (a.shape != b.shape) refuse(std::string(name) + ": shapes " + to_string(a.shape) + " and " + to_string(b.shape));
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
        refuse("convolution: " + std::to_string(list.size()) + " numbers where " + std::to_string(count) + " are needed");
      return narrow(list.empty() ? fallback : list[i]);
    };
    kernels::ConvGeometry g;
    g.in_channels = g.out_channels = g.groups = narrow(x[1]);
    const auto direction = [&](size_t i, int32_t* size, int32_t* stride, int32_t* dilation, int32_t* before, int32_t* after) {
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

// dx = ClipGrad(y, g): g where low < y < high, else 0.
class ClipGradKernel final : public OpKernel {
 public:
  explicit ClipGradKernel(const abi::KernelInfo* info)
      : low_(info_float(info, "low", -std::numeric_limits<float>::infinity())),
        high_(info_float(info, "high", std::numeric_limits<float>::infinity())) {}
  void compute(abi::KernelContext* context) override {
    const Input y = required(context, 0), g = required(context, 1);
    check_same("ClipGrad", y, g);
    float* const dx = run_output(context, y.shape);
    share_elements(context, y.shape, [&](int64_t begin, int64_t end) {
      kernels::clip_gradient(y.data + begin, g.data + begin, low_, high_, dx + begin, end - begin);
    });
  }

 private:
  float low_, high_;
};

// dx = SigmoidGrad(y, g): g y (1 - y).
class SigmoidGradKernel final : public OpKernel {
 public:
  explicit SigmoidGradKernel(const abi::KernelInfo*) {}
  void compute(abi::KernelContext* context) override {
    const Input y = required(context, 0), g = required(context, 1);
    check_same("SigmoidGrad", y, g);
    float* const dx = run_output(context, y.shape);
    share_elements(context, y.shape, [&](int64_t begin, int64_t end) {
      kernels::sigmoid_gradient(y.data + begin, g.data + begin, dx + begin, end - begin);
    });
  }
};

// dx = SiluGrad(x, s, g) of x s, where s is the sigmoid of x.
class SiluGradKernel final : public OpKernel {
 public:
  explicit SiluGradKernel(const abi::KernelInfo*) {}
  void compute(abi::KernelContext* context) override {
    const Input x = required(context, 0), s = required(context, 1), g = required(context, 2);
    check_same("SiluGrad", x, s);
    check_same("SiluGrad", x, g);
    float* const dx = run_output(context, x.shape);
    share_elements(context, x.shape, [&](int64_t begin, int64_t end) {
      kernels::silu_gradient(x.data + begin, s.data + begin, g.data + begin, dx + begin, end - begin);
    });
  }
};

// slope, loss = SquaredGap(a, b): loss = factor * sum (a - b)^2, slope its derivative by a.
class SquaredGapKernel final : public OpKernel {
 public:
  explicit SquaredGapKernel(const abi::KernelInfo* info) : factor_(info_float(info, "factor", 1.0f)) {}
  void compute(abi::KernelContext* context) override {
    const Input a = required(context, 0), b = required(context, 1);
    check_same("SquaredGap", a, b);
    float *const slope = run_output(context, a.shape), *const loss = run_output(context, {}, 1);
    int64_t count = 1;
    for (const int64_t n : a.shape) count *= n;
    std::vector<float> sums(static_cast<size_t>((count + kElements - 1) / kElements));
    share(context, static_cast<int64_t>(sums.size()), [&](int64_t first, int64_t last) {
      kernels::squared_gap(a.data, b.data, factor_, slope, sums.data(), count, first, last);
    });
    double total = 0;
    for (const float sum : sums) total += static_cast<double>(sum);
    *loss = static_cast<float>(total * static_cast<double>(factor_));
  }

 private:
  float factor_;
};

constexpr Operator::Port kTensor{abi::kFloat}, kTerm{abi::kFloat, abi::kOptional};

template <typename Kernel>
OpKernel* make(const abi::KernelInfo* info) {
  return new Kernel(info);
}

struct Entry {
  const char* name;
  std::array<Operator::Port, 3> inputs;
  Operator::Maker make;
  size_t outputs = 1;
};
constexpr Entry kEntries[] = {
    {"DepthwiseConv", {kTensor, kTensor, kTerm}, make<ConvKernel>},
    {"DepthwiseConvInputGrad", {kTensor, kTensor}, make<InputGradKernel>},
    {"DepthwiseConvWeightGrad", {kTensor, kTensor}, make<WeightGradKernel>},
    {"ConvColumns", {kTensor}, make<ColumnsKernel>},
    {"ClipGrad", {kTensor, kTensor}, make<ClipGradKernel>},
    {"SigmoidGrad", {kTensor, kTensor}, make<SigmoidGradKernel>},
    {"SiluGrad", {kTensor, kTensor, kTensor}, make<SiluGradKernel>},
    {"SquaredGap", {kTensor, kTensor}, make<SquaredGapKernel>, 2},
};

}  // namespace

std::vector<std::string> training_op_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) names.emplace_back(entry.name);
  return names;
}

void add_training_ops(abi::CustomOpDomain* domain) {
  for (const Entry& entry : kEntries) {
    // onnxruntime may look at it until the process ends.
    const auto* op = new Operator(entry.name, entry.inputs, abi::kFloat, entry.make, nullptr, entry.outputs);
    abi::check(abi::fn().CustomOpDomain_Add(domain, op));
  }
}

}  // namespace onnxprune::ep
