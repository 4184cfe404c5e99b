// Follows a tensor back through reshapes, transpositions, slices and scalar factors to the value
// that holds its numbers, and says where in that value each of its axes lies.
#pragma once

#include <optional>
#include <set>
#include <vector>

#include "ep/computed.h"

namespace onnxprune::ep {

// A part of one axis of the source: `size` steps of `inner` elements of that axis. Axis -1: the same
// element again and again (a repeated head).
struct Atom {
  int axis = 0;
  int64_t inner = 1;
  Dim size;
};
using Atoms = std::vector<Atom>;

struct Traced {
  int source = -1;           // value
  std::vector<Atoms> axes;   // of the traced tensor, outermost part first; axes of size 1 are empty
  Shape offset;              // first element, by axis of the source
  double scale = 1;          // the traced tensor is this many times the source
};

class Tracer : public Computed {
 public:
  using Computed::Computed;

  // The nodes walked over are added to `nodes()`.
  std::optional<Traced> trace(int value);
  bool stops(int value) const { return stops_.count(value) != 0; }
  // One step of it: the operand of which `value` holds the same numbers, or so many times them; -1 when there
  // is none. Then `step` says what that does to the axes; false where it is more than moving them.
  int moved(int value, double* factor) const;
  bool step(const GraphNode& node, int value, Traced* t) const;
  // The value by itself.
  Traced itself(int value) const;
  // The nodes walked over so far.
  const std::set<int>& nodes() const { return nodes_; }
  void restore(std::set<int> nodes) { nodes_ = std::move(nodes); }
  void include(int node) { nodes_.insert(node); }
  // Not to look behind these values.
  void stop_at(std::set<int> values) { stops_ = std::move(values); }
  // Values that the collected nodes make and others read.
  std::set<int> read_elsewhere() const;
  // True when there are none but the results of `last`.
  bool isolated(int last) const;

  // Adds nodes that compute something for the collected ones alone (sizes, factors), but none that makes
  // one of `kept`.
  void absorb(const std::vector<int>& kept);

 private:
  bool sliced(const GraphNode& node, Traced* t) const;
  bool repeated(const GraphNode& node, int value, Traced* t) const;
  bool taken(const GraphNode& node, int value, Traced* t) const;

  std::set<int> stops_;
  std::set<int> nodes_;
};

// Cuts atoms, in order, into axes of these dims; at most one of them may be open without being the
// size of an atom. Nothing when they do not fit.
std::optional<std::vector<Atoms>> cut_atoms(const Atoms& atoms, const Dims& dims);

}  // namespace onnxprune::ep
