// Operators other than weighted sums that a region needs, on planes. `first` / `last` are half-open
// ranges of channels (planes) so that a caller can spread the work. Images: call once per image.
// Every function writes all zero borders of the planes it writes. Output may equal input only where
// said so. All use the active instruction set.
#pragma once

#include <cstdint>

#include "layout.h"
#include "plan.h"

namespace onnxprune::kernels {

// ---- pooling: window, stride, pads from `geometry` (in_channels = out_channels = groups)
// ---------- `in` is laid out by conv_need(geometry), plain or in phases. Padding does not take
// part.
Status max_pool(const ConvGeometry& geometry, const PlaneLayout& in, const float* source,
                const PlaneLayout& out, float* planes, std::int32_t first, std::int32_t last);
Status average_pool(const ConvGeometry& geometry, bool count_include_pad, const PlaneLayout& in,
                    const float* source, const PlaneLayout& out, float* planes, std::int32_t first,
                    std::int32_t last);
// Mean over all pixels of each channel: result[channel].
void global_average_pool(const PlaneLayout& in, const float* source, float* result,
                         std::int32_t first, std::int32_t last);
void global_max_pool(const PlaneLayout& in, const float* source, float* result, std::int32_t first,
                     std::int32_t last);

// ---- pointwise; out may equal a or b
// -------------------------------------------------------------
enum class Binary : std::uint8_t { add, subtract, multiply };
// All three of the same layout.
void binary_planes(Binary op, const PlaneLayout& layout, const float* a, const float* b, float* out,
                   const Epilogue& epilogue, std::int32_t first, std::int32_t last);
// out = act(scale[c] * a + shift[c]); scale or shift may be null (1, 0). BN left over,
// squeeze-and-excitation gates, per-channel bias.
void affine_planes(const PlaneLayout& layout, const float* a, const float* scale,
                   const float* shift, float* out, const Epilogue& epilogue, std::int32_t first,
                   std::int32_t last);
// out[i] = act(a[i]) over contiguous floats.
void activate(const Epilogue& epilogue, const float* a, float* out, std::int64_t count);

// ---- [feature][token] planes (height 1): ranges are over tokens, best in multiples of 16
// ---------- out = (x - mean) / sqrt(var + epsilon) * scale + shift over the features of each
// token, with x = a + b + bias[feature] when b / bias are given (SkipLayerNormalization; `sum_out`
// gets x when not null). scale and shift: [features], shift may be null.
void layer_norm(const PlaneLayout& layout, std::int32_t features, const float* a, const float* b,
                const float* bias, const float* scale, const float* shift, float epsilon,
                float* out, float* sum_out, std::int32_t first_token, std::int32_t last_token);
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

}  // namespace onnxprune::kernels
