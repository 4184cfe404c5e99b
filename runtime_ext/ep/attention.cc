#include "ep/attention.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace onnxprune::ep {
namespace {

[[noreturn]] void misfit(const std::string& what) { throw std::invalid_argument("onnxprune: attention: " + what); }

int64_t count(const Shape& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

// A tensor as onnxruntime keeps it: checks that all of it that is read exists, and fills in where it is.
// Returns its tokens.
int64_t lay_out(const Shape& shape, const AttentionSpec::Axes& axes, const std::vector<int32_t>& heads, int32_t dim,
                int32_t step, int64_t batches, const char* what, kernels::Attention::Operand* o) {
  const auto wrong = [&] { misfit(std::string(what) + " of shape " + to_string(shape)); };
  if (shape.size() != axes.offset.size()) wrong();
  std::vector<int64_t> strides(shape.size(), 1), last(axes.offset);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  const auto stride = [&](int32_t axis) { return axis < 0 ? 0 : strides[static_cast<size_t>(axis)]; };
  const auto reach = [&](int32_t axis, int64_t steps) {
    if (axis >= 0) last[static_cast<size_t>(axis)] += steps;
  };
  const int64_t tokens = axes.token < 0 ? 1 : shape[static_cast<size_t>(axes.token)] - axes.offset[static_cast<size_t>(axes.token)];
  if (tokens < 1) wrong();
  reach(axes.batch, batches - 1);
  reach(axes.token, tokens - 1);
  reach(axes.head, *std::max_element(heads.begin(), heads.end()));
  reach(axes.feature, static_cast<int64_t>(dim - 1) * step);
  int64_t first = 0;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (last[i] >= shape[i]) wrong();
    first += axes.offset[i] * strides[i];
  }
  if (batches > 1 && axes.batch < 0) wrong();
  o->first = first;
  o->batch = stride(axes.batch);
  o->head_stride = stride(axes.head);
  o->token = axes.token < 0 ? 0 : stride(axes.token);
  o->feature = step * stride(axes.feature);
  return tokens;
}

// Checks that the features of all heads exist.
void check_features(const Shape& shape, const std::vector<int32_t>& heads, int32_t dim, int32_t step, const char* what) {
  const int64_t last = *std::max_element(heads.begin(), heads.end()) + static_cast<int64_t>(dim - 1) * step;
  if (shape.size() < 2 || last >= shape.back()) misfit(std::string(what) + " of shape " + to_string(shape) + " is too small");
}

}  // namespace

void check_attention(const AttentionSpec& s) {
  constexpr int32_t kMost = 1 << 24;
  const size_t heads = s.q_head.size();
  if (heads == 0 || heads > static_cast<size_t>(kMost) || s.k_head.size() != heads || s.v_head.size() != heads) misfit("heads");
  for (const auto* list : {&s.q_head, &s.k_head, &s.v_head})
    for (int32_t first : *list)
      if (first < 0 || first > kMost) misfit("first feature of a head");
  for (int32_t n : {s.dim, s.value_dim, s.q_step, s.k_step, s.v_step})
    if (n < 1 || n > kMost) misfit("features of a head");
  if (s.roles.size() < 2 || s.roles.size() > 16) misfit("axes of the scores");
  if (s.causal != AttentionSpec::Causal::no && s.fill != -std::numeric_limits<float>::infinity()) misfit("mask");
  if (s.mask_gap < 0 || s.mask_gap > 16) misfit("axes of the mask");
  if (s.q_tokens < -1 || s.k_tokens < -1 || s.q_tokens == 0 || s.k_tokens == 0) misfit("number of tokens");
  for (const auto* axes : {&s.k_axes, &s.v_axes}) {
    const int32_t rank = static_cast<int32_t>(axes->offset.size());
    if (!axes->dense() && rank != 0) misfit("axes");
    for (int32_t axis : {axes->batch, axes->head, axes->token, axes->feature})
      if (axis < -1 || axis >= std::max(rank, 0)) misfit("axes");
    for (int64_t first : axes->offset)
      if (first < 0 || first > kMost) misfit("first element");
  }
  if (!s.mask.empty() && s.mask_of != AttentionSpec::MaskOf::floats) misfit("mask");
  if (!s.mask.empty() && (count(s.mask_shape) != static_cast<int64_t>(s.mask.size()) || s.mask_shape.size() > s.roles.size()))
    misfit("mask");
}

kernels::Attention attention_arguments(const AttentionSpec& spec, const Shape& q, const Shape& k, const Shape& v,
                                       const Shape* mask) {
  kernels::Attention a;
  check_features(q, spec.q_head, spec.dim, spec.q_step, "q");
  auto tokens = [](const Shape& shape) { return count(shape) / shape.back(); };
  const int64_t q_tokens = spec.q_tokens > 0 ? spec.q_tokens : q[q.size() - 2];
  if (q_tokens < 1 || tokens(q) % q_tokens != 0) misfit("an uneven number of queries");
  const int64_t batches = tokens(q) / q_tokens;
  // Keys and values: their tokens, by batch.
  const auto keys = [&](const Shape& shape, const AttentionSpec::Axes& axes, const std::vector<int32_t>& heads, int32_t dim,
                        int32_t step, const char* what, kernels::Attention::Operand* o) {
    o->head = heads.data();
    if (axes.dense()) return lay_out(shape, axes, heads, dim, step, batches, what, o);
    check_features(shape, heads, dim, step, what);
    if (tokens(shape) % batches != 0) misfit("operands of shapes " + to_string(q) + " and " + to_string(shape));
    return tokens(shape) / batches;
  };
  const int64_t k_tokens = keys(k, spec.k_axes, spec.k_head, spec.dim, spec.k_step, "k", &a.k);
  const int64_t v_tokens = keys(v, spec.v_axes, spec.v_head, spec.value_dim, spec.v_step, "v", &a.v);
  const int64_t wanted_keys = spec.k_tokens > 0 ? spec.k_tokens : spec.k_axes.dense() ? k_tokens : k[k.size() - 2];
  if (k_tokens < 1 || k_tokens != wanted_keys || v_tokens != k_tokens)
    misfit("operands of shapes " + to_string(q) + ", " + to_string(k) + " and " + to_string(v));
  if (q_tokens > std::numeric_limits<int32_t>::max() || k_tokens > std::numeric_limits<int32_t>::max() / 256 ||
      batches > std::numeric_limits<int32_t>::max())
    misfit("too many tokens");
  a.heads = spec.heads();
  a.dim = spec.dim;
  a.value_dim = spec.value_dim;
  a.q_tokens = static_cast<int32_t>(q_tokens);
  a.k_tokens = static_cast<int32_t>(k_tokens);
  a.batches = static_cast<int32_t>(batches);
  a.q.head = spec.q_head.data();
  a.scale = spec.scale;
  a.mask_scale = spec.mask_scale;
  a.fill = spec.fill;
  a.denied = spec.denied;
  a.mask_of = spec.mask_of;
  a.empty = spec.empty;
  a.causal = spec.causal != AttentionSpec::Causal::no;
  if (spec.causal == AttentionSpec::Causal::from_last) a.past = k_tokens - q_tokens;
  if (a.past < 0) misfit("more queries than keys");
  if (mask == nullptr) return a;
  int64_t stride = 1;
  const size_t rank = spec.roles.size();
  Shape sizes = *mask;
  if (!sizes.empty()) sizes.insert(sizes.begin() + 1, static_cast<size_t>(spec.mask_gap), 1);
  if (sizes.size() > rank) misfit("a mask of shape " + to_string(*mask));
  for (size_t back = 1; back <= sizes.size(); ++back) {  // from the last axis on
    const int64_t size = sizes[sizes.size() - back];
    const size_t axis = rank - back;
    int64_t wanted = 1, *to = nullptr;
    if (back == 1) {
      wanted = k_tokens, to = &a.mask_k;
    } else if (back == 2) {
      wanted = q_tokens, to = &a.mask_q;
    } else if (spec.roles[axis] == AttentionSpec::batch) {
      wanted = batches, to = &a.mask_batch;
    } else if (spec.roles[axis] == AttentionSpec::head) {
      wanted = spec.heads(), to = &a.mask_head;
    }
    if (size != 1 && size != wanted) misfit("a mask of shape " + to_string(*mask));
    if (size != 1 && to != nullptr) *to = stride;
    stride *= size;
  }
  return a;
}

}  // namespace onnxprune::ep
