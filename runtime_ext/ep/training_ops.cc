#include "ep/training_ops.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "ep/training_internal.h"
#include "gradients.h"

namespace onnxprune::ep {
namespace {

constexpr int64_t kChunks = 32;  // pieces of work: enough for the threads of one session
constexpr int64_t kElements = kernels::kGapPiece;  // of a piece of pointwise work

// Elements of tensors of one shape, in pieces.
void share_elements(abi::KernelContext* context, const Shape& shape,
                    const std::function<void(int64_t, int64_t)>& body) {
  int64_t count = 1;
  for (const int64_t n : shape) count *= n;
  share(context, (count + kElements - 1) / kElements,
        [&](int64_t first, int64_t last) { body(first * kElements, std::min(count, last * kElements)); });
}

void check_same(const char* name, const Input& a, const Input& b) {
  if (a.shape != b.shape) refuse(std::string(name) + ": shapes " + to_string(a.shape) + " and " + to_string(b.shape));
}

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

constexpr TrainingOp kPointwise[] = {
    {"ClipGrad", {kTensor, kTensor}, make<ClipGradKernel>},
    {"SigmoidGrad", {kTensor, kTensor}, make<SigmoidGradKernel>},
    {"SiluGrad", {kTensor, kTensor, kTensor}, make<SiluGradKernel>},
    {"SquaredGap", {kTensor, kTensor}, make<SquaredGapKernel>, 2},
};

std::vector<TrainingOp> all_ops() {
  std::vector<TrainingOp> ops = window_ops();
  ops.insert(ops.end(), std::begin(kPointwise), std::end(kPointwise));
  return ops;
}

}  // namespace

void refuse(const std::string& what) { throw abi::Error("onnxprune: " + what, abi::kInvalidArgument); }

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

std::vector<std::string> training_op_names() {
  std::vector<std::string> names;
  for (const TrainingOp& op : all_ops()) names.emplace_back(op.name);
  return names;
}

void add_training_ops(abi::CustomOpDomain* domain) {
  for (const TrainingOp& op : all_ops()) {
    // onnxruntime may look at it until the process ends.
    const auto* made = new Operator(op.name, op.inputs, abi::kFloat, op.make, nullptr, op.outputs);
    abi::check(abi::fn().CustomOpDomain_Add(domain, made));
  }
}

}  // namespace onnxprune::ep
