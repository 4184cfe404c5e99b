#include "ep/executor.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <thread>

#include "ep/broadcast.h"
#include "ep/operators.h"
#include "ep/recurrent.h"
#include "ep/shapes.h"
#include "ep/trim.h"

namespace onnxprune::ep {
namespace {

// How many shapes of inputs are kept ready. Sessions usually see one; a few for varying lengths.
constexpr size_t kMaxInstances = 8;
constexpr size_t kMaxEntries = 32;

// The session's own thread pool.
class SessionParallel final : public Parallel {
 public:
  SessionParallel(abi::KernelContext* context, int threads) : context_(context), threads_(threads) {}
  int threads() const override { return threads_; }
  void run(int chunks, const std::function<void(int)>& body) override { parallel_for(context_, chunks, body); }

 private:
  abi::KernelContext* context_;
  int threads_;
};

bool all_known(const std::vector<Shape>& shapes) {
  for (const Shape& shape : shapes)
    for (int64_t d : shape)
      if (d < 0) return false;
  return true;
}

// Sizes that a model promises may be absurd and must not be multiplied before `infer_shapes` has seen them.
bool is_empty(const Shape& shape) { return std::find(shape.begin(), shape.end(), 0) != shape.end(); }

bool has_cache(const Program& program) {
  return std::any_of(program.ops.begin(), program.ops.end(), [](const Op& op) { return op.kind == OpKind::spread; });
}

// Whether planes are put behind the value, and nothing else reads it.
bool only_a_cache(const Program& program, int value) {
  for (const Op& op : program.ops)
    for (size_t k = 0; k < op.in.size(); ++k)
      if (op.in[k] == value && (op.kind != OpKind::spread || op.spread->parts[k].in_planes())) return false;
  return std::find(program.outputs.begin(), program.outputs.end(), value) == program.outputs.end();
}

int64_t elements(const Shape& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

}  // namespace

// A workspace borrowed for one run.
class Executor::WorkspaceLease {
 public:
  WorkspaceLease(Executor* owner, size_t bytes) : owner_(owner) {
    {
      std::lock_guard<std::mutex> lock(owner->mutex_);
      for (size_t i = 0; i < owner->idle_.size(); ++i) {
        if (owner->idle_[i].bytes < bytes) continue;
        workspace_ = owner->idle_[i];
        owner->idle_.erase(owner->idle_.begin() + static_cast<std::ptrdiff_t>(i));
        return;
      }
    }
    const size_t rounded = (std::max<size_t>(bytes, 64) + 63) / 64 * 64;
    workspace_.data = std::aligned_alloc(64, rounded);
    if (workspace_.data == nullptr) throw std::bad_alloc();
    workspace_.bytes = rounded;
  }
  ~WorkspaceLease() {
    std::lock_guard<std::mutex> lock(owner_->mutex_);
    // Smaller ones are of no more use once larger shapes have been seen.
    auto& idle = owner_->idle_;
    for (size_t i = 0; i < idle.size();) {
      if (idle[i].bytes < workspace_.bytes) {
        std::free(idle[i].data);
        idle.erase(idle.begin() + static_cast<std::ptrdiff_t>(i));
      } else {
        ++i;
      }
    }
    idle.push_back(workspace_);
  }
  WorkspaceLease(const WorkspaceLease&) = delete;
  WorkspaceLease& operator=(const WorkspaceLease&) = delete;
  void* data() const { return workspace_.data; }

 private:
  Executor* owner_;
  Workspace workspace_;
};

Executor::Executor(Program program, ExecutorOptions options)
    : program_(std::move(program)), options_(std::move(options)), threads_(options_.threads) {
  const int machine = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  plan_threads_ = threads_ > 0 ? threads_ : machine;
  program_.input_types.resize(program_.inputs.size(), abi::kFloat);
  program_.output_types.resize(program_.outputs.size(), abi::kFloat);
  for (size_t i = 0; i < program_.inputs.size(); ++i) input_slots_.push_back(program_.slots.empty() ? i : static_cast<size_t>(program_.slots[i]));
  for (size_t i = 0; i < program_.outputs.size(); ++i) output_slots_.push_back(i);
}

void Executor::bind(std::vector<size_t> inputs, std::vector<size_t> outputs) {
  input_slots_ = std::move(inputs);
  output_slots_ = std::move(outputs);
}

namespace {

constexpr int kMostRuns = 10;    // of a measurement
constexpr double kBrief = 15;    // microseconds a step: ten times what looking at the clock may do to it

// Interruptions only ever add: to all steps of a run now and then, so this is near the truth.
double lower_quarter(std::vector<double>* times) {
  const auto quarter = times->begin() + static_cast<std::ptrdiff_t>(times->size() / 4);
  std::nth_element(times->begin(), quarter, times->end());
  return *quarter;
}

}  // namespace

std::vector<Executor::Timing> Executor::measure(const std::vector<Shape>& shapes, double budget_us) {
  // Lengths cannot be made up without knowing what they measure.
  for (const Op& op : program_.ops)
    if (op.kind == OpKind::recurrent && (op.recurrent->operands & kLengths)) return {};
  pack_weights(&program_);  // once, for whatever shapes there will be
  std::shared_ptr<const Entry> entry = entry_for(shapes);
  if (!entry->instance) return {};
  const Instance& instance = *entry->instance;
  // Numbers of ordinary size; all-zero data would do as well, but denormals would not.
  auto made_up = [](int64_t count) {
    std::vector<float> out(static_cast<size_t>(count));
    uint32_t state = 12345;
    for (float& v : out) {
      state = state * 1664525u + 1013904223u;
      v = static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
    }
    return out;
  };
  std::vector<std::vector<float>> inputs, outputs;
  std::vector<const float*> in;
  std::vector<float*> out;
  for (const Shape& shape : shapes) inputs.push_back(made_up(elements(shape) / entry->images + 64));
  for (size_t i = 0; i < inputs.size(); ++i)  // the first position is always there
    if (program_.input_types[i] == abi::kInt64) inputs[i].assign(2 * inputs[i].size(), 0.0f);
  for (const Shape& shape : entry->outputs) outputs.push_back(made_up(elements(shape) / entry->images + 64));
  for (auto& data : inputs) in.push_back(data.data());
  for (auto& data : outputs) out.push_back(data.data());
  WorkspaceLease workspace(this, instance.workspace_bytes());
  SerialParallel serial;
  const size_t steps = instance.steps().size();
  std::vector<std::vector<double>> seen(steps);
  std::vector<double> once(steps);
  // The first run touches memory and reads weights and code from afar, which may take several times as long as
  // any other: it counts only where it alone takes many times what may be spent.
  constexpr double kFirst = 6;
  double spent = 0;  // by this thread: others may interrupt it for as long as they like
  for (int run = 0; run < kMostRuns; ++run) {
    std::fill(once.begin(), once.end(), 0.0);
    instance.run(in.data(), out.data(), workspace.data(), &serial, once.data(), Instance::Clock::thread);
    const double took = std::accumulate(once.begin(), once.end(), 0.0);
    if (run == 0 && took < kFirst * budget_us) continue;
    for (size_t i = 0; i < steps; ++i) seen[i].push_back(once[i]);
    spent += took;
    if (run == 0 || spent * (run + 1) > budget_us * run) break;
  }
  std::vector<Timing> timings;
  const double looking = Instance::looking(Instance::Clock::thread);
  double total = 0;
  for (size_t i = 0; i < steps; ++i) {
    timings.push_back({instance.steps()[i].units, std::max(0.0, lower_quarter(&seen[i]) - looking)});
    total += timings.back().us;
  }
  // Looking at the clock between steps slows down what comes next as well: short steps together take no longer
  // than runs without it.
  std::vector<double> whole;
  const bool brief = total > 0 && total < kBrief * static_cast<double>(steps);
  for (double left = std::min(budget_us, kMostRuns * total); brief && left >= total; left -= total) {
    const double start = Instance::now(Instance::Clock::thread);
    instance.run(in.data(), out.data(), workspace.data(), &serial, nullptr);
    whole.push_back(Instance::now(Instance::Clock::thread) - start);
  }
  const double factor = whole.empty() ? 1.0 : std::min(1.0, std::max(0.0, lower_quarter(&whole) - looking) / total);
  for (Timing& timing : timings) timing.us *= factor;
  return timings;
}

Executor::~Executor() {
  for (const Workspace& workspace : idle_) std::free(workspace.data);
}

void Executor::prepare() {
  const bool known = all_known(program_.input_shapes) &&
                     std::none_of(program_.input_shapes.begin(), program_.input_shapes.end(), is_empty);
  if (known) {
    entry_for(program_.input_shapes);
  } else {
    // What was built to measure at assumed sizes is of no use.
    entries_.clear();
    instances_.clear();
    pack_weights(&program_);
  }
  for (Op& op : program_.ops) {
    op.source.reset();
    if (known) op.weights.reset();
  }
  fixed_ = known;
}

std::shared_ptr<const Instance> Executor::instance_for(const std::vector<Shape>& image_shapes) {
  for (auto& known : instances_)
    if (known.first == image_shapes) return known.second;
  if (fixed_)
    throw abi::Error("onnxprune: an input of shape " + to_string(image_shapes[0]) +
                     " where the model promised another one", abi::kInvalidArgument);
  InstanceOptions options;
  options.isa = options_.isa;
  options.threads = plan_threads_;
  options.generate_code = options_.generate_code;
  options.tuner = options_.tuner.get();
  const std::optional<Program> apart = with_sums_apart(program_, image_shapes);
  const Program& exact = apart ? *apart : program_;
  const std::optional<Program> trimmed = without_dead_taps(exact, image_shapes);
  auto instance = std::make_shared<const Instance>(trimmed ? *trimmed : exact, image_shapes, options);
  if (instances_.size() >= kMaxInstances) instances_.pop_back();
  instances_.insert(instances_.begin(), {image_shapes, instance});
  return instance;
}

std::shared_ptr<const Executor::Entry> Executor::make_entry(const std::vector<Shape>& shapes) {
  auto entry = std::make_shared<Entry>();
  entry->inputs = shapes;
  std::vector<Shape> all = infer_shapes(program_, shapes);
  for (int v : program_.outputs) entry->outputs.push_back(all[static_cast<size_t>(v)]);
  if (std::any_of(shapes.begin(), shapes.end(), is_empty)) {
    // Nothing to compute, unless all that is empty is a cache to be begun.
    bool begins = true;
    for (size_t i = 0; i < shapes.size(); ++i) begins &= !is_empty(shapes[i]) || only_a_cache(program_, program_.inputs[i]);
    if (!begins && has_cache(program_) && !std::all_of(entry->outputs.begin(), entry->outputs.end(), is_empty))
      throw abi::Error("onnxprune: no tokens to be put behind a cache", abi::kInvalidArgument);
    if (!begins) return entry;
  }
  std::vector<Shape> image_shapes = shapes;
  if (program_.domain == Domain::image) {
    entry->images = shapes[0][0];
    for (Shape& shape : image_shapes) {
      if (shape[0] != entry->images)
        throw abi::Error("onnxprune: inputs of different batch sizes", abi::kInvalidArgument);
      shape[0] = 1;
    }
  }
  entry->instance = instance_for(image_shapes);
  return entry;
}

std::shared_ptr<const Executor::Entry> Executor::entry_for(const std::vector<Shape>& shapes) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i]->inputs != shapes) continue;
    if (i > 0) std::rotate(entries_.begin(), entries_.begin() + static_cast<std::ptrdiff_t>(i),
                           entries_.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    return entries_[0];
  }
  auto entry = make_entry(shapes);
  if (entries_.size() >= kMaxEntries) entries_.pop_back();
  entries_.insert(entries_.begin(), entry);
  return entry;
}

// The interface does not tell how many threads the session has: run many small tasks that wait for
// each other for a moment and count the threads that turn up.
void Executor::find_threads(abi::KernelContext* context) {
  struct Probe {
    std::mutex mutex;
    std::vector<std::thread::id> seen;
    std::chrono::steady_clock::time_point deadline;
  } probe;
  const int limit = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  probe.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(2);
  abi::check(abi::fn().KernelContext_ParallelFor(
      context,
      [](void* data, size_t) {
        auto* p = static_cast<Probe*>(data);
        {
          std::lock_guard<std::mutex> lock(p->mutex);
          auto self = std::this_thread::get_id();
          if (std::find(p->seen.begin(), p->seen.end(), self) == p->seen.end()) p->seen.push_back(self);
        }
        while (std::chrono::steady_clock::now() < p->deadline) std::this_thread::yield();
      },
      static_cast<size_t>(limit), 0, &probe));
  std::lock_guard<std::mutex> lock(mutex_);
  if (threads_ == 0) threads_ = static_cast<int>(std::max<size_t>(1, probe.seen.size()));
}

void Executor::run(abi::KernelContext* context) {
  const size_t count = program_.inputs.size();
  std::vector<Shape> shapes(count);
  std::vector<const float*> inputs(count);
  for (size_t i = 0; i < count; ++i) {
    const abi::Value* value = nullptr;
    abi::check(abi::fn().KernelContext_GetInput(context, input_slots_[i], &value));
    if (value == nullptr) throw abi::Error("onnxprune: an input is missing", abi::kInvalidArgument);
    abi::TensorDesc desc = abi::describe(value);
    if (desc.type != program_.input_types[i])
      throw abi::Error("onnxprune: an input has another type than the model promised", abi::kInvalidArgument);
    shapes[i] = std::move(desc.dims);
    inputs[i] = static_cast<const float*>(abi::tensor_data(value));
  }
  if (threads_ == 0) find_threads(context);
  std::shared_ptr<const Entry> entry = entry_for(shapes);
  std::vector<float*> outputs(program_.outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    abi::Value* value = nullptr;
    const Shape& shape = entry->outputs[i];
    abi::check(abi::fn().KernelContext_GetOutput(context, output_slots_[i], shape.data(), shape.size(), &value));
    outputs[i] = static_cast<float*>(const_cast<void*>(abi::tensor_data(value)));
  }
  if (!entry->instance) return;

  const Instance& instance = *entry->instance;
  std::vector<double> microseconds(options_.profile ? instance.steps().size() : 0, 0.0);
  auto one = [&](int64_t image, Parallel* parallel, double* times) {
    std::vector<const float*> in(inputs);
    std::vector<float*> out(outputs);
    // Pointers to integers travel as those to floats.
    const auto advance = [&](auto* pointer, const Shape& shape, int32_t type) {
      const int64_t bytes = image * (elements(shape) / entry->images) * (type == abi::kFloat ? 4 : 1);
      return reinterpret_cast<decltype(pointer)>(reinterpret_cast<uintptr_t>(pointer) + static_cast<uintptr_t>(bytes));
    };
    for (size_t i = 0; i < in.size(); ++i) in[i] = advance(in[i], shapes[i], program_.input_types[i]);
    for (size_t i = 0; i < out.size(); ++i) out[i] = advance(out[i], entry->outputs[i], program_.output_types[i]);
    WorkspaceLease workspace(this, instance.workspace_bytes());
    instance.run(in.data(), out.data(), workspace.data(), parallel, times);
  };
  SessionParallel parallel(context, threads_);
  SerialParallel serial;
  if (threads_ > 1 && entry->images >= threads_ && !options_.profile) {
    // Enough images for everybody: one thread an image, no meeting points inside.
    parallel.run(static_cast<int>(entry->images), [&](int image) { one(image, &serial, nullptr); });
  } else {
    Parallel* inner = threads_ > 1 ? static_cast<Parallel*>(&parallel) : &serial;
    for (int64_t image = 0; image < entry->images; ++image)
      one(image, inner, options_.profile ? microseconds.data() : nullptr);
  }
  if (options_.profile) record(instance, microseconds);
}

void Executor::record(const Instance& instance, const std::vector<double>& microseconds) {
  for (size_t i = 0; i < microseconds.size(); ++i) {
    StepTime time;
    time.name = instance.steps()[i].label;
    time.kernel = instance.steps()[i].kernel;
    time.group = options_.group;
    time.calls = 1;
    time.total_us = time.best_us = microseconds[i];
    options_.log->add_time(time);
  }
}

std::vector<NodeKernel> Executor::kernels() const {
  if (!instances_.empty()) return instances_.front().second->kernels();
  std::vector<NodeKernel> out;
  for (const Op& op : program_.ops)
    for (const std::string& node : op.nodes) out.push_back({node, op.weights ? op.weights->name() : "planes"});
  return out;
}

}  // namespace onnxprune::ep
