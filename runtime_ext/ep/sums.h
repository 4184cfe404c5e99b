// What rotary embeddings and key-value caches are in planes: sums of products of planes, and planes put where
// a tensor with heads on an axis of their own has them, perhaps behind what it was before.
#pragma once

#include <vector>

#include "ep/dims.h"
#include "kernels/kernels.h"

namespace onnxprune::ep {

// Operands: the one whose tokens the result has, then others; constant ones follow them by number.
struct SumsSpec {
  struct Table {
    int64_t tokens = 0;
    std::vector<float> planes;  // [plane][token]
  };
  std::vector<kernels::PlaneSums::Term> terms;
  std::vector<int32_t> starts;  // of each plane's terms, and the end
  std::vector<Table> tables;
  // Other tables than those of one token repeat by whole sequences, of so many tokens; -1: the last axis but one
  // of the first operand.
  int64_t sequence = -1;
};

// Throws std::invalid_argument where terms do not fit each other or (after loading) `operands`.
void check_sums(const SumsSpec& spec, size_t operands);
// The same where there is a table and nothing else, to be looked up in.
void check_lookup(const SumsSpec& spec, size_t operands);
// Shape of the result. Throws when the operands do not fit.
Shape sums_shape(const SumsSpec& spec, const std::vector<Shape>& operands);

// The operands after each other along one axis of the result.
struct SpreadSpec {
  enum Role : uint8_t { one = 0, batch = 1, token = 2, feature = 3 };
  struct Part {
    std::vector<uint8_t> roles;     // of each axis; empty: the operand is read as onnxruntime keeps it
    std::vector<int64_t> sizes;     // of each axis of features, 1 of others
    std::vector<int32_t> features;  // plane of each, outermost axis first
    int64_t tokens = -1;            // of one batch; 0: all; -1: the operand's last axis but one
    bool in_planes() const { return !roles.empty(); }
  };
  int32_t axis = -1;  // -1: a single part
  std::vector<Part> parts;
};

void check_spread(const SpreadSpec& spec);
// Shape of a part, from its operand's.
Shape part_shape(const SpreadSpec::Part& part, const Shape& operand);
Shape spread_shape(const SpreadSpec& spec, const std::vector<Shape>& operands);

}  // namespace onnxprune::ep
