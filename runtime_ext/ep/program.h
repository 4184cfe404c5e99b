// What a claimed group of nodes computes, independent of image size and of onnxruntime.
//
// Values are numbered; every value has one producer. Three ways to see a tensor, one per program:
//   image   [N, C, spatial...] (or [N, C]): N images of C planes, run image by image
//   tokens  [..., F]: all leading dims together are tokens, F features are the planes
//   left    [..., C, W]: a constant multiplies from the left; C rows are the planes, W pixels
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ep/attention.h"
#include "ep/dims.h"
#include "ep/resize.h"
#include "ep/shared.h"
#include "ep/sums.h"
#include "kernels/kernels.h"

namespace onnxprune::ep {

enum class Domain : uint8_t { image = 1, tokens = 2, left = 4 };
inline constexpr uint8_t kAnyDomain = 7;

enum class OpKind : uint8_t {
  conv = 0,     // weighted sum; Gemm and MatMul are 1x1 convolutions
  pool,         // sliding maximum or mean
  global_pool,  // over all pixels of a channel
  pointwise,    // activation of one value
  binary,       // add, subtract, multiply, divide two values
  affine,       // scale[c] * x + shift[c]
  concat,       // along channels
  reshape,      // image: [N, ...] -> [N, F]; tokens: other leading axes over the same features
  norm,         // tokens: over the features of each token, of a sum of one or two values
  attention,    // tokens: softmax(q k^T + mask) v
  recurrent,    // tokens: LSTM, GRU, RNN, given what its inputs contribute
  quantised_sum,  // of two quantised values
  decode,       // a quantised input as onnxruntime holds it, in the program's form
  encode,       // and an output the other way
  resize,       // image: to another height and width
  pick,         // image, tokens: some of the channels, in any order
  sums,         // tokens: sums of products of planes (rotary embeddings)
  spread,       // tokens: planes to a tensor that is as onnxruntime keeps it (a key-value cache)
  lookup,       // tokens: planes of a constant table by the position of each token (int64)
  interleave,   // image: several channels become one with as many times the pixels
  response_norm,  // image: by the channels around each (LRN)
  group_norm,   // image: over the pixels of groups of channels, of which one may be all
};

class Blob;
struct RecurrentSpec;

// Zeros and values of a constant weight, not yet packed: `dense`, or `blob` (then `dense` holds the
// strides only), or the three arrays of compressed rows.
struct WeightSource {
  Digest content;                                // of the model's constant
  int64_t nonzeros = 0;                          // of it
  kernels::DenseView dense;                      // points into the model's constant, or into `held`
  std::shared_ptr<const std::vector<float>> held;
  std::shared_ptr<const Blob> blob;              // points into the model's constant, too
  std::vector<int64_t> indptr;                   // rows + 1 entries
  std::vector<int32_t> indices;                  // columns, rising in a row
  std::vector<float> values;
  std::vector<float> row_scale;                  // empty = 1
  std::vector<float> bias;                       // empty = 0
  bool sparse_input() const { return !indptr.empty(); }
};

// What is known of the shapes of two operands. Those that may differ are broadcast where they do (ep/broadcast.h).
enum class Fit : uint8_t { same, open, different };

struct Op {
  OpKind kind = OpKind::pointwise;
  std::string label;               // names of the nodes it stands for, for messages
  std::vector<std::string> nodes;  // the same one by one
  std::vector<int> units;          // units of the lowering it was made from (not saved)
  std::vector<int> in;       // values
  int out = -1;
  std::vector<int> more;     // further results of a recurrent op
  int residual = -1;         // conv: value added before or after the activation (not in `in`)
  kernels::ConvGeometry geometry;  // conv, pool; interleave: factors as strides, what is cut off as pads;
                                   // group_norm: channels and groups
  kernels::ResponseNorm response;  // response_norm
  bool maximum = false;            // pool, global_pool: maximum instead of mean
  bool count_include_pad = false;  // mean pooling
  Shape target;                    // shape of the result, one -1 allowed: in tokens of any op but concat, in
                                   // images of a global_pool that drops its axes
  bool signs = false;              // decode, encode: int8, not uint8
  Fit fit = Fit::same;             // binary; conv: of its result with the residual
  kernels::Binary binary = kernels::Binary::add;
  kernels::Epilogue epilogue;      // conv, pointwise, binary, affine, group_norm
  std::vector<float> scale, shift; // affine; empty = 1 / 0, one entry = the same for all channels
                                   // norm, group_norm: gain and shift by feature or channel, empty = 1 / 0
                                   // quantised conv, global_pool: scale of the sums, by channel or one
                                   // quantised_sum: of numbers as stored, scale of each operand; their zero points,
                                   // the number added to the sum, and its zero point. Or, by the definition, the
                                   // scales of operands and result; no shift. decode, encode: the zero point
  std::vector<float> slope;        // affine with a leaky_relu: its alpha by channel; empty = the epilogue's
  std::vector<float> bias;         // norm: added first, by feature; may be empty
  float epsilon = 0;               // norm, group_norm
  bool centred = true;             // norm: false = root mean square
  std::vector<int32_t> channels;   // pick: which channel of the input each channel of the result is; interleave:
                                   // ... each phase of it, row by row
  std::shared_ptr<const ResizeSpec> resize;
  std::shared_ptr<const AttentionSpec> attention;  // q, k, v (and mask) in `in`
  std::shared_ptr<const RecurrentSpec> recurrent;
  std::shared_ptr<const SumsSpec> sums;
  std::shared_ptr<const SpreadSpec> spread;
  std::shared_ptr<WeightSource> source;             // conv, recurrent, until packed
  std::shared_ptr<const kernels::Weights> weights;  // the same, once packed
  Digest digest;                                    // of geometry, weight and bias
  bool has_weight() const { return kind == OpKind::conv || kind == OpKind::recurrent; }
};

// Of operand `k`: float, except lengths of sequences, masks and positions.
int32_t operand_type(const Op& op, size_t k);
// Whether values of a type enter a program as they are, without a decode op.
bool enters_as_is(int32_t type);

// Values that are quantised in the graph (Lowering::zeros) are held as floats: q minus its zero point.
struct Program {
  Domain domain = Domain::image;
  int value_count = 0;
  std::vector<Op> ops;                // in execution order
  std::vector<int> inputs, outputs;   // values, in the order of the fused node's inputs and outputs
  std::vector<int> slots;             // which input of the fused node each of `inputs` is; empty = in order
  std::vector<Shape> input_shapes;    // as far as known when compiled, -1 = open
  std::vector<int> output_ranks;
  std::vector<int32_t> input_types, output_types;  // abi::ElementType of each: float (also where there is
                                                   // none), 8-bit integers to be decoded and encoded, or what
                                                   // operand_type says
};

// Of geometry, weight source, factors and bias of a conv.
Digest weight_digest(const Op& op);

// The weight source of one operation packed, to be small or, otherwise, to be read fast; one that is held
// already, whoever packed it, is taken over. Throws std::runtime_error.
std::shared_ptr<const kernels::Weights> packed_weight(const Op& op, bool compact);

// Packs every weight source that is not packed yet, and lets go of all sources. Throws on failure.
void pack_weights(Program* program);

// A tensor of `domain` as images x channels x height x width.
struct View {
  int64_t images = 1, channels = 1, height = 1, width = 1;
  int64_t pixels() const { return height * width; }
};
View view(Domain domain, const Shape& shape);

}  // namespace onnxprune::ep
