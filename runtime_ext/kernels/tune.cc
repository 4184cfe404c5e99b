#include "tune.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>
#include <vector>

#include "cost.h"
#include "phases.h"
#include "plan_impl.h"

namespace onnxprune::kernels {
namespace {

// Kernels predicted to take longer than this many times the cheapest one are not tried.
constexpr double kHopeless = 2.2;
constexpr std::size_t kKernels = 3;  // tried at most
constexpr int kRounds = 3;           // timed runs of each; the fastest counts
constexpr double kLongRun = 1e-3;    // seconds; of longer runs a part is timed
// Seconds a weight that building all candidates takes, and those that timing all of them takes at
// least: problems too large for what is left of the time are not begun.
constexpr double kBuild = 3e-7, kTime = 4e-3;
// What the cost model prefers counts as this much faster than it was timed: timings are not exact.
constexpr double kTrust = 0.96;

struct Choice {
  const char* kernel = nullptr;
  Tuning tuning;
};

using Key = std::vector<std::int64_t>;

struct Memory {
  std::mutex mutex;
  std::map<Key, Choice> choices;
};
Memory& memory() {
  static Memory held;
  return held;
}

Key key_of(const WeightsImpl& w, const PlaneLayout& in, const PlaneLayout& out,
           const PlanOptions& o) {
  const ConvGeometry& g = w.shape;
  // Numbers of weights within some six per cent count as equal.
  const auto amount = static_cast<std::int64_t>(
      std::lround(12.0 * std::log2(1.0 + static_cast<double>(w.nnz()))));
  return {g.in_channels,
          g.out_channels,
          g.groups,
          g.kernel_h,
          g.kernel_w,
          g.stride_h,
          g.stride_w,
          g.dilation_h,
          g.dilation_w,
          in.height,
          in.width,
          in.pitch,
          in.plane_stride,
          out.pitch,
          out.plane_stride,
          out.stride_h,
          amount,
          static_cast<std::int64_t>(w.kind),
          w.block_rows,
          static_cast<std::int64_t>(o.isa),
          o.generate_code ? 1 : 0,
          o.threads,
          static_cast<std::int64_t>(o.epilogue.activation),
          static_cast<std::int64_t>(o.epilogue.residual)};
}

bool recall(const Key& key, Choice* choice) {
  Memory& held = memory();
  const std::lock_guard<std::mutex> lock(held.mutex);
  const auto known = held.choices.find(key);
  if (known == held.choices.end()) return false;
  *choice = known->second;
  return true;
}

void keep(const Key& key, const Choice& choice) {
  Memory& held = memory();
  const std::lock_guard<std::mutex> lock(held.mutex);
  held.choices[key] = choice;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Other cuts of a kernel that are fastest somewhere: less or more input per column block, shorter
// tiles.
std::vector<Tuning> variants(const KernelRecord& kernel) {
  const CacheSizes caches = cache_sizes();
  const std::int64_t first = caches.l1_data * 3 / 4, between = 2 * caches.l1_data;
  auto with = [](std::int64_t budget, std::int32_t vectors) {
    Tuning t;
    t.input_budget = budget;
    t.max_vectors = vectors;
    return t;
  };
  if (kernel.entry.generated) return {with(0, 8), with(first, 16), with(first, 8)};
  if (kernel.family == Family::winograd) return {};
  if (kernel.family == Family::csr) return {with(first, 8), with(between, 0), with(0, 8)};
  if (kernel.family == Family::rows4) return {with(first, 0), with(caches.l2 / 3, 0)};
  return {with(first, 0), with(between, 0)};
}

struct Candidate {
  Choice choice;
  PlanPtr plan;
  double best = std::numeric_limits<double>::max();
};

}  // namespace

struct Tuner::Buffers {
  std::vector<float> in, out, residual, scratch, other;

  static float* aligned(std::vector<float>* v, std::int64_t floats) {
    const auto needed = static_cast<std::size_t>(floats) + kLane;
    if (v->size() < needed) v->assign(needed, 0.5f);
    const auto address = reinterpret_cast<std::uintptr_t>(v->data());
    return v->data() + (64 - address % 64) % 64 / sizeof(float);
  }

  // Drives what the last run left out of the second-level cache, as other layers do.
  void evict() {
    const auto floats = static_cast<std::size_t>(cache_sizes().l2 / 4 * 5 / 4);
    if (other.size() < floats) other.assign(floats, 0.0f);
    for (std::size_t i = 0; i < floats; i += kLane) other[i] += 1.0f;
  }

  void time(const WeightsImpl& w, std::vector<Candidate>* candidates) {
    RunArgs args;
    const Plan& any = *candidates->front().plan;
    args.in = aligned(&in, any.in_layout().buffer_floats(w.shape.in_channels));
    args.out = aligned(&out, any.out_layout().buffer_floats(w.shape.out_channels));
    args.residual = aligned(&residual, any.out_layout().buffer_floats(w.shape.out_channels));
    for (int round = 0; round <= kRounds; ++round) {
      for (Candidate& c : *candidates) {
        void* area = aligned(&scratch, static_cast<std::int64_t>(c.plan->scratch_bytes() / 4 + 1));
        const std::int64_t items = c.plan->work_items(1);
        const double share = round == 0 || c.best < kLongRun ? 1.0 : kLongRun / c.best;
        const std::int64_t part = std::clamp<std::int64_t>(
            static_cast<std::int64_t>(std::ceil(share * static_cast<double>(items))), 1, items);
        evict();
        const double start = now();
        c.plan->run(args, 0, part, area);
        const double taken =
            (now() - start) * static_cast<double>(items) / static_cast<double>(part);
        // The first run pays for pages never touched before.
        if (round == 0 || taken < c.best || round == 1) c.best = taken;
      }
    }
  }
};

Tuner::Tuner(double seconds) : left_(seconds) {}
Tuner::~Tuner() = default;

void Tuner::release() {
  const std::lock_guard<std::mutex> lock(mutex_);
  buffers_.reset();
}

Status Tuner::tune(const Weights& weights, const PlaneLayout& in, const PlaneLayout& out,
                   const PlanOptions& options, PlanPtr* plan) {
  return guarded([&]() -> Status {
    const auto& w = static_cast<const WeightsImpl&>(weights);
    const std::lock_guard<std::mutex> lock(mutex_);
    // Windows have one kernel each: nothing to choose.
    if (left_ <= 0 || in.plane_stride == 1 || options.kernel != nullptr || walks_planes(w.shape))
      return {};
    if (!buffers_) buffers_ = std::make_unique<Buffers>();
    const Key key = key_of(w, in, out, options);
    Choice known;
    if (recall(key, &known) || kBuild * static_cast<double>(w.nnz()) + kTime > left_) return {};
    const double start = now();
    const CostInput cost = cost_input(w, flat_pixels(out.height, out.width, in.pitch));
    const bool code = options.generate_code && code_generation_available(nullptr);
    std::vector<Candidate> candidates;
    auto add = [&](const KernelRecord& kernel, const Tuning& tuning) {
      Candidate c;
      c.choice = {kernel.entry.name, tuning};
      PlanOptions o = options;
      o.kernel = kernel.entry.name;
      if (make_tuned_plan(weights, in, out, o, tuning, &c.plan).ok())
        candidates.push_back(std::move(c));
    };
    double cheapest = 0;
    for (const std::size_t k : rank_kernels(cost, options.isa, code)) {
      const double cycles = kernel_cycles(kernel_record(k), cost);
      if (candidates.empty()) cheapest = cycles;
      if (candidates.size() < kKernels && cycles <= kHopeless * cheapest)
        add(kernel_record(k), Tuning{});
    }
    if (candidates.empty()) return {};  // make_plan will say why
    auto faster = [](const Candidate& a, const Candidate& b) { return a.best < b.best; };
    buffers_->time(w, &candidates);
    candidates.front().best *= kTrust;
    std::stable_sort(candidates.begin(), candidates.end(), faster);
    candidates.resize(1);
    const KernelRecord& kernel = kernel_record(find_kernel(candidates[0].choice.kernel));
    for (const Tuning& tuning : variants(kernel)) add(kernel, tuning);
    buffers_->time(w, &candidates);
    candidates.front().best *= kTrust;
    auto best = std::min_element(candidates.begin(), candidates.end(), faster);
    keep(key, best->choice);
    *plan = std::move(best->plan);
    left_ -= now() - start;
    return {};
  });
}

Status make_remembered_plan(const Weights& weights, const PlaneLayout& in, const PlaneLayout& out,
                            const PlanOptions& options, PlanPtr* plan) {
  Choice choice;
  const auto& w = static_cast<const WeightsImpl&>(weights);
  bool known = false;
  if (in.plane_stride != 1 && options.kernel == nullptr) {
    const Status status = guarded([&]() -> Status {
      known = recall(key_of(w, in, out, options), &choice);
      return {};
    });
    if (!status.ok()) return status;
  }
  if (known) {
    PlanOptions o = options;
    o.kernel = choice.kernel;
    if (make_tuned_plan(weights, in, out, o, choice.tuning, plan).ok()) return {};
  }
  return make_plan(weights, in, out, options, plan);
}

}  // namespace onnxprune::kernels
