// Attention on [feature][token] planes, a block of queries of one head at a time: its scores stay in
// the caches from the first product to the second.
#include <algorithm>
#include <limits>

#include "../ops.h"
#include "table.h"

namespace onnxprune::kernels {
namespace {

constexpr std::int64_t kBlock = 64;         // queries at a time, so that scores stay in L1 or L2
constexpr std::int64_t kLongBlock = 32;     // ... with many keys
constexpr std::int64_t kManyKeys = 1024;

std::int64_t block_of(const Attention& a) { return a.k_tokens > kManyKeys ? kLongBlock : kBlock; }
std::int64_t blocks_of(const Attention& a) {
  return (a.q_tokens + block_of(a) - 1) / block_of(a);
}

// The mask of one block as [key] or [key][query].
const float* gather_mask(const Attention& a, std::int64_t batch, std::int64_t head,
                         std::int64_t query, std::int64_t count, float* to) {
  const float* from = a.mask + batch * a.mask_batch + head * a.mask_head + query * a.mask_q;
  if (a.mask_q == 0) {
    for (std::int64_t t = 0; t < a.k_tokens; ++t) to[t] = a.mask_scale * from[t * a.mask_k];
    return to;
  }
  for (std::int64_t j = 0; j < count; ++j) {
    for (std::int64_t t = 0; t < a.k_tokens; ++t)
      to[t * kBlock + j] = a.mask_scale * from[j * a.mask_q + t * a.mask_k];
  }
  return to;
}

const float* head_of(const Attention::Operand& o, std::int64_t batch, std::int64_t head) {
  return o.data + o.first + batch * o.batch + o.head[head] * o.head_stride;
}

void zero(const PlaneLayout& layout, float* out, std::int64_t first, std::int64_t count,
          std::int64_t begin, std::int64_t end) {
  if (begin >= end) return;
  for (std::int64_t f = first; f < first + count; ++f) {
    float* plane = out + f * layout.plane_stride - layout.lead;
    std::fill(plane + begin, plane + end, 0.0f);
  }
}

}  // namespace

bool Attention::by_rows() const { return q_tokens <= 4 && k.feature == 1 && v.feature == 1; }

std::int64_t Attention::items() const {
  return static_cast<std::int64_t>(batches) * heads * (by_rows() ? q_tokens : blocks_of(*this));
}

std::size_t Attention::scratch_bytes() const {
  if (by_rows()) return static_cast<std::size_t>(k_tokens + dim + value_dim + 3 * kLane) * sizeof(float);
  const std::size_t scores = static_cast<std::size_t>(k_tokens) * kBlock;
  return (mask == nullptr ? 1 : 2) * scores * sizeof(float);
}

double Attention::cycles() const {
  // Multiply-adds at 70 % of two 8-wide units; an exponential takes about two cycles.
  const double scores = static_cast<double>(batches) * heads * q_tokens * k_tokens;
  return scores * (dim + value_dim) / 11.0 + 2.5 * scores;
}

// One query: a product with every key, then a sum of the values.
void Attention::run_row(std::int64_t batch, std::int64_t head, std::int64_t query, void* scratch) const {
  const OpsTable& ops = ops_table(active_isa());
  const auto whole = [](std::int64_t n) { return (n + kLane - 1) / kLane * kLane; };
  float* const scores = static_cast<float*>(scratch);
  float* const asked = scores + whole(k_tokens);
  float* const mixed = asked + whole(dim);
  const std::int64_t pixel = batch * q_tokens + query;
  const float* from = head_of(q, batch, head) + query;
  for (std::int64_t d = 0; d < dim; ++d) asked[d] = scale * from[d * q.feature];
  const float* const keys = head_of(k, batch, head);
  for (std::int64_t t = 0; t < k_tokens; ++t) scores[t] = ops.dense_dot(keys + t * k.token, asked, dim);
  if (mask != nullptr) {
    const float* added = mask + batch * mask_batch + head * mask_head + query * mask_q;
    for (std::int64_t t = 0; t < k_tokens; ++t) {
      const float m = mask_scale * added[t * mask_k];
      scores[t] = m == -std::numeric_limits<float>::infinity() ? fill : scores[t] + m;
    }
  }
  ops.softmax_row(scores, scores, k_tokens, 1.0f, nullptr);
  const float* const values = head_of(v, batch, head);
  ops.matmul(value_dim, k_tokens, 1.0f, scores, 0, 1, values, v.token, mixed, 0, 0, 1);
  const std::int64_t feature = head * value_dim;
  float* const to = out + feature * layout.plane_stride + pixel;
  for (std::int64_t d = 0; d < value_dim; ++d) to[d * layout.plane_stride] = mixed[d];
  if (layout.plane_stride == 1) return;
  if (pixel == 0) zero(layout, out, feature, value_dim, 0, layout.lead);
  if (pixel + 1 == static_cast<std::int64_t>(batches) * q_tokens)
    zero(layout, out, feature, value_dim, layout.lead + pixel + 1, layout.plane_stride);
}

void Attention::run(std::int64_t first, std::int64_t last, void* scratch) const {
  if (by_rows()) {
    for (std::int64_t item = first; item < last; ++item)
      run_row(item / q_tokens / heads, item / q_tokens % heads, item % q_tokens, scratch);
    return;
  }
  const OpsTable& ops = ops_table(active_isa());
  float* const scores = static_cast<float*>(scratch);
  float* const bias = scores + static_cast<std::int64_t>(k_tokens) * kBlock;
  const std::int64_t blocks = blocks_of(*this), block = block_of(*this);
  for (std::int64_t item = first; item < last; ++item) {
    const std::int64_t batch = item / blocks / heads, head = item / blocks % heads;
    const std::int64_t query = item % blocks * block;
    const std::int64_t count = std::min<std::int64_t>(block, q_tokens - query);
    const std::int64_t pixel = batch * q_tokens + query;
    const auto at = [&](const Operand& o) { return head_of(o, batch, head); };
    ops.matmul(count, dim, scale, at(k), k.token, k.feature, at(q) + query, q.feature, scores, kBlock, 0,
               k_tokens);
    const float* added =
        mask == nullptr ? nullptr : gather_mask(*this, batch, head, query, count, bias);
    ops.softmax_columns(scores, kBlock, k_tokens, count, added, mask_q == 0 ? 1 : kBlock,
                        mask_q == 0, fill);
    const std::int64_t feature = head * value_dim;
    ops.matmul(count, k_tokens, 1.0f, at(v), v.feature, v.token, scores, kBlock,
               out + feature * layout.plane_stride + pixel, layout.plane_stride, 0, value_dim);
    if (pixel == 0) zero(layout, out, feature, value_dim, 0, layout.lead);
    if (pixel + count == static_cast<std::int64_t>(batches) * q_tokens)
      zero(layout, out, feature, value_dim, layout.lead + pixel + count, layout.plane_stride);
  }
}

}  // namespace onnxprune::kernels
