// softmax(q k^T) v on values in the [feature][token] layout: what a graph says about it, and the
// kernel's arguments for concrete shapes.
#pragma once

#include <vector>

#include "ep/dims.h"
#include "kernels/kernels.h"

namespace onnxprune::ep {

// Operands: q, k, v and perhaps a mask, all but the mask as [..., tokens, features]; k and v may instead be
// read as onnxruntime keeps them (a cache), with heads on an axis of their own.
struct AttentionSpec {
  // Axes of such a tensor, -1 = it has none; `feature` is -1 where the tensor is in planes. First features
  // and steps count along their axes.
  struct Axes {
    int32_t batch = -1, head = -1, token = -1, feature = -1;
    Shape offset;  // of the first element, by axis
    bool dense() const { return feature >= 0; }
  };
  Axes k_axes, v_axes;
  int32_t dim = 0, value_dim = 0;            // features of one head of q and k, and of v
  std::vector<int32_t> q_head, k_head, v_head;  // first feature of each head
  int32_t q_step = 1, k_step = 1, v_step = 1;   // from one feature of a head to the next
  int64_t q_tokens = -1, k_tokens = -1;      // of one batch; -1: the operand's last axis but one
  float scale = 1, mask_scale = 1, fill = 0;
  using MaskOf = kernels::Attention::MaskOf;
  using Empty = kernels::Attention::Empty;
  MaskOf mask_of = MaskOf::floats;  // an operand, not a constant, may be of other numbers; they stand for 0 and
  float denied = 0;
  Empty empty = Empty::keep;
  // Which keys a query sees: all of them; as many as there are queries up to it; or so many behind those that
  // there are more than queries.
  enum class Causal : uint8_t { no, from_first, from_last };
  Causal causal = Causal::no;
  int32_t mask_gap = 0;  // axes of 1 that the mask lacks behind its first one
  // Axes of the scores, outermost first; the last two are queries and keys. A mask aligns with them at
  // the end. At most one batch and one head axis.
  enum Role : uint8_t { one = 0, batch = 1, head = 2 };
  std::vector<uint8_t> roles;
  Shape mask_shape;         // of a constant mask
  std::vector<float> mask;  // constant; empty = none, or an operand

  int32_t heads() const { return static_cast<int32_t>(q_head.size()); }
};

// Arguments without pointers, and without strides of operands in planes. `q`, `k`, `v` (and `mask`, null when there is none): shapes. Throws
// std::invalid_argument when they do not fit.
kernels::Attention attention_arguments(const AttentionSpec& spec, const Shape& q, const Shape& k, const Shape& v,
                                       const Shape* mask);
// Throws std::invalid_argument when features or heads lie outside the operands (after loading).
void check_attention(const AttentionSpec& spec);

}  // namespace onnxprune::ep
