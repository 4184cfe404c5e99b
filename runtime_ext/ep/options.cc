#include "ep/options.h"

#include <cstdlib>

namespace onnxprune::ep {
namespace {

[[noreturn]] void refuse(const char* name, const std::string& value, const char* accepted) {
  throw abi::Error("onnxprune: option '" + std::string(name) + "' is '" + value + "'; it accepts " + accepted,
                   abi::kInvalidArgument);
}

std::string entry(const abi::SessionOptions* session, const char* name) {
  return abi::config(session, std::string(kOptionPrefix) + name, "");
}

bool flag(const abi::SessionOptions* session, const char* name, bool fallback) {
  std::string text = entry(session, name);
  if (text.empty()) return fallback;
  if (text == "1" || text == "true" || text == "True") return true;
  if (text == "0" || text == "false" || text == "False") return false;
  refuse(name, text, "0 or 1");
}

double number(const abi::SessionOptions* session, const char* name, double fallback, double low, double high,
              const char* accepted) {
  std::string text = entry(session, name);
  if (text.empty()) return fallback;
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  if (end != text.c_str() + text.size() || !(value >= low && value <= high)) refuse(name, text, accepted);
  return value;
}

}  // namespace

Options Options::read(const abi::SessionOptions* session) {
  Options out;
  out.min_sparsity = number(session, "min_sparsity", out.min_sparsity, 0.0, 1.0, "a number from 0 to 1");
  out.force = flag(session, "force", out.force);
  out.isa = entry(session, "isa");
  if (out.isa == "auto") out.isa.clear();
  out.regions = flag(session, "regions", out.regions);
  out.profile = flag(session, "profile", out.profile);
  out.timing = flag(session, "timing", out.timing);
  out.threads = static_cast<int>(number(session, "threads", 0, 0, 1024, "a number of threads from 0 to 1024"));
  out.session_id = entry(session, "session_id");
  out.log_file = entry(session, "log_file");
  out.context_enable = abi::config(session, "ep.context_enable", "0") == "1";
  return out;
}

}  // namespace onnxprune::ep
