// Follows a tensor back to sums of products of planes: what rotary embeddings are, however they are spelled.
//
// A movement (reshape, transposition, slice ...) only changes where a tensor's axes lie in the planes that
// it is made of; Neg, Add, Sub, Mul and Concat make new planes, each a few products of the planes of other
// values. So `rotate_half(x) * sin + x * cos` becomes, for every plane, two products.
#pragma once

#include <optional>
#include <vector>

#include "ep/lower_internal.h"
#include "ep/trace.h"

namespace onnxprune::ep {

// factor * plane of `a` * plane of `b`, at the same token. Values of the graph; `b` may be -1: no second one, or
// number kLookup - b of the weaver's lookups.
inline constexpr int kLookup = -2;
struct Product {
  int a = -1;
  int32_t a_plane = 0;
  int b = -1;
  int32_t b_plane = 0;
  double factor = 1;
  friend bool operator==(const Product& x, const Product& y) {
    return x.a == y.a && x.a_plane == y.a_plane && x.b == y.b && x.b_plane == y.b_plane && x.factor == y.factor;
  }
};

// Rows of two constant tables, cosines and sines, by the position of each token: planes of the one and then of the
// other.
struct Lookup {
  int cos = -1, sin = -1;  // values, [positions, planes]
  int positions = -1;      // value, [batch, tokens]; or constant, then of one number where that is the first token's
  int64_t tokens = 0;      // of a sequence, where that is so

  friend bool operator==(const Lookup& x, const Lookup& y) {
    return x.cos == y.cos && x.sin == y.sin && x.positions == y.positions && x.tokens == y.tokens;
  }
};

// A tensor in terms of planes: `traced` as ever, but the last axis of its source may stand for `planes`
// instead of the source's features. Its tokens are the source's leading axes.
struct Woven {
  Traced traced;
  std::vector<std::vector<Product>> planes;  // empty: the features of the source

  bool plain() const { return planes.empty(); }
  int feature_axis() const { return static_cast<int>(traced.offset.size()) - 1; }
  bool lead(const Atom& atom) const { return atom.axis >= 0 && atom.axis < feature_axis(); }
};

// Atoms of leading axes come in the order in which they lie in memory.
bool in_order(const Atoms& atoms);
bool same_size(const Atoms& a, const Atoms& b);
// The leading atoms of all axes.
Atoms leads(const Woven& w);

inline constexpr size_t kMostTerms = 8;  // of one plane

class Weaver {
 public:
  Weaver(const LowerContext& context, Tracer* tracer) : context_(context), graph_(context.graph), tracer_(*tracer) {}

  // Nodes walked over are added to the tracer's. Nothing when `value` is no tensor of floats.
  std::optional<Woven> weave(int value, int depth = 0);
  // Whether the tensor has all tokens of its source, in its order.
  bool whole(const Woven& w) const;
  // The planes that the tensor's features are, outermost axis first, each repeated as `sizes` (by axis, 1
  // for axes of tokens) says where it has none.
  std::optional<std::vector<int32_t>> features(const Woven& w, const std::vector<int64_t>& sizes) const;
  const std::vector<Lookup>& lookups() const { return lookups_; }
  // Sizes as above of its own axes.
  std::optional<std::vector<int64_t>> sizes(const Woven& w) const;

 private:
  std::optional<Woven> made(const GraphNode& node, int depth);
  std::optional<Woven> rotated(const GraphNode& node, int depth);
  std::optional<std::vector<int>> tables(const GraphNode& node, const Woven& x, int64_t planes, int depth, std::vector<int32_t>* first);
  std::optional<Woven> product(const Woven& x, const Woven& table) const;
  std::optional<Woven> sum(const Woven& a, const Woven& b, double sign) const;
  std::optional<Woven> joined(const std::vector<Woven>& parts, int64_t axis) const;
  bool same_tokens(const Woven& a, const Woven& b) const;
  bool repeats(const Woven& x, const Woven& table) const;
  Woven fresh(const Woven& of, const std::vector<int64_t>& sizes) const;
  std::vector<Product> terms(const Woven& w, int32_t plane) const;

  const LowerContext& context_;
  const Graph& graph_;
  Tracer& tracer_;
  std::vector<Lookup> lookups_;
};

}  // namespace onnxprune::ep
