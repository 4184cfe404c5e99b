// The decision log: for every node the provider looked at, whether it took it and why.
//
// Logs are kept per session under the id the session was created with, and fetched as JSON through
// the exported C function OnnxPruneLog (see exports.cc). A session without an id keeps none.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace onnxprune::ep {

// What computes a node, and what that takes.
struct NodeKernel {
  std::string node, kernel;
  int64_t bytes = -1;       // held by its kernel: weights as they are read, generated code; -1 = none
  int64_t code_bytes = -1;  // of them generated code
  double build_us = -1;     // time it took to make
};

struct Decision {
  std::string node, op;
  bool claimed = false;
  std::string kernel;      // what will compute it, empty when not claimed
  std::string reason;      // one sentence
  int group = -1;          // nodes of one fused group share a number
  double sparsity = -1;    // of its constant weight, -1 where it has none
  double predicted_us = -1;  // ours, -1 where not estimated
  double cpu_us = -1;        // the CPU provider's, estimated
  int64_t bytes = -1, code_bytes = -1;  // see NodeKernel
  double build_us = -1;
};

struct StepTime {
  std::string name, kernel;
  int group = 0;
  uint64_t calls = 0;
  double total_us = 0;
  double best_us = 0;  // of a single call
};

class SessionLog {
 public:
  void add(Decision decision);
  // A fact about the whole session.
  void note(const std::string& key, const std::string& value);
  // Names what computes the node, once that is known.
  void set_kernel(int group, const NodeKernel& kernel);
  void add_time(const StepTime& step);
  std::string json() const;
  int next_group() { return groups_++; }

 private:
  mutable std::mutex mutex_;
  std::vector<Decision> decisions_;
  std::vector<std::pair<std::string, std::string>> notes_;
  std::vector<StepTime> times_;
  int groups_ = 0;
};

// The log of session `id`, created on first use; an empty id gives one that nobody else sees.
std::shared_ptr<SessionLog> session_log(const std::string& id);
// Null when the id is not known.
std::shared_ptr<SessionLog> find_session_log(const std::string& id);
void forget_session_log(const std::string& id);

std::string json_quote(const std::string& text);

}  // namespace onnxprune::ep
