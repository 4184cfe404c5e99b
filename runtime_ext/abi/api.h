// The negotiated onnxruntime interface of this process, and C++ conveniences over it.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "abi/slots.h"
#include "abi/types.h"

namespace onnxprune::abi {

// Oldest minor version of onnxruntime 1.x that has everything we call, and the newest interface
// version whose structs we were tested with. A newer onnxruntime is asked for kHighest and serves it.
inline constexpr int kOldest = 23;
inline constexpr int kHighest = 24;

// Typed entries of the three function tables, filled by `load`.
struct Functions {
#define ONNXPRUNE_MEMBER(name, slot, result, args) result(*name) args = nullptr;
  ONNXPRUNE_ORT_SLOTS(ONNXPRUNE_MEMBER)
  ONNXPRUNE_EP_SLOTS(ONNXPRUNE_MEMBER)
  ONNXPRUNE_EDITOR_SLOTS(ONNXPRUNE_MEMBER)
#undef ONNXPRUNE_MEMBER
  int version = 0;             // negotiated interface version, goes into every struct we hand out
  std::string runtime_version;  // e.g. "1.31.1"
};

// Negotiates the interface version, fills the tables and runs the canary. Returns an empty string,
// or why this onnxruntime cannot be used. Safe to call again; later calls only repeat the verdict.
std::string load(const ApiBase* base);

// The tables; valid after a successful `load`.
const Functions& fn();

// A failed call into onnxruntime, or a failure of ours on its way back to it.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ErrorCode code = kFail)
      : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// Turns a status of onnxruntime into an exception and releases it; null means success.
void check(Status* status);

// Runs `body` and turns whatever it throws into a status: nothing may cross the C boundary.
template <typename Body>
Status* guarded(Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Error& e) {
    return fn().CreateStatus(e.code(), e.what());
  } catch (const std::bad_alloc&) {
    return fn().CreateStatus(kFail, "onnxprune: out of memory");
  } catch (const std::exception& e) {
    return fn().CreateStatus(kFail, e.what());
  } catch (...) {
    return fn().CreateStatus(kFail, "onnxprune: unknown error");
  }
}

// Element type and dimensions of a tensor; -1 where a graph leaves a dimension open, whose name, if it
// has one, is in `symbols` (same length as `dims`).
struct TensorDesc {
  ElementType type = kUndefined;
  std::vector<int64_t> dims;
  std::vector<std::string> symbols;
};

TensorDesc describe(const Value* value);
// False when the graph states no rank, or the value is not a tensor.
bool describe(const ValueInfo* info, TensorDesc* out);
const void* tensor_data(const Value* value);

// Session configuration entry, or `fallback` where it is not set.
std::string config(const SessionOptions* options, const std::string& key, const std::string& fallback);

}  // namespace onnxprune::abi
