// Operators other than weighted sums that a region needs, on planes. `first` / `last` are half-open
// ranges of channels (planes) so that a caller can spread the work. Images: call once per image.
// Every function writes all zero borders of the planes it writes. Output may equal input only where
// said so. All use the active instruction set.
#pragma once

#include <cstdint>
#include <vector>

#include "layout.h"
#include "plan.h"

namespace onnxprune::kernels {

// ---- pooling: window, stride, pads from `geometry` (in_channels = out_channels = groups). `in` is
// plain and need not have any padding, which does not take part.
Status max_pool(const ConvGeometry& geometry, const PlaneLayout& in, const float* source,
                const PlaneLayout& out, float* planes, std::int32_t first, std::int32_t last);
Status average_pool(const ConvGeometry& geometry, bool count_include_pad, const PlaneLayout& in,
                    const float* source, const PlaneLayout& out, float* planes, std::int32_t first,
                    std::int32_t last);
// Mean over all pixels of each channel: result[channel].
void global_average_pool(const PlaneLayout& in, const float* source, float* result,
                         std::int32_t first, std::int32_t last);
// The same of quantised numbers: act(sum * factor).
void global_sum_pool(const PlaneLayout& in, const float* source, float factor,
                     const Epilogue& epilogue, float* result, std::int32_t first,
                     std::int32_t last);
void global_max_pool(const PlaneLayout& in, const float* source, float* result, std::int32_t first,
                     std::int32_t last);

// ---- pointwise; out may equal a or b
// -------------------------------------------------------------
enum class Binary : std::uint8_t { add, subtract, multiply, divide };
// All three of the same layout.
void binary_planes(Binary op, const PlaneLayout& layout, const float* a, const float* b, float* out,
                   const Epilogue& epilogue, std::int32_t first, std::int32_t last);
// The same of planes of one image of which either operand may have a single channel, row or column where
// the result, whose layout is `layout`, has more: it counts for all of them. Layouts are plain.
struct PlaneOperand {
  PlaneLayout layout;
  std::int32_t channels = 1;
};
void broadcast_planes(Binary op, const PlaneLayout& layout, std::int32_t channels,
                      const PlaneOperand& a_planes, const float* a, const PlaneOperand& b_planes,
                      const float* b, float* out, const Epilogue& epilogue, std::int32_t first,
                      std::int32_t last);
// Sum of two quantised tensors held as differences from their zero points, to low .. high. As
// onnxruntime's kernel computes it from stored numbers, zero points included:
//   round((a + a_zero) * a_factor + ((b + b_zero) * b_factor + shift)) - zero
// or, with a step, by the operators' definitions: round((a * a_factor + b * b_factor) / step).
struct QuantisedSum {
  float a_factor = 1, b_factor = 1, a_zero = 0, b_zero = 0, shift = 0, zero = 0;
  float step = 0;  // 0 = none
  float low = 0, high = 0;
};
void quantised_sum_planes(const QuantisedSum& sum, const PlaneLayout& layout, const float* a,
                          const float* b, float* out, std::int32_t first, std::int32_t last);
// out = act(scale[c] * a + shift[c]); scale or shift may be null (1, 0). BN left over,
// squeeze-and-excitation gates, per-channel bias.
void affine_planes(const PlaneLayout& layout, const float* a, const float* scale,
                   const float* shift, float* out, const Epilogue& epilogue, std::int32_t first,
                   std::int32_t last);
// Quantised numbers (signed or not, as stored) as differences from their zero point, and back.
void decode(const std::uint8_t* from, bool has_sign, float zero, float* to, std::int64_t count);
void encode(const float* from, float zero, bool has_sign, std::uint8_t* to, std::int64_t count);
// out[i] = act(a[i]) over contiguous floats.
void activate(const Epilogue& epilogue, const float* a, float* out, std::int64_t count);

// ---- [feature][token] planes (height 1): ranges are over tokens, best in multiples of 16
// ---------- out = (x - mean) / sqrt(var + epsilon) * scale + shift over the features of each
// token, with x = a + b + bias[feature] when b / bias are given (SkipLayerNormalization; `sum_out`
// gets x when not null). scale and shift: [features], shift may be null. Not `centred`: the mean is
// taken to be zero (RMSNormalization; Zhang and Sennrich, 2019).
void layer_norm(const PlaneLayout& layout, std::int32_t features, const float* a, const float* b,
                const float* bias, const float* scale, const float* shift, float epsilon,
                bool centred, float* out, float* sum_out, std::int32_t first_token,
                std::int32_t last_token);
// Softmax over contiguous rows: out[r][c], row_stride floats apart; out may equal in. `mask`
// (nullable) is added to row r at mask + r * mask_stride first; `scale` multiplies before that.
void softmax_rows(const float* in, float* out, std::int64_t row_stride, std::int32_t columns,
                  float scale, const float* mask, std::int64_t mask_stride, std::int64_t first_row,
                  std::int64_t last_row);

// ---- dense products of two activations (attention)
// ------------------------------------------------ C[m][n] = alpha * sum_k A(m, k) * B(k, n), with
// A(m, k) = a[m * a_row + k * a_col] and B(k, n) = b[k * b_row + n] (rows of B and C contiguous).
// Rows first .. last-1 of C are computed.
void matmul_dense(std::int32_t m, std::int32_t n, std::int32_t k, float alpha, const float* a,
                  std::int64_t a_row, std::int64_t a_col, const float* b, std::int64_t b_row,
                  float* c, std::int64_t c_row, std::int32_t first, std::int32_t last);

// ---- sums of products of planes ------------------------------------------------------------------
// out[p][t] = sum over the terms of plane p of factor * a[a_plane][t] * b[b_plane][t % b's tokens], where
// a and b are operands by number (b = -1: no second factor). Rotary embeddings in all their spellings.
struct PlaneSums {
  struct Term {
    std::int32_t a = 0, a_plane = 0, b = -1, b_plane = 0;
    float factor = 1.0f;
  };
  struct Operand {
    const float* data = nullptr;
    std::int64_t stride = 0;  // floats from plane to plane
    std::int64_t tokens = 0;  // as many as the result has, or a divisor of that, repeated
    std::int64_t lead = 0;    // floats before token 0 of plane 0
  };
  struct Run {
    std::int32_t first, count;
  };
  std::vector<Term> terms;
  std::vector<std::int32_t> starts;  // of each plane's terms (8 at most), and the end
  std::vector<Run> runs;             // planes whose terms follow each other in equal steps
  std::int64_t tokens = 0;
  PlaneLayout layout;  // of the result; with one token contiguous

  void find_runs();
  // Independent pieces: planes, or runs of them where there is one token.
  std::int64_t items() const {
    const std::size_t planes = starts.size() - 1;
    return static_cast<std::int64_t>(tokens == 1 && layout.plane_stride == 1 ? runs.size() : planes);
  }
  double cycles() const;  // estimate for all items together
  void run(const Operand* operands, float* out, std::int64_t first, std::int64_t last) const;
};

// Planes [feature][batch x token] written to a tensor that has batches, tokens and features on axes of its
// own, in any order: number (b, t, d) of row r is
// out[row_offsets[r] + b * batch_stride + t * token_stride + d * feature_stride].
struct PlaneSpread {
  std::int64_t batches = 1, tokens = 0, width = 1;  // width: features of a row
  std::vector<std::int32_t> features;               // plane of each, rows x width
  std::vector<std::int64_t> row_offsets;
  std::int64_t plane_stride = 0, batch_stride = 0, token_stride = 0, feature_stride = 0;

  // Rows first .. last - 1; `planes`: token 0 of plane 0.
  void run(const float* planes, float* out, std::int64_t first, std::int64_t last) const;
};

// ---- attention ----------------------------------------------------------------------------------
// softmax(scale * q k^T + mask) v for every batch and head, on [feature][token] planes: token t of
// batch b is pixel b * tokens + t. Nothing is transposed: scores are kept as [key][query], so their
// softmax runs down columns and the product with v reads them as they are. Keys and values may lie in any
// order; a few queries over keys and values whose features are contiguous (a cache) go row by row instead.
struct Attention {
  std::int32_t heads = 1, dim = 0, value_dim = 0;  // value_dim: features of one head of v
  std::int32_t q_tokens = 0, k_tokens = 0, batches = 1;
  // Where an operand's numbers are: feature d of token t of head h of batch b is
  // data[first + b * batch + head[h] * head_stride + t * token + d * feature]. The tokens of q are contiguous.
  struct Operand {
    const float* data = nullptr;
    std::int64_t first = 0;
    const std::int32_t* head = nullptr;  // heads may share
    std::int64_t batch = 0, head_stride = 0, token = 1, feature = 0;
  };
  Operand q, k, v;
  float scale = 1.0f;
  // Null, or added to the scores after `mask_scale` (> 0) times: floats from batch to batch and so
  // on, 0 where it does not vary. Where it is -infinity the score becomes `fill`. A mask of other
  // numbers than floats stands for 0 and `denied`.
  enum class MaskOf : std::uint8_t { floats, shown_bytes, hidden_bytes, shown_ints };  // shown: above 0
  const void* mask = nullptr;
  MaskOf mask_of = MaskOf::floats;
  std::int64_t mask_batch = 0, mask_head = 0, mask_q = 0, mask_k = 0;
  float mask_scale = 1.0f, fill = 0.0f, denied = 0.0f;
  // Query t sees keys 0 .. past + t, and no others (`fill` is then -infinity).
  bool causal = false;
  std::int64_t past = 0;
  // What becomes of weights that are not numbers: with `zero_nan` zeros; with `zero_masked` those of
  // queries that a mask hides all keys from, where the least float hides as -infinity does.
  enum class Empty : std::uint8_t { keep, zero_nan, zero_masked };
  Empty empty = Empty::keep;
  float* out = nullptr;  // feature h * value_dim + d; borders as in `layout`
  PlaneLayout layout;

  std::int64_t items() const;  // independent pieces
  std::size_t scratch_bytes() const;
  double cycles() const;  // estimate for all items together
  // `scratch`: 64-byte aligned.
  void run(std::int64_t first, std::int64_t last, void* scratch) const;

 private:
  bool by_rows() const;
  void run_row(std::int64_t batch, std::int64_t head, std::int64_t query, void* scratch) const;
};

}  // namespace onnxprune::kernels
