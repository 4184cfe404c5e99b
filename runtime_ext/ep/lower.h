// From graph nodes to operations of a program: what can be computed exactly, and what cannot and why.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ep/dims.h"
#include "ep/graph.h"
#include "ep/program.h"

namespace onnxprune::ep {

// One or several nodes that become one operation (x * Sigmoid(x) is one SiLU).
struct Unit {
  std::vector<int> nodes;    // graph nodes; the last one makes the result
  bool supported = false;
  std::string reason;        // why not supported
  uint8_t domains = 0;       // bit set of Domain: the views it can be computed in
  // What comes before: the op, and those of them that are later, read the result of the first where they have
  // kBefore, of the second where they have kBefore - 1 and so on. Nobody else reads it, unless the op names a
  // value of the graph that it makes.
  std::vector<Unit> before;
  Op op;                     // values are graph values; weights are a source, not packed
  Dims dims;                 // of the result
  // Further results of the same node: operations on the same input.
  struct Also {
    Op op;
    Dims dims;
  };
  std::vector<Also> also;
  // Units that are of use only together with this one, and it with them: they share nodes that compute sizes, which
  // are among those of one.
  std::vector<int> together;
  bool anchor = false;       // has a constant weight matrix
  bool packed = false;       // stored packed: without us our own operator would run it, slower
  bool quantised = false;    // the CPU provider computes with 8-bit integers
  bool has_sign = false;     // ... and those of the weight are signed, which is faster where there are VNNI
  double sparsity = 0;       // fraction of zeros of that weight, and of those before
  int64_t padding = 0;       // zeros in them that the model's weight does not have
  kernels::Analysis zeros;   // how they lie, from a sample of the rows; no rows = not looked at
};

// Where no zero point is known.
constexpr int kNoZero = 1 << 20;

inline constexpr int kBefore = -2;
// Values of the graph that a unit reads, and those that it makes.
std::vector<int> values_read(const Unit& unit);
std::vector<int> results(const Unit& unit);

// The whole graph as units in execution order, every node in exactly one.
struct Lowering {
  std::vector<Unit> units;
  std::vector<int> unit_of;  // by node
  std::vector<Dims> dims;    // by value: what is known about its shape
  std::vector<int> zeros;    // by value: zero point of a quantised one, from which it is held as a difference
  std::vector<bool> as_kept;  // by value: units make and read it as onnxruntime keeps it (masks, caches)
};

// `alone`: nothing outside the nodes that will be claimed may be relied on, because they will be lowered
// again without the rest of the graph.
Lowering lower(const Graph& graph, bool alone);

// Weights with at least this fraction of zeros are looked at (`Unit::zeros`); of others the zeros are
// only counted. Above 1 nothing is looked at. Packed ones are unpacked and packed again for the kernels.
void look_at_weights(double look_from, Lowering* lowering);

// Of all that decides what is claimed of the graph, except options: the same graph with the same weights
// has the same, whoever loads it.
Digest lowering_digest(const Graph& graph, const Lowering& lowering);

// Packs the weights of these units (the operations then have `weights`); those that turn out to be too
// large for the kernels are no longer supported.
void pack_units(const std::vector<int>& units, Lowering* lowering);

}  // namespace onnxprune::ep
