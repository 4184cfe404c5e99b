// What the operators of domain ai.onnxprune have in common: their kernels, how these read a node and the
// values of a run, and the table of functions that onnxruntime wants of each.
#pragma once

#include <array>
#include <functional>
#include <string>

#include "abi/api.h"
#include "ep/dims.h"

namespace onnxprune::ep {

// True when a call failed, whose status is released.
bool absent(abi::Status* status);

int64_t info_int(const abi::KernelInfo* info, const char* name, int64_t fallback);
float info_float(const abi::KernelInfo* info, const char* name, float fallback);
Shape info_ints(const abi::KernelInfo* info, const char* name);  // empty where absent
std::string info_string(const abi::KernelInfo* info, const char* name, const std::string& fallback);
// A constant input, null when the input is absent or computed at run time.
const abi::Value* info_constant(const abi::KernelInfo* info, size_t index);
std::string node_name(const abi::KernelInfo* info);

struct Input {
  Shape shape;
  const float* data = nullptr;
};
// Input of a run; an absent optional one has no data.
Input run_input(abi::KernelContext* context, size_t index);
abi::Value* output_value(abi::KernelContext* context, const Shape& shape, size_t index = 0);
float* run_output(abi::KernelContext* context, const Shape& shape, size_t index = 0);

// body(0) ... body(chunks - 1) on the threads of the session; rethrows what one of them threw.
void parallel_for(abi::KernelContext* context, int chunks, const std::function<void(int)>& body);

class OpKernel {
 public:
  virtual ~OpKernel() = default;
  virtual void compute(abi::KernelContext* context) = 0;
};

// An operator that runs on the CPU.
struct Operator : abi::CustomOp {
  struct Port {
    abi::ElementType type = abi::kUndefined;  // no more inputs
    abi::IoKind kind = abi::kRequired;
  };
  using Maker = OpKernel* (*)(const abi::KernelInfo*);
  using Inference = void (*)(abi::ShapeInferContext*);

  const char* name_text;
  std::array<Port, 3> inputs;
  abi::ElementType result;  // of all outputs; undefined = whatever the model says
  size_t outputs;
  Maker make;
  Inference infer;  // nullable

  Operator(const char* name, std::array<Port, 3> ports, abi::ElementType type, Maker maker,
           Inference inference = nullptr, size_t results = 1);
};

}  // namespace onnxprune::ep
