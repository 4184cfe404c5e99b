// Runs a program for onnxruntime: picks or builds the instance for the input shapes at hand, keeps
// workspaces, spreads work over the session's threads.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "abi/api.h"
#include "ep/decisions.h"
#include "ep/instance.h"

namespace onnxprune::ep {

struct ExecutorOptions {
  kernels::Isa isa = kernels::active_isa();
  int threads = 0;  // 0 = find out at the first run
  bool profile = false;
  bool generate_code = true;
  std::shared_ptr<kernels::Tuner> tuner;  // chooses kernels by timing, may be null
  int group = 0;
  std::shared_ptr<SessionLog> log;
};

class Executor {
 public:
  Executor(Program program, ExecutorOptions options);
  ~Executor();

  // Builds the instance for the shapes known at compile time, if all are known, and then forgets the
  // canonical weights: the kernels hold their own. Otherwise packs what is not packed. Sources of weights
  // are needed no longer.
  void prepare();
  void run(abi::KernelContext* context);
  // Tells which input and output of the fused node each of the program's is. Default: the same order.
  void bind(std::vector<size_t> inputs, std::vector<size_t> outputs);
  // Times of each step of one image at these shapes, microseconds, on one thread and made-up
  // data; as many runs as fit into `budget_us`, ten at most, one at least; where steps are short as many again in
  // which nobody looks at the clock in between. Empty when nothing can be planned.
  struct Timing {
    std::vector<int> units;
    double us = 0;
  };
  std::vector<Timing> measure(const std::vector<Shape>& shapes, double budget_us);
  const Program& program() const { return program_; }
  int group() const { return options_.group; }
  void set_group(int group) { options_.group = group; }
  // What computes each node: the kernel, or the storage of its weight as long as no input shape is
  // known.
  std::vector<NodeKernel> kernels() const;

 private:
  struct Entry {
    std::vector<Shape> inputs;
    std::vector<Shape> outputs;
    int64_t images = 1;  // how often the instance runs
    std::shared_ptr<const Instance> instance;  // null when there is nothing to compute
  };

  std::shared_ptr<const Entry> entry_for(const std::vector<Shape>& shapes);
  std::shared_ptr<const Entry> make_entry(const std::vector<Shape>& shapes);
  std::shared_ptr<const Instance> instance_for(const std::vector<Shape>& image_shapes);
  void find_threads(abi::KernelContext* context);
  void record(const Instance& instance, const std::vector<double>& microseconds);

  Program program_;
  std::vector<size_t> input_slots_, output_slots_;
  ExecutorOptions options_;
  bool fixed_ = false;  // weights are gone: only the prepared shapes can run
  std::mutex mutex_;
  int threads_ = 0;       // of the session, 0 = not known yet
  int plan_threads_ = 1;  // what work is cut for
  std::vector<std::shared_ptr<const Entry>> entries_;  // most recently used first
  std::vector<std::pair<std::vector<Shape>, std::shared_ptr<const Instance>>> instances_;

  struct Workspace {
    void* data = nullptr;
    size_t bytes = 0;
  };
  class WorkspaceLease;
  std::vector<Workspace> idle_;
};

}  // namespace onnxprune::ep
