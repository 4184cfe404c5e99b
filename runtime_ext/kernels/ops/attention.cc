// Attention on [feature][token] planes, a block of queries of one head at a time: its scores stay in
// the caches from the first product to the second.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

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

// Number `at` of the mask, as it is added to the scores.
template <typename Number>
float masked(const Attention& a, Number number) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  if constexpr (std::is_same_v<Number, float>) {
    const bool hidden = a.empty == Attention::Empty::zero_masked && number <= std::numeric_limits<float>::lowest();
    return hidden ? -kInfinity : a.mask_scale * number;
  } else {
    const bool shown = a.mask_of == Attention::MaskOf::hidden_bytes ? number == 0 : number > 0;
    return shown ? 0.0f : a.denied;
  }
}

// Calls `use` with the mask's numbers in their own type.
template <typename Use>
void with_mask(const Attention& a, Use use) {
  switch (a.mask_of) {
    case Attention::MaskOf::floats: return use(static_cast<const float*>(a.mask));
    case Attention::MaskOf::shown_bytes:
    case Attention::MaskOf::hidden_bytes: return use(static_cast<const std::uint8_t*>(a.mask));
    case Attention::MaskOf::shown_ints: return use(static_cast<const std::int32_t*>(a.mask));
  }
}

bool hides(const Attention& a) { return a.mask != nullptr || a.causal; }
// Keys that the queries up to `end` see.
std::int64_t seen(const Attention& a, std::int64_t end) {
  return a.causal ? std::clamp<std::int64_t>(end + a.past, 1, a.k_tokens) : a.k_tokens;
}

// What is added to the scores of one block, [key] (where it is the same for all queries) or [key][query].
void gather_mask(const Attention& a, std::int64_t batch, std::int64_t head, std::int64_t query,
                 std::int64_t count, std::int64_t keys, float* to) {
  const std::int64_t first = batch * a.mask_batch + head * a.mask_head + query * a.mask_q;
  if (a.mask_q == 0 && !a.causal)
    return with_mask(a, [&](const auto* mask) {
      for (std::int64_t t = 0; t < keys; ++t) to[t] = masked(a, mask[first + t * a.mask_k]);
    });
  if (a.mask == nullptr) {
    std::fill(to, to + keys * kBlock, 0.0f);
  } else {
    with_mask(a, [&](const auto* mask) {
      for (std::int64_t j = 0; j < count; ++j)
        for (std::int64_t t = 0; t < keys; ++t)
          to[t * kBlock + j] = masked(a, mask[first + j * a.mask_q + t * a.mask_k]);
    });
  }
  for (std::int64_t j = 0; a.causal && j < count; ++j)
    for (std::int64_t t = std::max<std::int64_t>(0, query + j + a.past + 1); t < keys; ++t)
      to[t * kBlock + j] = -std::numeric_limits<float>::infinity();
}

const float* head_of(const Attention::Operand& o, std::int64_t batch, std::int64_t head) {
  return o.data + o.first + batch * o.batch + o.head[head] * o.head_stride;
}

// Weights of `columns` queries: either all of a query's are numbers or none. `added` is what their scores
// were masked with, from key to key and from query to query.
void zero_empty(const Attention& a, float* weights, std::int64_t stride, std::int64_t keys, std::int64_t columns,
                const float* added, std::int64_t added_key, std::int64_t added_query) {
  if (a.empty == Attention::Empty::keep) return;
  for (std::int64_t j = 0; j < columns; ++j) {
    if (!std::isnan(weights[j])) continue;
    bool zero = a.empty == Attention::Empty::zero_nan || added != nullptr;
    for (std::int64_t t = 0; zero && t < keys && a.empty == Attention::Empty::zero_masked; ++t)
      zero = added[t * added_key + j * added_query] == -std::numeric_limits<float>::infinity();
    for (std::int64_t t = 0; zero && t < keys; ++t) weights[t * stride + j] = 0.0f;
  }
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
  if (by_rows()) return static_cast<std::size_t>(2 * k_tokens + dim + value_dim + 4 * kLane) * sizeof(float);
  const std::size_t scores = static_cast<std::size_t>(k_tokens) * kBlock;
  return (hides(*this) ? 2 : 1) * scores * sizeof(float);
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
  float* const added = mixed + whole(value_dim);
  const std::int64_t pixel = batch * q_tokens + query;
  const float* from = head_of(q, batch, head) + query;
  for (std::int64_t d = 0; d < dim; ++d) asked[d] = scale * from[d * q.feature];
  const float* const keys = head_of(k, batch, head);
  const std::int64_t count = seen(*this, query + 1);
  for (std::int64_t t = 0; t < count; ++t) scores[t] = ops.dense_dot(keys + t * k.token, asked, dim);
  if (mask != nullptr) {
    const std::int64_t first = batch * mask_batch + head * mask_head + query * mask_q;
    with_mask(*this, [&](const auto* numbers) {
      for (std::int64_t t = 0; t < count; ++t) added[t] = masked(*this, numbers[first + t * mask_k]);
    });
    for (std::int64_t t = 0; t < count; ++t)
      scores[t] = added[t] == -std::numeric_limits<float>::infinity() ? fill : scores[t] + added[t];
  }
  ops.softmax_row(scores, scores, count, 1.0f, nullptr);
  zero_empty(*this, scores, 1, count, 1, mask == nullptr ? nullptr : added, 1, 0);
  const float* const values = head_of(v, batch, head);
  ops.matmul(value_dim, count, 1.0f, scores, 0, 1, values, v.token, mixed, 0, 0, 1);
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
    const std::int64_t keys = seen(*this, query + count);
    const bool by_key = mask_q == 0 && !causal;
    ops.matmul(count, dim, scale, at(k), k.token, k.feature, at(q) + query, q.feature, scores, kBlock, 0,
               keys);
    const float* const added = hides(*this) ? bias : nullptr;
    if (added != nullptr) gather_mask(*this, batch, head, query, count, keys, bias);
    ops.softmax_columns(scores, kBlock, keys, count, added, by_key ? 1 : kBlock, by_key, fill);
    zero_empty(*this, scores, kBlock, keys, count, added, by_key ? 1 : kBlock, by_key ? 0 : 1);
    const std::int64_t feature = head * value_dim;
    ops.matmul(count, keys, 1.0f, at(v), v.feature, v.token, scores, kBlock,
               out + feature * layout.plane_stride + pixel, layout.plane_stride, 0, value_dim);
    if (pixel == 0) zero(layout, out, feature, value_dim, 0, layout.lead);
    if (pixel + count == static_cast<std::int64_t>(batches) * q_tokens)
      zero(layout, out, feature, value_dim, layout.lead + pixel + count, layout.plane_stride);
  }
}

}  // namespace onnxprune::kernels
