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
    if (rank == 3) s.width = known(dims[2], kAssumedPixels * kAssumedPixels);
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

}  // namespace

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
      const int64_t pixels = y.height * (y.width + (unit.op.geometry.kernel_w > 1 ? 1 : 0));
      return static_cast<double>(y.images) * kernels::estimate_cycles(unit.analysis, pixels, isa, generate_code);
    }
    case OpKind::pool:
      return 0.2 * out * unit.op.geometry.taps();
    case OpKind::global_pool:
      return kFuseless * floats(lowering.dims[static_cast<size_t>(unit.op.in[0])]);
    case OpKind::pointwise:
    case OpKind::affine:
      return fuses(graph, lowering, unit) ? 0 : 2 * kFuseless * out;
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
      return static_cast<double>(y.images) * kernels::estimate_dense_cycles(unit.op.geometry, y.height * y.width, isa);
    }
    case OpKind::pool:
      return 0.2 * out * unit.op.geometry.taps();
    case OpKind::global_pool:
      return kFuseless * floats(lowering.dims[static_cast<size_t>(unit.op.in[0])]);
    case OpKind::pointwise:
    case OpKind::affine:
      return fuses(graph, lowering, unit) ? 0 : kCall + 2 * kFuseless * out;
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
