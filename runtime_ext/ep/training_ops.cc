#include "ep/training_ops.h"

#include <algorithm>
#include <limits>

#include "ep/operators.h"
#include "window/depthwise.h"

namespace onnxprune::ep {
namespace {

using kernels::Depthwise;

constexpr int64_t kChunks = 32;          // pieces of work: enough for the threads of one session
constexpr int64_t kElements = 16 << 10;  // of a piece of pointwise work

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

// Strides, dilations and pads of a node, in the standard's words; one or two directions.
class DepthwiseKernel : public OpKernel {
 public:
  explicit DepthwiseKernel(const abi::KernelInfo* info)
      : strides_(info_ints(info, "strides")),
        dilations_(info_ints(info, "dilations")),
        pads_(info_ints(info, "pads")) {}

 protected:
  // For tensors [N, C, ...pixels] and kernels [C, 1, ...kernel].
  Depthwise depthwise(const Shape& x, const Shape& w) const {
    const size_t rank = x.size() - 2;
    if (x.size() < 3 || rank > 2 || w.size() != x.size() || w[0] != x[1] || w[1] != 1)
      refuse("depth-wise convolution: of " + to_string(x) + " with a kernel of " + to_string(w));
    const auto number = [&](const Shape& list, size_t count, size_t i, int64_t fallback) {
      if (!list.empty() && list.size() != count)
        refuse("depth-wise convolution: " + std::to_string(list.size()) + " numbers where " + std::to_string(count) +
               " are needed");
      return narrow(list.empty() ? fallback : list[i]);
    };
    kernels::ConvGeometry g;
    g.in_channels = g.out_channels = g.groups = narrow(x[1]);
    const auto direction = [&](size_t i, int32_t* kernel, int32_t* stride, int32_t* dilation, int32_t* before,
                               int32_t* after) {
      *kernel = narrow(w[2 + i]);
      *stride = number(strides_, rank, i, 1);
      *dilation = number(dilations_, rank, i, 1);
      *before = number(pads_, 2 * rank, i, 0);
      *after = number(pads_, 2 * rank, rank + i, 0);
    };
    if (rank == 2) direction(0, &g.kernel_h, &g.stride_h, &g.dilation_h, &g.pad_top, &g.pad_bottom);
    direction(rank - 1, &g.kernel_w, &g.stride_w, &g.dilation_w, &g.pad_left, &g.pad_right);
    const int64_t height = rank == 2 ? x[2] : 1, width = x.back();
    const kernels::Status status = Depthwise::check(g, x[0], height, width);
    if (!status.ok()) refuse(status.message);
    return Depthwise(g, x[0], height, width);
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

 private:
  Shape strides_, dilations_, pads_;
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

// dx = ClipGrad(y, g): g where low < y < high, else 0.
class ClipGradKernel final : public OpKernel {
 public:
  explicit ClipGradKernel(const abi::KernelInfo* info)
      : low_(info_float(info, "low", -std::numeric_limits<float>::infinity())),
        high_(info_float(info, "high", std::numeric_limits<float>::infinity())) {}
  void compute(abi::KernelContext* context) override {
    const Input y = required(context, 0), g = required(context, 1);
    if (y.shape != g.shape) refuse("ClipGrad: shapes " + to_string(y.shape) + " and " + to_string(g.shape));
    int64_t count = 1;
    for (const int64_t n : y.shape) count *= n;
    float* const dx = run_output(context, y.shape);
    share(context, (count + kElements - 1) / kElements, [&](int64_t first, int64_t last) {
      const int64_t begin = first * kElements, end = std::min(count, last * kElements);
      kernels::clip_gradient(y.data + begin, g.data + begin, low_, high_, dx + begin, end - begin);
    });
  }

 private:
  float low_, high_;
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
};
constexpr Entry kEntries[] = {
    {"DepthwiseConv", {kTensor, kTensor, kTerm}, make<ConvKernel>},
    {"DepthwiseConvInputGrad", {kTensor, kTensor}, make<InputGradKernel>},
    {"DepthwiseConvWeightGrad", {kTensor, kTensor}, make<WeightGradKernel>},
    {"ClipGrad", {kTensor, kTensor}, make<ClipGradKernel>},
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
    const auto* op = new Operator(entry.name, entry.inputs, abi::kFloat, entry.make);
    abi::check(abi::fn().CustomOpDomain_Add(domain, op));
  }
}

}  // namespace onnxprune::ep
