// Which entry of which onnxruntime function table we call, and with what signature.
//
// One line per function: X(name, slot, return type, (arguments)). `name` is onnxruntime's own name,
// so that the optional check against its headers (check_headers.cc) can be generated from the same
// list; `slot` counts pointers from the start of the table. Every slot below exists since API 23
// unless it says otherwise.
#pragma once

// clang-format off
#define ONNXPRUNE_ORT_SLOTS(X) \
  X(CreateStatus, 0, Status*, (ErrorCode, const char*)) \
  X(GetErrorCode, 1, ErrorCode, (const Status*)) \
  X(GetErrorMessage, 2, const char*, (const Status*)) \
  X(CreateCustomOpDomain, 26, Status*, (const char*, CustomOpDomain**)) \
  X(CustomOpDomain_Add, 27, Status*, (CustomOpDomain*, const CustomOp*)) \
  X(AddCustomOpDomain, 28, Status*, (SessionOptions*, CustomOpDomain*)) \
  X(GetTensorMutableData, 51, Status*, (Value*, void**)) \
  X(CastTypeInfoToTensorInfo, 55, Status*, (const TypeInfo*, const TensorInfo**)) \
  X(CreateTensorTypeAndShapeInfo, 57, Status*, (TensorInfo**)) \
  X(SetTensorElementType, 58, Status*, (TensorInfo*, ElementType)) \
  X(SetDimensions, 59, Status*, (TensorInfo*, const int64_t*, size_t)) \
  X(GetTensorElementType, 60, Status*, (const TensorInfo*, ElementType*)) \
  X(GetDimensionsCount, 61, Status*, (const TensorInfo*, size_t*)) \
  X(GetDimensions, 62, Status*, (const TensorInfo*, int64_t*, size_t)) \
  X(GetSymbolicDimensions, 63, Status*, (const TensorInfo*, const char**, size_t)) \
  X(GetTensorTypeAndShape, 65, Status*, (const Value*, TensorInfo**)) \
  X(KernelInfoGetAttribute_float, 85, Status*, (const KernelInfo*, const char*, float*)) \
  X(KernelInfoGetAttribute_int64, 86, Status*, (const KernelInfo*, const char*, int64_t*)) \
  X(KernelInfoGetAttribute_string, 87, Status*, (const KernelInfo*, const char*, char*, size_t*)) \
  X(KernelContext_GetInputCount, 88, Status*, (const KernelContext*, size_t*)) \
  X(KernelContext_GetInput, 90, Status*, (const KernelContext*, size_t, const Value**)) \
  X(KernelContext_GetOutput, 91, Status*, (KernelContext*, size_t, const int64_t*, size_t, Value**)) \
  X(ReleaseStatus, 93, void, (Status*)) \
  X(ReleaseTensorTypeAndShapeInfo, 99, void, (TensorInfo*)) \
  X(ReleaseCustomOpDomain, 101, void, (CustomOpDomain*)) \
  X(KernelInfoGetAttributeArray_int64, 163, Status*, (const KernelInfo*, const char*, int64_t*, size_t*)) \
  X(CreateOpAttr, 211, Status*, (const char*, const void*, int, AttrType, OpAttr**)) \
  X(ReleaseOpAttr, 212, void, (OpAttr*)) \
  X(HasSessionConfigEntry, 237, Status*, (const SessionOptions*, const char*, int*)) \
  X(GetSessionConfigEntry, 238, Status*, (const SessionOptions*, const char*, char*, size_t*)) \
  X(KernelInfo_GetNodeName, 244, Status*, (const KernelInfo*, char*, size_t*)) \
  X(Logger_LogMessage, 247, Status*, (const Logger*, Severity, const char*, const char*, int, const char*)) \
  X(KernelInfoGetConstantInput_tensor, 249, Status*, (const KernelInfo*, size_t, int*, const Value**)) \
  X(ShapeInferContext_GetAttribute, 269, Status*, (const ShapeInferContext*, const char*, const OpAttr**)) \
  X(ShapeInferContext_SetOutputTypeShape, 270, Status*, (const ShapeInferContext*, size_t, const TensorInfo*)) \
  X(ReadOpAttr, 272, Status*, (const OpAttr*, AttrType, void*, size_t, size_t*)) \
  X(KernelContext_ParallelFor, 274, Status*, (const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)) \
  X(GetValueInfoName, 289, Status*, (const ValueInfo*, const char**)) \
  X(GetValueInfoTypeInfo, 290, Status*, (const ValueInfo*, const TypeInfo**)) \
  X(GetModelEditorApi, 291, const ModelEditorTable*, ()) \
  X(CreateKeyValuePairs, 295, void, (KeyValuePairs**)) \
  X(AddKeyValuePair, 296, void, (KeyValuePairs*, const char*, const char*)) \
  X(GetKeyValue, 297, const char*, (const KeyValuePairs*, const char*)) \
  X(ReleaseKeyValuePairs, 300, void, (KeyValuePairs*)) \
  X(HardwareDevice_Type, 307, DeviceType, (const HardwareDevice*)) \
  X(GetEpApi, 317, const EpTable*, ()) \
  X(GetTensorSizeInBytes, 318, Status*, (const Value*, size_t*)) \
  X(ValueInfo_GetValueNumConsumers, 324, Status*, (const ValueInfo*, size_t*)) \
  X(ValueInfo_GetInitializerValue, 326, Status*, (const ValueInfo*, const Value**)) \
  X(ValueInfo_IsGraphOutput, 330, Status*, (const ValueInfo*, bool*)) \
  X(ValueInfo_IsConstantInitializer, 331, Status*, (const ValueInfo*, bool*)) \
  X(ValueInfo_IsFromOuterScope, 332, Status*, (const ValueInfo*, bool*)) \
  X(Graph_GetNumInputs, 338, Status*, (const Graph*, size_t*)) \
  X(Graph_GetInputs, 339, Status*, (const Graph*, const ValueInfo**, size_t)) \
  X(Graph_GetNumOutputs, 340, Status*, (const Graph*, size_t*)) \
  X(Graph_GetOutputs, 341, Status*, (const Graph*, const ValueInfo**, size_t)) \
  X(Graph_GetNumNodes, 344, Status*, (const Graph*, size_t*)) \
  X(Graph_GetNodes, 345, Status*, (const Graph*, const Node**, size_t)) \
  X(Node_GetName, 349, Status*, (const Node*, const char**)) \
  X(Node_GetOperatorType, 350, Status*, (const Node*, const char**)) \
  X(Node_GetDomain, 351, Status*, (const Node*, const char**)) \
  X(Node_GetSinceVersion, 352, Status*, (const Node*, int*)) \
  X(Node_GetNumInputs, 353, Status*, (const Node*, size_t*)) \
  X(Node_GetInputs, 354, Status*, (const Node*, const ValueInfo**, size_t)) \
  X(Node_GetNumOutputs, 355, Status*, (const Node*, size_t*)) \
  X(Node_GetOutputs, 356, Status*, (const Node*, const ValueInfo**, size_t)) \
  X(Node_GetAttributeByName, 361, Status*, (const Node*, const char*, const OpAttr**)) \
  X(OpAttr_GetType, 363, Status*, (const OpAttr*, AttrType*))

#define ONNXPRUNE_EP_SLOTS(X) \
  X(CreateEpDevice, 0, Status*, (EpFactory*, const HardwareDevice*, const KeyValuePairs*, const KeyValuePairs*, EpDevice**)) \
  X(EpGraphSupportInfo_AddNodesToFuse, 2, Status*, (GraphSupport*, const Node* const*, size_t, const FusionOptions*))

#define ONNXPRUNE_EDITOR_SLOTS(X) \
  X(CreateNode, 6, Status*, (const char*, const char*, const char*, const char* const*, size_t, const char* const*, size_t, OpAttr**, size_t, Node**))
// clang-format on
