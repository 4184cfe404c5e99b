#include "ep/decisions.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

namespace onnxprune::ep {
namespace {

std::mutex g_mutex;
std::map<std::string, std::shared_ptr<SessionLog>>& registry() {
  static std::map<std::string, std::shared_ptr<SessionLog>> logs;
  return logs;
}

std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string number_or_null(double value) { return value < 0 ? "null" : number(value); }
std::string count_or_null(int64_t value) { return value < 0 ? "null" : std::to_string(value); }

}  // namespace

std::string json_quote(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    unsigned char u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (u < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", u);
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

void SessionLog::add(Decision decision) {
  std::lock_guard<std::mutex> lock(mutex_);
  decisions_.push_back(std::move(decision));
}

void SessionLog::note(const std::string& key, const std::string& value) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto& entry : notes_) {
    if (entry.first == key) {
      entry.second = value;
      return;
    }
  }
  notes_.emplace_back(key, value);
}

void SessionLog::set_kernel(int group, const NodeKernel& kernel) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (Decision& d : decisions_) {
    if (d.group != group || d.node != kernel.node) continue;
    d.kernel = kernel.kernel;
    d.bytes = kernel.bytes;
    d.code_bytes = kernel.code_bytes;
    d.build_us = kernel.build_us;
  }
}

void SessionLog::add_time(const StepTime& step) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (StepTime& known : times_) {
    if (known.name == step.name && known.group == step.group && known.kernel == step.kernel) {
      known.calls += step.calls;
      known.total_us += step.total_us;
      known.best_us = std::min(known.best_us, step.best_us);
      return;
    }
  }
  times_.push_back(step);
}

std::string SessionLog::json() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string out = "{\"notes\": {";
  for (size_t i = 0; i < notes_.size(); ++i)
    out += (i ? ", " : "") + json_quote(notes_[i].first) + ": " + json_quote(notes_[i].second);
  out += "}, \"decisions\": [";
  for (size_t i = 0; i < decisions_.size(); ++i) {
    const Decision& d = decisions_[i];
    out += std::string(i ? ", " : "") + "{\"node\": " + json_quote(d.node) + ", \"op\": " + json_quote(d.op) +
           ", \"claimed\": " + (d.claimed ? "true" : "false") + ", \"kernel\": " + json_quote(d.kernel) +
           ", \"reason\": " + json_quote(d.reason) + ", \"group\": " +
           (d.group < 0 ? "null" : std::to_string(d.group)) + ", \"sparsity\": " + number_or_null(d.sparsity) +
           ", \"predicted_us\": " + number_or_null(d.predicted_us) + ", \"cpu_us\": " + number_or_null(d.cpu_us) +
           ", \"kernel_bytes\": " + count_or_null(d.bytes) + ", \"code_bytes\": " + count_or_null(d.code_bytes) +
           ", \"build_us\": " + number_or_null(d.build_us) + "}";
  }
  out += "], \"profile\": [";
  for (size_t i = 0; i < times_.size(); ++i) {
    const StepTime& t = times_[i];
    out += std::string(i ? ", " : "") + "{\"step\": " + json_quote(t.name) + ", \"kernel\": " +
           json_quote(t.kernel) + ", \"group\": " + std::to_string(t.group) + ", \"calls\": " +
           std::to_string(t.calls) + ", \"total_us\": " + number(t.total_us) + ", \"best_us\": " + number(t.best_us) + "}";
  }
  return out + "]}";
}

std::shared_ptr<SessionLog> session_log(const std::string& id) {
  if (id.empty()) return std::make_shared<SessionLog>();
  std::lock_guard<std::mutex> lock(g_mutex);
  auto& entry = registry()[id];
  if (!entry) entry = std::make_shared<SessionLog>();
  return entry;
}

std::shared_ptr<SessionLog> find_session_log(const std::string& id) {
  std::lock_guard<std::mutex> lock(g_mutex);
  auto where = registry().find(id);
  return where == registry().end() ? nullptr : where->second;
}

void forget_session_log(const std::string& id) {
  std::lock_guard<std::mutex> lock(g_mutex);
  registry().erase(id);
}

}  // namespace onnxprune::ep
