// What onnxruntime finds when it loads the library, and a few functions for everybody else.
#include <cstring>
#include <memory>

#include "abi/api.h"
#include "ep/custom_ops.h"
#include "ep/decisions.h"
#include "ep/options.h"
#include "ep/provider.h"
#include "ep/training_ops.h"

#define ONNXPRUNE_EXPORT extern "C" __attribute__((visibility("default")))

namespace onnxprune::ep {
namespace {

using abi::check;
using abi::fn;
using abi::guarded;

class Factory : public abi::EpFactory {
 public:
  Factory() : abi::EpFactory{} {
    version = static_cast<uint32_t>(fn().version);
    get_name = [](const abi::EpFactory*) { return kProviderName; };
    get_vendor = [](const abi::EpFactory*) { return "onnxprune"; };
    get_version = [](const abi::EpFactory*) { return kVersion; };
    vendor_id = [](const abi::EpFactory*) -> uint32_t { return 0; };
    supported_devices = [](abi::EpFactory* self, const abi::HardwareDevice* const* devices, size_t count,
                           abi::EpDevice** out, size_t max, size_t* written) -> abi::Status* {
      *written = 0;
      return guarded([&] {
        for (size_t i = 0; i < count && *written < max; ++i) {
          if (fn().HardwareDevice_Type(devices[i]) != abi::kDeviceCpu) continue;
          abi::KeyValuePairs* facts = nullptr;
          fn().CreateKeyValuePairs(&facts);
          fn().AddKeyValuePair(facts, "isa", kernels::isa_name(kernels::active_isa()));
          abi::Status* status = fn().CreateEpDevice(self, devices[i], facts, nullptr, &out[*written]);
          fn().ReleaseKeyValuePairs(facts);
          check(status);
          ++*written;
        }
      });
    };
    create_ep = [](abi::EpFactory*, const abi::HardwareDevice* const*, const abi::KeyValuePairs* const*, size_t,
                   const abi::SessionOptions* session, const abi::Logger*, abi::Ep** out) -> abi::Status* {
      *out = nullptr;
      return guarded([&] { *out = new Provider(Options::read(session)); });
    };
    release_ep = [](abi::EpFactory*, abi::Ep* ep) { delete static_cast<Provider*>(ep); };
    create_allocator = [](abi::EpFactory*, const abi::MemoryInfo*, const abi::KeyValuePairs*,
                          abi::Allocator** out) -> abi::Status* {
      *out = nullptr;  // onnxruntime's own CPU allocator serves
      return nullptr;
    };
    release_allocator = [](abi::EpFactory*, abi::Allocator*) {};
    create_data_transfer = [](abi::EpFactory*, abi::DataTransfer** out) -> abi::Status* {
      *out = nullptr;
      return nullptr;
    };
    is_stream_aware = [](const abi::EpFactory*) { return false; };
    num_custom_op_domains = [](abi::EpFactory*, size_t* out) -> abi::Status* {
      *out = 1;
      return nullptr;
    };
    custom_op_domains = [](abi::EpFactory*, abi::CustomOpDomain** out, size_t count) -> abi::Status* {
      return guarded([&] {
        if (count > 0) out[0] = custom_op_domain();
      });
    };
  }
};

// A status made with the oldest interface there is, for when ours could not be negotiated.
abi::Status* refuse(const abi::ApiBase* base, const std::string& reason) {
  const void* table = base && base->get_api ? base->get_api(1) : nullptr;
  if (table == nullptr) return nullptr;
  abi::Status* (*create)(abi::ErrorCode, const char*) = nullptr;
  std::memcpy(&create, table, sizeof create);
  return create(abi::kFail, reason.c_str());
}

size_t copy_out(const std::string& text, char* buffer, size_t size) {
  if (buffer != nullptr && size > 0) {
    const size_t count = text.size() < size - 1 ? text.size() : size - 1;
    std::memcpy(buffer, text.data(), count);
    buffer[count] = '\0';
  }
  return text.size() + 1;
}

std::string library_info() {
  std::string kernels;
  size_t count = 0;
  const kernels::KernelEntry* list = kernels::kernel_list(&count);
  for (size_t i = 0; i < count; ++i) {
    kernels += (i ? ", " : "") + std::string("{\"name\": ") + json_quote(list[i].name) + ", \"isa\": " +
               json_quote(kernels::isa_name(list[i].isa)) + ", \"usable\": " +
               (kernels::isa_supported(list[i].isa) ? "true" : "false") + "}";
  }
  std::string training;
  for (const std::string& name : training_op_names()) training += (training.empty() ? "" : ", ") + json_quote(name);
  std::string sets;
  for (kernels::Isa isa : {kernels::Isa::avx512, kernels::Isa::avx2, kernels::Isa::scalar})
    if (kernels::isa_supported(isa)) sets += (sets.empty() ? "" : ", ") + json_quote(kernels::isa_name(isa));
  const char* why = nullptr;
  const bool generates = kernels::code_generation_available(&why);
  return "{\"version\": " + json_quote(kVersion) + ", \"provider\": " + json_quote(kProviderName) +
         ", \"interface_versions\": [" + std::to_string(abi::kOldest) + ", " + std::to_string(abi::kHighest) +
         "], \"training_operators\": [" + training +
         "], \"isa\": " + json_quote(kernels::isa_name(kernels::active_isa())) + ", \"isa_supported\": [" + sets +
         "], \"code_generation\": " + (generates ? "true" : "false") + ", \"code_generation_reason\": " +
         json_quote(generates || why == nullptr ? "" : why) + ", \"kernels\": [" + kernels + "]}";
}

}  // namespace
}  // namespace onnxprune::ep

using namespace onnxprune;

ONNXPRUNE_EXPORT abi::Status* CreateEpFactories(const char*, const abi::ApiBase* base, const abi::Logger*,
                                                abi::EpFactory** factories, size_t max, size_t* count) {
  *count = 0;
  const std::string trouble = abi::load(base);
  if (!trouble.empty()) return ep::refuse(base, trouble);
  return abi::guarded([&] {
    if (max < 1) throw abi::Error("onnxprune: no room for a provider factory");
    factories[0] = new ep::Factory();
    *count = 1;
  });
}

ONNXPRUNE_EXPORT abi::Status* ReleaseEpFactory(abi::EpFactory* factory) {
  delete static_cast<ep::Factory*>(factory);
  return nullptr;
}

// The operators of domain ai.onnxprune for a session that does not use the provider.
ONNXPRUNE_EXPORT abi::Status* RegisterCustomOps(abi::SessionOptions* options, const abi::ApiBase* base) {
  const std::string trouble = abi::load(base);
  if (!trouble.empty()) return ep::refuse(base, trouble);
  return abi::guarded([&] { abi::check(abi::fn().AddCustomOpDomain(options, ep::custom_op_domain())); });
}

// Decision log of the session created with option session_id = `id`, as JSON. Returns the bytes needed
// with the terminating zero, 0 when there is no such log; copies what fits into `buffer`.
ONNXPRUNE_EXPORT size_t OnnxPruneLog(const char* id, char* buffer, size_t size) {
  try {
    auto log = id ? ep::find_session_log(id) : nullptr;
    return log ? ep::copy_out(log->json(), buffer, size) : 0;
  } catch (...) {
    return 0;
  }
}

ONNXPRUNE_EXPORT void OnnxPruneForget(const char* id) {
  try {
    if (id) ep::forget_session_log(id);
  } catch (...) {
  }
}

// What this build and machine offer, as JSON; same convention as OnnxPruneLog.
ONNXPRUNE_EXPORT size_t OnnxPruneInfo(char* buffer, size_t size) {
  try {
    return ep::copy_out(ep::library_info(), buffer, size);
  } catch (...) {
    return 0;
  }
}
