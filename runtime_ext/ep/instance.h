// A program made ready for one input shape: kernels planned, memory laid out. Immutable once built,
// so any number of threads may run it, each with a workspace of its own.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ep/decisions.h"
#include "ep/layouts.h"
#include "ep/places.h"
#include "ep/program.h"

namespace onnxprune::ep {

// Runs body(chunk) for chunk = 0 .. chunks-1, on whatever threads there are.
class Parallel {
 public:
  virtual ~Parallel() = default;
  virtual int threads() const = 0;
  virtual void run(int chunks, const std::function<void(int)>& body) = 0;
};

class SerialParallel final : public Parallel {
 public:
  int threads() const override { return 1; }
  void run(int chunks, const std::function<void(int)>& body) override {
    for (int i = 0; i < chunks; ++i) body(i);
  }
};

struct Frame {
  const float* const* inputs = nullptr;  // one image of each
  float* const* outputs = nullptr;
  float* arena = nullptr;
  float* at(const Place& place) const {
    if (place.kind == Place::arena) return arena + place.offset;
    if (place.kind == Place::output) return outputs[place.index] + place.offset;
    return const_cast<float*>(inputs[place.index]) + place.offset;
  }
};

struct Step {
  std::string label, kernel;
  std::vector<int> units;  // of the lowering; empty for moving data across the program's border
  int64_t items = 1;      // independent pieces
  int64_t grain = 1;      // a chunk of pieces is a multiple of this
  double cycles = 0;      // estimate, decides whether threads pay
  size_t scratch = 0;     // bytes each chunk needs
  std::function<void(const Frame&, int64_t first, int64_t last, void* scratch)> body;
  // Not null: a body for all items in which so many threads wait for each other, each with a scratch of its
  // own, `chunk` bytes apart.
  std::function<void(const Frame&, Parallel* parallel, int threads, char* scratch, size_t chunk)> together;
};

struct InstanceOptions {
  kernels::Isa isa = kernels::active_isa();
  int threads = 1;
  bool generate_code = true;
  kernels::Tuner* tuner = nullptr;  // chooses kernels by timing; null = the cost model, repeatably
};

class Instance {
 public:
  // `shapes`: inputs of one image (image domain), else whole. Throws when something cannot be planned.
  Instance(const Program& program, const std::vector<Shape>& shapes, const InstanceOptions& options);

  const std::vector<Step>& steps() const { return steps_; }
  // Bytes of a workspace for runs with at most `threads` threads.
  size_t workspace_bytes() const { return static_cast<size_t>(arena_floats_) * sizeof(float) + scratch_total_; }
  double cycles() const;
  // Of each node.
  const std::vector<NodeKernel>& kernels() const { return kernels_; }
  int64_t packed_bytes() const { return packed_bytes_; }

  // Runs one image. `microseconds`, when not null, gets the time of each step added: that of the wall
  // clock, or the calling thread's own, which does not count interruptions by others.
  enum class Clock : uint8_t { wall, thread };
  void run(const float* const* inputs, float* const* outputs, void* workspace, Parallel* parallel,
           double* microseconds, Clock clock = Clock::wall) const;
  static double now(Clock clock);  // microseconds
  // Microseconds that looking at a clock takes, which the time of every step includes.
  static double looking(Clock clock);

 private:
  friend class InstanceBuilder;
  std::vector<Step> steps_;
  std::vector<std::shared_ptr<const void>> owned_;  // plans the steps refer to
  std::vector<NodeKernel> kernels_;
  int64_t arena_floats_ = 0;
  size_t scratch_total_ = 0, scratch_chunk_ = 0;
  int64_t packed_bytes_ = 0;
  int threads_ = 1;
};

}  // namespace onnxprune::ep
