// Shared by the lower_*.cc files: one function an operator family.
#pragma once

#include <stdexcept>
#include <unordered_map>

#include "ep/blob.h"
#include "ep/custom_ops.h"
#include "ep/lower.h"

namespace onnxprune::ep {

// Thrown by a lowering that meets something it cannot compute exactly; the text is the reason.
struct Unsupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What takes the place of values that nodes of the same unit make: dequantised ones.
struct StandIns {
  std::unordered_map<int, int> activations;     // the quantised value
  std::unordered_map<int, Constant> constants;  // whole numbers, as floats
};

struct LowerContext {
  const Graph& graph;
  std::vector<Dims>& dims;  // by value
  std::vector<int>& zeros;  // by value, see Lowering
  bool alone = false;  // see lower()
  const StandIns* stand_ins = nullptr;

  const Dims& of(int value) const { return dims[static_cast<size_t>(value)]; }
  // Throws when the quantised value is known to have another zero point.
  void has_zero(int value, int zero) const;
  // Input `i` as a float tensor computed at run time.
  int activation(const GraphNode& node, size_t i) const;
  // Input `i` as a constant float tensor.
  Constant weight(const GraphNode& node, size_t i, const char* what) const;
};

// The constant matrix of a weighted sum: dense, or packed in a blob of domain ai.onnxprune.
struct WeightInput {
  Shape dims;
  const float* dense = nullptr;
  std::shared_ptr<const Blob> blob;
  // Hands it to the operation, which has its geometry already.
  void give(int64_t row_stride, int64_t column_stride, Unit* unit) const;
};
// Input `i` as such. The weight of a packed node is always input 1.
WeightInput weight_input(const LowerContext& context, const GraphNode& node, size_t i);
inline bool is_packed(const GraphNode& node) { return node.domain == kPackedDomain; }

inline uint8_t bit(Domain domain) { return static_cast<uint8_t>(domain); }

void lower_conv(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_gemm(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_matmul(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_pool(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_global_pool(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_binary(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_batch_norm(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_response_norm(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_group_norm(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_concat(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_prelu(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_resize(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_conv_transpose(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_depth_to_space(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_slice(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_split(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_reshape(const LowerContext& context, const GraphNode& node, Unit* unit);
// False when `node` is no activation.
bool lower_activation(const LowerContext& context, const GraphNode& node, Unit* unit);
// False when `node` is no recurrent layer.
bool lower_recurrent(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_norm(const LowerContext& context, const GraphNode& node, Unit* unit);
// Spelled as several nodes, `last` being the final one: normalisations, attention, activations. False
// when there is none; true with all of the unit filled in.
bool lower_norm_chain(const LowerContext& context, int last, Unit* unit);
bool lower_group_norm_chain(const LowerContext& context, int last, Unit* unit);
bool lower_attention(const LowerContext& context, int last, Unit* unit);
// Why a node that is an attention by itself could not be lowered.
std::string why_no_attention(const LowerContext& context, int last);
bool lower_composite(const LowerContext& context, int last, Unit* unit);
// A product of rows between reshapes that flatten all leading axes and restore them.
bool lower_flat_product(const LowerContext& context, int last, Unit* unit);
// Channels put into another order by reshapes and a transposition.
bool lower_shuffle(const LowerContext& context, int last, Unit* unit);

// Where sizes that the graph computes come from, axis by axis: from the input, as they are or times a whole number,
// or from one other image, which becomes the second operand. Nodes that compute nothing else join the unit.
std::vector<ResizeSpec::Axis> computed_sizes(const LowerContext& context, const GraphNode& node, const Shape& axes, Unit* unit);
// The nodes of a unit that is about to be the last one become its own, also those that compute sizes and were units by
// themselves; those that another resized image has stay there.
void take_nodes(Unit* unit, Lowering* lowering);
// Images resized to sizes that are computed once for all of them stay together, or none of them is supported.
void link_resized(const Graph& graph, Lowering* lowering);

// Views in which a constant of shape `c` is one number per channel of `x` (or one number at all).
uint8_t channel_views(const Dims& x, const Shape& c);

// A float operator between nodes that dequantise and quantise.
struct QuantisedChain {
  int core = -1;           // the operator
  std::vector<int> clips;  // Relu and Clip behind it
  int quantise = -1;       // the last node; -1 when the result stays float
  std::vector<int> nodes;  // all of them, in the order of the graph
};
// Whether `last` is the final node of one whose nodes nobody else reads.
bool match_quantised(const Graph& graph, int last, QuantisedChain* chain);
void lower_quantised(const LowerContext& context, const QuantisedChain& chain, Unit* unit);
// Such nodes by themselves.
void lower_quantise(const LowerContext& context, const GraphNode& node, Unit* unit);
void lower_dequantise(const LowerContext& context, const GraphNode& node, Unit* unit);

// Whether there is such a value (not -1) and anybody reads it.
bool is_read(const Graph& graph, int value);
// Scalar constant of one element behind a value, if it is one.
bool scalar_constant(const Graph& graph, int value, float* out);

}  // namespace onnxprune::ep
