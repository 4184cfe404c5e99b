// What the operators for training have in common.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "ep/operators.h"

namespace onnxprune::ep {

[[noreturn]] void refuse(const std::string& what);
// An input that must be there.
Input required(abi::KernelContext* context, size_t index);
// Items 0 .. count - 1, which depend on nothing but their own number, in a few pieces.
void share(abi::KernelContext* context, int64_t count, const std::function<void(int64_t, int64_t)>& body);

constexpr Operator::Port kTensor{abi::kFloat}, kTerm{abi::kFloat, abi::kOptional};

struct TrainingOp {
  const char* name;
  std::array<Operator::Port, 3> inputs;
  Operator::Maker make;
  size_t outputs = 1;
};

template <typename Kernel>
OpKernel* make(const abi::KernelInfo* info) {
  return new Kernel(info);
}

// Convolutions and their derivatives.
std::vector<TrainingOp> window_ops();

}  // namespace onnxprune::ep
