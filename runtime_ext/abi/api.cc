#include "abi/api.h"

#include <cstdlib>
#include <cstring>
#include <mutex>

namespace onnxprune::abi {
namespace {

Functions g_functions;
std::mutex g_mutex;
bool g_loaded = false;

template <typename Pointer>
void bind(Pointer* target, const void* table, size_t slot) {
  std::memcpy(target, static_cast<const char*>(table) + slot * sizeof(void*), sizeof(void*));
}

// Minor version of "1.<minor>.<patch>", or -1.
int minor_of(const char* version) {
  if (version == nullptr || std::strncmp(version, "1.", 2) != 0) return -1;
  char* end = nullptr;
  long minor = std::strtol(version + 2, &end, 10);
  return end == version + 2 ? -1 : static_cast<int>(minor);
}

// Round trips through functions whose effect can be observed: if a slot number were wrong, this is
// where it shows, before any graph is touched.
std::string canary(const Functions& f) {
  static const char kText[] = "onnxprune canary";
  Status* status = f.CreateStatus(kNotImplemented, kText);
  if (status == nullptr) return "CreateStatus returned nothing";
  bool same = f.GetErrorCode(status) == kNotImplemented && f.GetErrorMessage(status) != nullptr &&
              std::strcmp(f.GetErrorMessage(status), kText) == 0;
  f.ReleaseStatus(status);
  if (!same) return "an error status did not survive the round trip";

  KeyValuePairs* pairs = nullptr;
  f.CreateKeyValuePairs(&pairs);
  if (pairs == nullptr) return "CreateKeyValuePairs returned nothing";
  f.AddKeyValuePair(pairs, "bird", "yellow");
  f.AddKeyValuePair(pairs, "gas", "none");
  const char* bird = f.GetKeyValue(pairs, "bird");
  const char* gas = f.GetKeyValue(pairs, "gas");
  same = bird != nullptr && gas != nullptr && std::strcmp(bird, "yellow") == 0 &&
         std::strcmp(gas, "none") == 0 && f.GetKeyValue(pairs, "absent") == nullptr;
  f.ReleaseKeyValuePairs(pairs);
  return same ? "" : "key-value pairs did not survive the round trip";
}

std::string load_locked(const ApiBase* base) {
  if (base == nullptr || base->version_string == nullptr || base->get_api == nullptr)
    return "onnxprune: called without an onnxruntime interface";
  const char* text = base->version_string();
  int minor = minor_of(text);
  std::string version = text ? text : "unknown";
  if (minor < kOldest)
    return "onnxprune: onnxruntime " + version + " is too old; the sparse execution provider needs 1." +
           std::to_string(kOldest) + " or newer";
  int wanted = minor < kHighest ? minor : kHighest;
  const void* table = base->get_api(static_cast<uint32_t>(wanted));
  if (table == nullptr)
    return "onnxprune: onnxruntime " + version + " does not serve interface version " +
           std::to_string(wanted) + "; install a release between 1." + std::to_string(kOldest) +
           " and one that still does";

  Functions f;
#define ONNXPRUNE_BIND(name, slot, result, args) bind(&f.name, table, slot);
  ONNXPRUNE_ORT_SLOTS(ONNXPRUNE_BIND)
#undef ONNXPRUNE_BIND
  std::string trouble = canary(f);
  if (!trouble.empty())
    return "onnxprune: the interface of onnxruntime " + version + " is not as expected: " + trouble;
  const void* ep = f.GetEpApi();
  const void* editor = f.GetModelEditorApi();
  if (ep == nullptr || editor == nullptr)
    return "onnxprune: this build of onnxruntime " + version +
           " has no plugin execution providers (minimal build?)";
#define ONNXPRUNE_BIND(name, slot, result, args) bind(&f.name, ep, slot);
  ONNXPRUNE_EP_SLOTS(ONNXPRUNE_BIND)
#undef ONNXPRUNE_BIND
#define ONNXPRUNE_BIND(name, slot, result, args) bind(&f.name, editor, slot);
  ONNXPRUNE_EDITOR_SLOTS(ONNXPRUNE_BIND)
#undef ONNXPRUNE_BIND
  f.version = wanted;
  f.runtime_version = version;
  g_functions = f;
  g_loaded = true;
  return "";
}

}  // namespace

std::string load(const ApiBase* base) {
  std::lock_guard<std::mutex> lock(g_mutex);
  return g_loaded ? "" : load_locked(base);
}

const Functions& fn() { return g_functions; }

void check(Status* status) {
  if (status == nullptr) return;
  std::string message = fn().GetErrorMessage(status);
  ErrorCode code = fn().GetErrorCode(status);
  fn().ReleaseStatus(status);
  throw Error(message, code);
}

namespace {

TensorDesc describe_info(const TensorInfo* info) {
  TensorDesc out;
  size_t rank = 0;
  check(fn().GetTensorElementType(info, &out.type));
  check(fn().GetDimensionsCount(info, &rank));
  out.dims.resize(rank);
  if (rank > 0) check(fn().GetDimensions(info, out.dims.data(), rank));
  return out;
}

}  // namespace

TensorDesc describe(const Value* value) {
  TensorInfo* info = nullptr;
  check(fn().GetTensorTypeAndShape(value, &info));
  try {
    TensorDesc out = describe_info(info);
    fn().ReleaseTensorTypeAndShapeInfo(info);
    return out;
  } catch (...) {
    fn().ReleaseTensorTypeAndShapeInfo(info);
    throw;
  }
}

bool describe(const ValueInfo* value, TensorDesc* out) {
  const TypeInfo* type = nullptr;
  const TensorInfo* info = nullptr;
  Status* status = fn().GetValueInfoTypeInfo(value, &type);
  if (status == nullptr && type != nullptr) status = fn().CastTypeInfoToTensorInfo(type, &info);
  if (status != nullptr) {
    fn().ReleaseStatus(status);
    return false;
  }
  if (info == nullptr) return false;
  *out = describe_info(info);
  const size_t rank = out->dims.size();
  std::vector<const char*> names(rank, nullptr);
  if (rank > 0) check(fn().GetSymbolicDimensions(info, names.data(), rank));
  for (const char* name : names) out->symbols.emplace_back(name ? name : "");
  return true;
}

const void* tensor_data(const Value* value) {
  void* data = nullptr;
  check(fn().GetTensorMutableData(const_cast<Value*>(value), &data));
  return data;
}

std::string config(const SessionOptions* options, const std::string& key, const std::string& fallback) {
  int present = 0;
  check(fn().HasSessionConfigEntry(options, key.c_str(), &present));
  if (!present) return fallback;
  size_t size = 0;
  check(fn().GetSessionConfigEntry(options, key.c_str(), nullptr, &size));
  std::string out(size, '\0');
  check(fn().GetSessionConfigEntry(options, key.c_str(), out.data(), &size));
  if (!out.empty() && out.back() == '\0') out.pop_back();
  return out;
}

}  // namespace onnxprune::abi
