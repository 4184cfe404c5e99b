#include "ep/cost.h"

#include <algorithm>
#include <chrono>

namespace onnxprune::ep {
namespace {

// Stand-ins for sizes that are open until run time. Costs of both sides grow alike with them, so the
// decision depends on them little.
constexpr int64_t kAssumedPixels = 32;  // along each spatial axis
constexpr int64_t kAssumedTokens = 64;  // all leading axes together
constexpr double kFuseless = 0.25;      // cycles to read or write one float in passing
constexpr double kCached = 23;          // bytes a cycle that dense weights come in from the caches
constexpr double kUncached = 7;         // ... and from memory
constexpr double kCacheBytes = 24e6;
constexpr double kGather = 1.4;         // cycles for each kept weight of a matrix times one vector
constexpr double kKept = 1.0;           // cycles for each kept weight, however few pixels
constexpr double kCurved = 0.6;         // cycles an element of Sigmoid and its like
constexpr double kCall = 1000;          // onnxruntime's own time for one node
constexpr double kTransposed = 1.0;     // ... with a transposition, or out of cache

int64_t known(const Dim& dim, int64_t otherwise) { return dim.known() ? std::max<int64_t>(dim.value, 0) : otherwise; }

struct Sizes {
  int64_t images = 1, height = 1, width = 1;
};

Sizes sizes_of(const Dims& dims, uint8_t domains) {
  Sizes s;
  const size_t rank = dims.size();
  if (domains & static_cast<uint8_t>(Domain::image)) {
    if (rank > 0) s.images = known(dims[0], 1);
    if (rank == 3) s.width = known(dims[2], kAssumedPixels * 2);
    if (rank == 4) s.height = known(dims[2], kAssumedPixels), s.width = known(dims[3], kAssumedPixels);
  } else if (domains & static_cast<uint8_t>(Domain::tokens)) {
    bool open = false;
    for (size_t i = 0; i + 1 < rank; ++i) {
      if (dims[i].known()) s.width *= dims[i].value;
      open |= !dims[i].known();
    }
    if (open) s.width *= kAssumedTokens;
  } else {
    for (size_t i = 0; i + 2 < rank; ++i) s.images *= known(dims[i], 1);
    if (rank > 0) s.width = known(dims[rank - 1], kAssumedTokens);
  }
  return s;
}

// The unit that makes `value`, if it is a weighted sum and nobody else reads the value: then this unit
// disappears into it.
bool fuses_into_producer(const Graph& graph, const Lowering& lowering, int value) {
  const GraphValue& v = graph.value(value);
  if (v.producer < 0 || v.graph_output || v.consumers.size() != 1 || v.uses != 1) return false;
  const Unit& producer = lowering.units[static_cast<size_t>(lowering.unit_of[static_cast<size_t>(v.producer)])];
  return producer.supported && producer.op.kind == OpKind::conv;
}

// Activations that need more than a clamp.
double curve(const kernels::Epilogue& epilogue, double elements) {
  using kernels::Activation;
  switch (epilogue.activation) {
    case Activation::sigmoid:
    case Activation::silu:
    case Activation::tanh:
    case Activation::gelu_erf:
    case Activation::gelu_tanh:
      return kCurved * elements;
    default:
      return 0;
  }
}

kernels::Isa best_isa() {
  for (kernels::Isa isa : {kernels::Isa::avx512, kernels::Isa::avx2})
    if (kernels::isa_supported(isa)) return isa;
  return kernels::Isa::scalar;
}

}  // namespace

int64_t assumed_size(size_t rank, size_t axis, Domain domain) {
  if (axis == 0 && (domain == Domain::image || rank > 2)) return 1;
  if (domain == Domain::image) return rank == 4 ? kAssumedPixels : kAssumedPixels * 2;
  return kAssumedTokens;
}

double CostModel::floats(const Dims& dims) {
  double n = 1;
  size_t i = 0;
  for (const Dim& dim : dims) {
    const int64_t open = i == 0 ? 1 : dims.size() == 4 ? kAssumedPixels : kAssumedTokens;
    n *= static_cast<double>(known(dim, open));
    ++i;
  }
  return n;
}

double CostModel::ours(const Graph& graph, const Lowering& lowering, const Unit& unit) const {
  const double out = floats(unit.dims);
  switch (unit.op.kind) {
    case OpKind::conv: {
      const Sizes y = sizes_of(unit.dims, unit.domains);
      const double kept = static_cast<double>(unit.analysis.nnz), images = static_cast<double>(y.images);
      if (y.height * y.width == 1) return images * kGather * kept;
      const int64_t pixels = y.height * (y.width + (unit.op.geometry.kernel_w > 1 ? 1 : 0));
      const int64_t whole = (pixels + kernels::kLane - 1) / kernels::kLane * kernels::kLane;
      return images * (kKept * kept + kernels::estimate_cycles(unit.analysis, whole, isa, generate_code));
    }
    case OpKind::pool:
      return 0.2 * out * unit.op.geometry.taps();
    case OpKind::global_pool:
      return kFuseless * floats(lowering.dims[static_cast<size_t>(unit.op.in[0])]);
    case OpKind::pointwise:
    case OpKind::affine:
      return curve(unit.op.epilogue, out) + (fuses(graph, lowering, unit) ? 0 : 2 * kFuseless * out);
    case OpKind::binary:
      return (fuses(graph, lowering, unit) ? 1 : 3) * kFuseless * out;
    case OpKind::concat:
    case OpKind::reshape:
      return 0;
  }
  return 0;
}

double CostModel::cpu(const Graph& graph, const Lowering& lowering, const Unit& unit) const {
  const double out = floats(unit.dims);
  switch (unit.op.kind) {
    case OpKind::conv: {
      const Sizes y = sizes_of(unit.dims, unit.domains);
      const kernels::ConvGeometry& g = unit.op.geometry;
      const double bytes = 4.0 * static_cast<double>(g.columns()) * g.out_channels;
      const double reading = bytes / (bytes < kCacheBytes ? kCached : kUncached);
      double work = kernels::estimate_dense_cycles(g, y.height * y.width, best_isa());
      // Few multiplications a number, as in depthwise convolutions: moving the numbers is the work.
      if (g.groups > 1)
        work = std::max(work, (0.9 + 0.2 * g.stride_h * g.stride_w) * floats(unit.dims) / static_cast<double>(y.images));
      return cpu_factor * static_cast<double>(y.images) * std::max(work, reading);
    }
    case OpKind::pool:
      return 0.2 * out * unit.op.geometry.taps();
    case OpKind::global_pool:
      return kFuseless * floats(lowering.dims[static_cast<size_t>(unit.op.in[0])]);
    case OpKind::pointwise:
    case OpKind::affine:
      return curve(unit.op.epilogue, out) + (fuses(graph, lowering, unit) ? 0 : kCall + 2 * kFuseless * out);
    case OpKind::binary:
      return fuses(graph, lowering, unit) ? kFuseless * out : kCall + 3 * kFuseless * out;
    case OpKind::concat:
      return kCall + 2 * kFuseless * out;
    case OpKind::reshape:
      return kCall;
  }
  return 0;
}

bool CostModel::fuses(const Graph& graph, const Lowering& lowering, const Unit& unit) const {
  const Op& op = unit.op;
  if (op.kind == OpKind::pointwise || op.kind == OpKind::affine) return fuses_into_producer(graph, lowering, op.in[0]);
  return op.kind == OpKind::binary && !op.gate && op.binary == kernels::Binary::add &&
         (fuses_into_producer(graph, lowering, op.in[0]) || fuses_into_producer(graph, lowering, op.in[1]));
}

double CostModel::pass(const Dims& dims) const { return 2 * kFuseless * floats(dims); }

double CostModel::border(const Lowering& lowering, int value, uint8_t domains) const {
  const Dims& dims = lowering.dims[static_cast<size_t>(value)];
  const Sizes s = sizes_of(dims, domains);
  if (s.height * s.width == 1) return 0;  // a vector has one form only
  return 2 * kTransposed * floats(dims);
}

double dense_factor() {
  static const double measured = [] {
    // A dense layer of ordinary size with our own dense kernel, which is about as fast as
    // onnxruntime's (measured: 0.93 to 0.97 of its speed).
    constexpr double kOurShare = 0.95;
    kernels::ConvGeometry g = kernels::matmul_geometry(128, 64);
    std::vector<float> weight(128 * 64, 0.5f);
    kernels::PackOptions pack;
    pack.storage = kernels::Storage::dense;
    kernels::WeightsPtr packed;
    kernels::PlanPtr plan;
    kernels::PlanOptions options;
    options.isa = best_isa();
    const kernels::PlaneLayout layout = kernels::make_layout(14, 14);
    if (!kernels::pack_dense(g, {weight.data(), 128, 1}, pack, &packed).ok() ||
        !kernels::make_plan(*packed, layout, layout, options, &plan).ok())
      return 1.0;
    std::vector<float> in(static_cast<size_t>(layout.buffer_floats(128)) + 16, 0.25f);
    std::vector<float> out(static_cast<size_t>(layout.buffer_floats(64)) + 16);
    std::vector<char> scratch(plan->scratch_bytes() + 64);
    auto aligned = [](auto* p) {
      return p + (64 - reinterpret_cast<uintptr_t>(p) % 64) % 64 / sizeof *p;
    };
    kernels::RunArgs args;
    args.in = aligned(in.data());
    args.out = aligned(out.data());
    double best = 1e9;
    for (int run = 0; run < 20; ++run) {
      const auto start = std::chrono::steady_clock::now();
      plan->run(args, 0, plan->work_items(1), aligned(scratch.data()));
      best = std::min(best, std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    }
    const double estimate = kernels::estimate_dense_cycles(g, 14 * 14, options.isa);
    return std::clamp(kOurShare * best * cycles_per_microsecond() / estimate, 0.5, 4.0);
  }();
  return measured;
}

double cycles_per_microsecond() {
  static const double measured = [] {
    // A chain of dependent additions runs at one a cycle; the empty assembly keeps the compiler from
    // seeing through it.
    using clock = std::chrono::steady_clock;
    double best = 0;
    for (int round = 0; round < 3; ++round) {
      constexpr int kSteps = 400000;
      uint64_t x = 1;
      const auto start = clock::now();
      for (int i = 0; i < kSteps; ++i) {
        x += 3;
        asm volatile("" : "+r"(x));
      }
      const double us = std::chrono::duration<double, std::micro>(clock::now() - start).count();
      best = std::max(best, kSteps / std::max(us, 1e-3));
    }
    return best;
  }();
  return measured;
}

}  // namespace onnxprune::ep
