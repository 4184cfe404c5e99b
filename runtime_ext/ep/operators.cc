#include "ep/operators.h"

#include <mutex>

namespace onnxprune::ep {

using abi::check;
using abi::fn;
using abi::guarded;

bool absent(abi::Status* status) {
  if (status == nullptr) return false;
  fn().ReleaseStatus(status);
  return true;
}

int64_t info_int(const abi::KernelInfo* info, const char* name, int64_t fallback) {
  int64_t value = 0;
  return absent(fn().KernelInfoGetAttribute_int64(info, name, &value)) ? fallback : value;
}

float info_float(const abi::KernelInfo* info, const char* name, float fallback) {
  float value = 0;
  return absent(fn().KernelInfoGetAttribute_float(info, name, &value)) ? fallback : value;
}

Shape info_ints(const abi::KernelInfo* info, const char* name) {
  size_t count = 0;
  if (absent(fn().KernelInfoGetAttributeArray_int64(info, name, nullptr, &count))) return {};
  Shape out(count);
  if (count > 0) check(fn().KernelInfoGetAttributeArray_int64(info, name, out.data(), &count));
  return out;
}

std::string info_string(const abi::KernelInfo* info, const char* name, const std::string& fallback) {
  size_t size = 0;
  if (absent(fn().KernelInfoGetAttribute_string(info, name, nullptr, &size))) return fallback;
  std::string out(size, '\0');
  if (size > 0) check(fn().KernelInfoGetAttribute_string(info, name, out.data(), &size));
  while (!out.empty() && out.back() == '\0') out.pop_back();
  return out;
}

const abi::Value* info_constant(const abi::KernelInfo* info, size_t index) {
  int constant = 0;
  const abi::Value* value = nullptr;
  if (absent(fn().KernelInfoGetConstantInput_tensor(info, index, &constant, &value))) return nullptr;
  return constant ? value : nullptr;
}

std::string node_name(const abi::KernelInfo* info) {
  size_t size = 0;
  if (absent(fn().KernelInfo_GetNodeName(info, nullptr, &size)) || size == 0) return "";
  std::string out(size, '\0');
  if (absent(fn().KernelInfo_GetNodeName(info, out.data(), &size))) return "";
  while (!out.empty() && out.back() == '\0') out.pop_back();
  return out;
}

Input run_input(abi::KernelContext* context, size_t index) {
  size_t count = 0;
  check(fn().KernelContext_GetInputCount(context, &count));
  const abi::Value* value = nullptr;
  if (index < count) check(fn().KernelContext_GetInput(context, index, &value));
  if (value == nullptr) return {};
  abi::TensorDesc desc = abi::describe(value);
  if (desc.type != abi::kFloat) throw abi::Error("onnxprune: an input is not float32", abi::kInvalidArgument);
  return {desc.dims, static_cast<const float*>(abi::tensor_data(value))};
}

abi::Value* output_value(abi::KernelContext* context, const Shape& shape, size_t index) {
  abi::Value* value = nullptr;
  check(fn().KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
  return value;
}

float* run_output(abi::KernelContext* context, const Shape& shape, size_t index) {
  return static_cast<float*>(const_cast<void*>(abi::tensor_data(output_value(context, shape, index))));
}

void parallel_for(abi::KernelContext* context, int chunks, const std::function<void(int)>& body) {
  struct Task {
    const std::function<void(int)>* body;
    std::mutex mutex;
    bool failed = false;
    std::string message;
  } task{&body, {}, false, {}};
  check(fn().KernelContext_ParallelFor(
      context,
      [](void* data, size_t chunk) {
        auto* t = static_cast<Task*>(data);
        try {
          (*t->body)(static_cast<int>(chunk));
        } catch (const std::exception& e) {
          std::lock_guard<std::mutex> lock(t->mutex);
          t->failed = true;
          t->message = e.what();
        }
      },
      static_cast<size_t>(chunks), static_cast<size_t>(chunks), &task));
  if (task.failed) throw abi::Error(task.message);
}

namespace {

const Operator& of(const abi::CustomOp* self) { return *static_cast<const Operator*>(self); }

// Refusals name the node.
OpKernel* make_kernel(Operator::Maker make, const abi::KernelInfo* info) {
  try {
    return make(info);
  } catch (const abi::Error&) {
    throw;
  } catch (const std::exception& e) {
    throw abi::Error("onnxprune: node '" + node_name(info) + "': " + e.what(), abi::kInvalidArgument);
  }
}

}  // namespace

Operator::Operator(const char* name, std::array<Port, 3> ports, abi::ElementType type, Maker maker, Inference inference,
                   size_t results)
    : abi::CustomOp{}, name_text(name), inputs(ports), result(type), outputs(results), make(maker), infer(inference) {
  using abi::CustomOp;
  version = static_cast<uint32_t>(fn().version);
  get_name = [](const CustomOp* self) { return of(self).name_text; };
  get_execution_provider = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU's
  input_count = [](const CustomOp* self) -> size_t {
    size_t count = 0;
    while (count < of(self).inputs.size() && of(self).inputs[count].type != abi::kUndefined) ++count;
    return count;
  };
  input_type = [](const CustomOp* self, size_t i) { return of(self).inputs[i].type; };
  output_count = [](const CustomOp* self) -> size_t { return of(self).outputs; };
  output_type = [](const CustomOp* self, size_t) { return of(self).result; };
  input_kind = [](const CustomOp* self, size_t i) { return of(self).inputs[i].kind; };
  output_kind = [](const CustomOp*, size_t) { return abi::kRequired; };
  input_memory = [](const CustomOp*, size_t) { return abi::kMemoryDefault; };
  variadic_input_min = variadic_output_min = [](const CustomOp*) { return 1; };
  variadic_input_homogeneous = variadic_output_homogeneous = [](const CustomOp*) { return 1; };
  start_version = [](const CustomOp*) { return 1; };
  end_version = [](const CustomOp*) { return 1; };
  create_kernel_v2 = [](const CustomOp* self, const abi::Table*, const abi::KernelInfo* info, void** kernel) -> abi::Status* {
    *kernel = nullptr;
    return guarded([&] { *kernel = make_kernel(of(self).make, info); });
  };
  kernel_compute_v2 = [](void* kernel, abi::KernelContext* context) -> abi::Status* {
    return guarded([&] { static_cast<OpKernel*>(kernel)->compute(context); });
  };
  if (infer != nullptr)
    infer_output_shape = [](const CustomOp* self, abi::ShapeInferContext* context) -> abi::Status* {
      return guarded([&] { of(self).infer(context); });
    };
  kernel_destroy = [](void* kernel) { delete static_cast<OpKernel*>(kernel); };
}

}  // namespace onnxprune::ep
