// Types of onnxruntime's C interface, as far as this library uses them.
//
// onnxruntime hands every object over as an opaque pointer and every service as a table of function
// pointers, so nothing here links against it and no header of it is needed. Names are our own; the
// numbers (enum values, order of struct members) are facts of the interface, which is append-only.
// Struct declarations list every member up to API 29; members we do not implement stay null, and
// `version` tells onnxruntime how many it may look at.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxprune::abi {

// Opaque objects.
struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct Value;
struct TypeInfo;
struct TensorInfo;
struct KernelInfo;
struct KernelContext;
struct Logger;
struct OpAttr;
struct ValueInfo;
struct Graph;
struct Node;
struct KeyValuePairs;
struct HardwareDevice;
struct EpDevice;
struct MemoryInfo;
struct Allocator;
struct GraphSupport;
struct NodeComputeContext;
struct DataTransfer;
struct KernelRegistry;
struct ShapeInferContext;
struct ModelEditorTable;
struct EpTable;

enum ErrorCode : int { kOk = 0, kFail = 1, kInvalidArgument = 2, kNotImplemented = 9, kEpFail = 11 };

enum ElementType : int {
  kUndefined = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kInt32 = 6,
  kInt64 = 7,
  kBool = 9,
  kFloat16 = 10,
  kBFloat16 = 16,
};

enum AttrType : int {
  kAttrUndefined = 0,
  kAttrInt = 1,
  kAttrInts = 2,
  kAttrFloat = 3,
  kAttrFloats = 4,
  kAttrString = 5,
  kAttrStrings = 6,
  kAttrGraph = 7,
  kAttrTensor = 8,
};

enum DeviceType : int { kDeviceCpu = 0 };
enum DataLayout : int { kLayoutNchw = 0 };
enum IoKind : int { kRequired = 0, kOptional = 1 };
enum MemoryKind : int { kMemoryDefault = 0 };
enum Severity : int { kVerbose = 0, kInfo = 1, kWarning = 2, kError = 3 };

struct ApiBase {
  const void* (*get_api)(uint32_t version);
  const char* (*version_string)();
};

struct FusionOptions {
  uint32_t version;
  bool drop_constant_initializers;
};
static_assert(sizeof(FusionOptions) == 8);

// A member we never fill in; its place in the struct is all that matters.
using Unused = void (*)();

struct NodeComputeInfo {
  uint32_t version;
  Status* (*create_state)(NodeComputeInfo*, NodeComputeContext*, void** state);
  Status* (*compute)(NodeComputeInfo*, void* state, KernelContext*);
  void (*release_state)(NodeComputeInfo*, void* state);
};

struct Ep {
  uint32_t version;
  const char* (*get_name)(const Ep*);
  Status* (*get_capability)(Ep*, const Graph*, GraphSupport*);
  Status* (*compile)(Ep*, const Graph**, const Node** fused, size_t count, NodeComputeInfo** out,
                     Node** context_nodes);
  void (*release_compute_infos)(Ep*, NodeComputeInfo**, size_t count);
  Status* (*preferred_layout)(Ep*, DataLayout* out);
  Unused should_convert_layout;
  Unused set_dynamic_options;
  Unused on_run_start;
  Unused on_run_end;
  Unused create_allocator;
  Unused create_sync_stream;
  Unused compiled_model_compatibility;
  Unused kernel_registry;
  Status* (*concurrent_run_supported)(Ep*, bool* out);
  Unused sync;
  Unused create_profiler;
  Unused is_graph_capture_enabled;
  Unused is_graph_captured;
  Unused replay_graph;
  Unused graph_capture_policy;
  Unused available_resource;
  Unused session_initialization_end;
  Unused default_memory_device;
  Unused release_captured_graph;
  Unused weightless_support;
};
static_assert(sizeof(Ep) == 26 * 8);

struct EpFactory {
  uint32_t version;
  const char* (*get_name)(const EpFactory*);
  const char* (*get_vendor)(const EpFactory*);
  Status* (*supported_devices)(EpFactory*, const HardwareDevice* const*, size_t count, EpDevice** out,
                               size_t max, size_t* written);
  Status* (*create_ep)(EpFactory*, const HardwareDevice* const*, const KeyValuePairs* const*, size_t,
                       const SessionOptions*, const Logger*, Ep** out);
  void (*release_ep)(EpFactory*, Ep*);
  uint32_t (*vendor_id)(const EpFactory*);
  const char* (*get_version)(const EpFactory*);
  Unused validate_compatibility;
  Status* (*create_allocator)(EpFactory*, const MemoryInfo*, const KeyValuePairs*, Allocator** out);
  void (*release_allocator)(EpFactory*, Allocator*);
  Status* (*create_data_transfer)(EpFactory*, DataTransfer** out);
  bool (*is_stream_aware)(const EpFactory*);
  Unused create_sync_stream;
  Unused incompatibility_details;
  Unused external_resource_importer;
  Status* (*num_custom_op_domains)(EpFactory*, size_t* out);
  Status* (*custom_op_domains)(EpFactory*, CustomOpDomain** out, size_t count);
  Unused init_graphics;
  Unused deinit_graphics;
  Unused select_best_model;
};
static_assert(sizeof(EpFactory) == 21 * 8);

struct Table;  // the untyped function table of onnxruntime's main interface

struct CustomOp {
  uint32_t version;
  Unused create_kernel;  // superseded by create_kernel_v2
  const char* (*get_name)(const CustomOp*);
  const char* (*get_execution_provider)(const CustomOp*);
  ElementType (*input_type)(const CustomOp*, size_t);
  size_t (*input_count)(const CustomOp*);
  ElementType (*output_type)(const CustomOp*, size_t);
  size_t (*output_count)(const CustomOp*);
  Unused kernel_compute;  // superseded by kernel_compute_v2
  void (*kernel_destroy)(void* kernel);
  IoKind (*input_kind)(const CustomOp*, size_t);
  IoKind (*output_kind)(const CustomOp*, size_t);
  MemoryKind (*input_memory)(const CustomOp*, size_t);
  int (*variadic_input_min)(const CustomOp*);
  int (*variadic_input_homogeneous)(const CustomOp*);
  int (*variadic_output_min)(const CustomOp*);
  int (*variadic_output_homogeneous)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const Table*, const KernelInfo*, void** kernel);
  Status* (*kernel_compute_v2)(void* kernel, KernelContext*);
  Status* (*infer_output_shape)(const CustomOp*, ShapeInferContext*);
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
  Unused may_inplace;
  Unused release_may_inplace;
  Unused alias_map;
  Unused release_alias_map;
};
static_assert(sizeof(CustomOp) == 208);

}  // namespace onnxprune::abi
