// What a session asks of the provider. Each option is the session configuration entry
// "ep.onnxprunesparseexecutionprovider.<name>"; docs/runtime.md lists them for users.
#pragma once

#include <string>

#include "abi/api.h"

namespace onnxprune::ep {

inline constexpr char kProviderName[] = "OnnxPruneSparseExecutionProvider";
inline constexpr char kOptionPrefix[] = "ep.onnxprunesparseexecutionprovider.";
inline constexpr char kVersion[] = "0.1.0";

struct Options {
  double min_sparsity = 0.5;  // a weight with a smaller fraction of zeros is never claimed for speed
  bool force = false;         // claim whatever can be computed exactly, however slow
  std::string isa;            // kernel set: "" = best of this CPU
  bool regions = true;        // let activations stay in the planar layout between claimed nodes
  bool profile = false;       // time every step, readable through the session's log
  bool timing = true;  // check the cost model and choose kernels by timing; false = the same every time
  int threads = 0;            // size of the session's pool if known, 0 = find out
  std::string session_id;     // key under which decisions can be fetched, "" = not kept
  std::string log_file;       // decisions are also written here as JSON
  bool context_enable = false;  // onnxruntime's own "ep.context_enable": save a compiled model

  // Throws abi::Error (invalid argument) naming the option and what it accepts.
  static Options read(const abi::SessionOptions* session);
};

}  // namespace onnxprune::ep
