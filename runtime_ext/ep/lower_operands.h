// What an attention computes before its products: rotary embeddings of queries and keys, and caches that its
// keys and values are put behind.
#pragma once

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "ep/lower_internal.h"
#include "ep/weave.h"

namespace onnxprune::ep {

class OperandParts {
 public:
  OperandParts(const LowerContext& context, Tracer* tracer, Weaver* weaver)
      : context_(context), graph_(context.graph), tracer_(*tracer), weaver_(*weaver) {}

  // The value, of the graph or of a unit of `take`, that holds the planes of `w`.
  int planes(const Woven& w);
  // The value that the tensor `w` is part of. Where planes are put behind it in the graph, that too is done.
  int cache(const Woven& w, const AttentionSpec::Axes& axes);
  // Adds a constant to the features of an operand before anything else is done with it.
  void add_first(const Woven& w, std::vector<float> bias);
  // Makes `present`: `past` (-1: none), as it is kept, and behind it, along the last axis but one, `added`.
  void append(int present, int past, const Woven& added);
  // Values that the collected nodes make and others read, though they lead back to none of `operands` and no part
  // of a cache: tables that are moved once for many.
  std::set<int> shared_tables(std::vector<int> operands) const;
  // Whether of all values that the collected nodes make, only the result of `last` and those that are made
  // as onnxruntime keeps them are read elsewhere, and by nodes that nothing here depends on.
  bool show(int last);
  // Values of the graph read.
  std::vector<int> read() const;
  std::vector<Unit> take() { return std::move(units_); }

 private:
  int add(Unit unit);
  int looked_up(const Lookup& lookup);
  // Makes `value`, a tensor of the graph that others read, of operands laid out as `spec` says.
  int add_shown(SpreadSpec spec, std::vector<int> in, int value);
  bool part(const Woven& w, SpreadSpec::Part* part);
  bool follows_itself(int value) const;

  const LowerContext& context_;
  const Graph& graph_;
  Tracer& tracer_;
  Weaver& weaver_;
  std::vector<Unit> units_;
  std::vector<std::pair<Woven, int>> made_;  // planes, and the value that holds them
  std::map<int, int> replaced_;              // values, and what is read for them
  std::map<int, int> looked_up_;             // lookups by number, and the value that holds the rows
  std::vector<int> shown_;  // values of the graph that units make
};

}  // namespace onnxprune::ep
