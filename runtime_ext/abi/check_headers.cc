// Build-time proof, where onnxruntime's own headers are at hand: every slot number and every argument
// list we wrote down agrees with them. Compiled only with -DONNXPRUNE_ORT_INCLUDE_DIR=<folder>.
#include <onnxruntime_c_api.h>

#include <type_traits>

#include "abi/slots.h"
#include "abi/types.h"

// "noexcept" and calling-convention attributes of their function types do not matter here.
#pragma GCC diagnostic ignored "-Wignored-attributes"

namespace onnxprune::abi {
namespace {

// Two types pass the same way through the C boundary: same size, both pointers or both not, both
// floating or both not. Opaque pointees differ by name only and are not compared.
template <typename A, typename B>
constexpr bool alike() {
  if constexpr (std::is_void_v<A> || std::is_void_v<B>) {
    return std::is_void_v<A> && std::is_void_v<B>;
  } else {
    return sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B> &&
           std::is_floating_point_v<A> == std::is_floating_point_v<B>;
  }
}

template <typename A, typename B>
struct SameShape : std::false_type {};
template <typename R1, typename... A1, typename R2, typename... A2>
struct SameShape<R1 (*)(A1...), R2 (*)(A2...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(A1) != sizeof...(A2)) {
      return false;
    } else {
      return alike<R1, R2>() && (alike<A1, A2>() && ...);
    }
  }();
};
template <typename R1, typename... A1, typename R2, typename... A2>
struct SameShape<R1 (*)(A1...), R2 (*)(A2...) noexcept> : SameShape<R1 (*)(A1...), R2 (*)(A2...)> {};

#define ONNXPRUNE_CHECK(table, name, slot, result, args)                               \
  static_assert(offsetof(table, name) == (slot) * sizeof(void*), "slot of " #name);    \
  static_assert(SameShape<result(*) args, decltype(table::name)>::value, "arguments of " #name);
#define ONNXPRUNE_MAIN(name, slot, result, args) ONNXPRUNE_CHECK(OrtApi, name, slot, result, args)
#define ONNXPRUNE_EP(name, slot, result, args) ONNXPRUNE_CHECK(OrtEpApi, name, slot, result, args)
#define ONNXPRUNE_EDITOR(name, slot, result, args) \
  ONNXPRUNE_CHECK(OrtModelEditorApi, name, slot, result, args)
ONNXPRUNE_ORT_SLOTS(ONNXPRUNE_MAIN)
ONNXPRUNE_EP_SLOTS(ONNXPRUNE_EP)
ONNXPRUNE_EDITOR_SLOTS(ONNXPRUNE_EDITOR)

static_assert(offsetof(OrtEp, GetCapability) == offsetof(Ep, get_capability));
static_assert(offsetof(OrtEp, Compile) == offsetof(Ep, compile));
static_assert(offsetof(OrtEp, ReleaseNodeComputeInfos) == offsetof(Ep, release_compute_infos));
static_assert(offsetof(OrtEp, GetPreferredDataLayout) == offsetof(Ep, preferred_layout));
static_assert(offsetof(OrtEp, IsConcurrentRunSupported) == offsetof(Ep, concurrent_run_supported));
static_assert(offsetof(OrtEpFactory, GetSupportedDevices) == offsetof(EpFactory, supported_devices));
static_assert(offsetof(OrtEpFactory, CreateEp) == offsetof(EpFactory, create_ep));
static_assert(offsetof(OrtEpFactory, CreateAllocator) == offsetof(EpFactory, create_allocator));
static_assert(offsetof(OrtEpFactory, CreateDataTransfer) == offsetof(EpFactory, create_data_transfer));
static_assert(offsetof(OrtEpFactory, IsStreamAware) == offsetof(EpFactory, is_stream_aware));
static_assert(offsetof(OrtEpFactory, GetNumCustomOpDomains) == offsetof(EpFactory, num_custom_op_domains));
static_assert(offsetof(OrtEpFactory, GetCustomOpDomains) == offsetof(EpFactory, custom_op_domains));
static_assert(offsetof(OrtNodeComputeInfo, Compute) == offsetof(NodeComputeInfo, compute));
static_assert(offsetof(OrtCustomOp, GetName) == offsetof(CustomOp, get_name));
static_assert(offsetof(OrtCustomOp, KernelDestroy) == offsetof(CustomOp, kernel_destroy));
static_assert(offsetof(OrtCustomOp, CreateKernelV2) == offsetof(CustomOp, create_kernel_v2));
static_assert(offsetof(OrtCustomOp, KernelComputeV2) == offsetof(CustomOp, kernel_compute_v2));
static_assert(offsetof(OrtCustomOp, InferOutputShapeFn) == offsetof(CustomOp, infer_output_shape));
static_assert(offsetof(OrtCustomOp, GetStartVersion) == offsetof(CustomOp, start_version));

}  // namespace
}  // namespace onnxprune::abi
