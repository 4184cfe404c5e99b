#include "ep/instance_builder.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "ep/attention.h"
#include "ep/sums.h"

namespace onnxprune::ep {

namespace {
constexpr float kAnyMask = 0;
}  // namespace

void InstanceBuilder::emit_norm(const Op& op, Form form) {
  const PlaneLayout l = layout(op.out, form);
  const int32_t features = channels(op.in[0]);
  auto a = use(op.in[0], form), b = op.in.size() > 1 ? use(op.in[1], form) : nullptr, out = use(op.out, form);
  struct Constants {
    std::vector<float> gain, shift, bias;
  };
  auto held = std::make_shared<const Constants>(
      Constants{op.scale.empty() ? std::vector<float>(static_cast<size_t>(features), 1.0f) : op.scale, op.shift, op.bias});
  const float epsilon = op.epsilon;
  const bool centred = op.centred;
  auto pointer = [](const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); };
  Step& step = add(op.label, "layer_norm", l.width, moving(4 * l.plane_stride * features),
                   [=](const Frame& f, int64_t first, int64_t last, void*) {
                     kernels::layer_norm(l, features, f.at(*a), b ? f.at(*b) : nullptr, pointer(held->bias), held->gain.data(),
                                         pointer(held->shift), epsilon, centred, f.at(*out), nullptr,
                                         static_cast<int32_t>(first), static_cast<int32_t>(last));
                   });
  step.grain = 16;
}

void InstanceBuilder::emit_attention(const Op& op, Form form) {
  const AttentionSpec& spec = *op.attention;
  const bool masked = !spec.mask.empty();
  const Shape* mask_shape = masked ? &spec.mask_shape : op.in.size() > 3 ? &shapes_[at(op.in[3])] : nullptr;
  kernels::Attention job =
      attention_arguments(spec, shapes_[at(op.in[0])], shapes_[at(op.in[1])], shapes_[at(op.in[2])], mask_shape);
  std::shared_ptr<Place> in[3];
  kernels::Attention::Operand* operands[3] = {&job.q, &job.k, &job.v};
  const AttentionSpec::Axes* axes[3] = {nullptr, &spec.k_axes, &spec.v_axes};
  const int32_t steps[3] = {spec.q_step, spec.k_step, spec.v_step}, tokens[3] = {job.q_tokens, job.k_tokens, job.k_tokens};
  for (size_t i = 0; i < 3; ++i) {
    if (i > 0 && axes[i]->dense()) {
      in[i] = use(op.in[i], kDense);
      continue;
    }
    const Form own = value(op.in[i]).view.pixels() == 1 ? kDense : kPlain;
    const PlaneLayout& l = layout(op.in[i], own);
    in[i] = use(op.in[i], own);
    kernels::Attention::Operand& o = *operands[i];
    o.first = l.lead;
    o.batch = tokens[i];
    o.token = 1;
    o.head_stride = l.plane_stride;
    o.feature = steps[i] * l.plane_stride;
  }
  auto mask = op.in.size() > 3 && !masked ? use(op.in[3], kDense) : nullptr;
  auto out = use(op.out, form);
  job.layout = layout(op.out, form);
  Step& step = add(op.label, "attention", job.items(), job.cycles(),
                   [=, q = in[0], k = in[1], v = in[2], held = op.attention](const Frame& f, int64_t first, int64_t last, void* scratch) {
                     kernels::Attention now = job;
                     now.q.data = f.at(*q);
                     now.k.data = f.at(*k);
                     now.v.data = f.at(*v);
                     now.out = f.at(*out) + now.layout.lead;
                     if (mask || !held->mask.empty()) now.mask = mask ? static_cast<const void*>(f.at(*mask)) : held->mask.data();
                     now.run(first, last, scratch);
                   });
  // The scratch depends on whether there is a mask, whose place is known only when it runs.
  if (mask_shape != nullptr) job.mask = &kAnyMask;
  step.scratch = job.scratch_bytes();
}

void InstanceBuilder::emit_sums(const Op& op, Form form) {
  const std::shared_ptr<const SumsSpec> spec = op.sums;
  auto job = std::make_shared<kernels::PlaneSums>();
  job->terms = spec->terms;
  job->starts = spec->starts;
  job->tokens = value(op.out).view.pixels();
  job->layout = layout(op.out, form);
  job->find_runs();
  std::vector<std::shared_ptr<Place>> in;
  std::vector<kernels::PlaneSums::Operand> operands;
  for (int v : op.in) {
    const Form own = value(v).view.pixels() == 1 ? kDense : kPlain;
    const PlaneLayout& l = layout(v, own);
    in.push_back(use(v, own));
    operands.push_back({nullptr, l.plane_stride, value(v).view.pixels(), l.lead});
  }
  for (const SumsSpec::Table& table : spec->tables) operands.push_back({table.planes.data(), table.tokens, table.tokens, 0});
  auto out = use(op.out, form);
  add(op.label, "sums_of_products", job->items(), job->cycles(), [=](const Frame& f, int64_t first, int64_t last, void*) {
    std::vector<kernels::PlaneSums::Operand> now = operands;
    for (size_t i = 0; i < in.size(); ++i) now[i].data = f.at(*in[i]);
    job->run(now.data(), f.at(*out), first, last);
    (void)spec;  // keeps the tables
  });
}

void InstanceBuilder::emit_lookup(const Op& op, Form form) {
  const std::shared_ptr<const SumsSpec> spec = op.sums;
  const PlaneLayout l = layout(op.out, form);
  const int64_t tokens = value(op.out).view.pixels(), planes = value(op.out).view.channels;
  auto in = use(op.in[0], kDense), out = use(op.out, form);
  add(op.label, "lookup", planes, moving(4 * tokens * planes), [=](const Frame& f, int64_t first, int64_t last, void*) {
    const SumsSpec::Table& table = spec->tables[0];
    const auto* positions = reinterpret_cast<const int64_t*>(f.at(*in));
    for (int64_t t = 0; t < tokens; ++t)
      if (positions[t] < 0 || positions[t] >= table.tokens)
        throw std::invalid_argument("onnxprune: position " + std::to_string(positions[t]) + " of tables for " + std::to_string(table.tokens));
    for (int64_t p = first; p < last; ++p) {
      float* const plane = f.at(*out) + p * l.plane_stride;
      std::fill(plane, plane + l.plane_stride, 0.0f);
      for (int64_t t = 0; t < tokens; ++t) plane[l.lead + t] = table.planes[at64(p * table.tokens + positions[t])];
    }
  });
}

void InstanceBuilder::emit_spread(const Op& op) {
  const Shape& whole = shapes_[at(op.out)];
  Shape strides(whole.size(), 1);
  for (size_t i = whole.size(); i-- > 1;) strides[i - 1] = strides[i] * whole[i];
  int64_t offset = 0;
  for (size_t k = 0; k < op.in.size(); ++k) {
    const SpreadSpec::Part& part = op.spread->parts[k];
    const Shape own = part_shape(part, shapes_[at(op.in[k])]);
    int64_t floats = 1, begin = offset;
    for (int64_t d : own) floats *= d;
    if (op.spread->axis >= 0) offset += own[at(op.spread->axis)] * strides[at(op.spread->axis)];
    if (floats == 0) continue;
    if (!part.in_planes()) {
      auto in = use(op.in[k], kDense), out = use(op.out, kDense);
      const int64_t piece = own[at(op.spread->axis)] * strides[at(op.spread->axis)], pieces = floats / piece;
      const int64_t step = whole[at(op.spread->axis)] * strides[at(op.spread->axis)];
      add(op.label, "copy", pieces, moving(2 * floats), [=](const Frame& f, int64_t first, int64_t last, void*) {
        for (int64_t i = first; i < last; ++i)
          std::memcpy(f.at(*out) + begin + i * step, f.at(*in) + i * piece, static_cast<size_t>(piece) * sizeof(float));
      });
      continue;
    }
    const Form form = value(op.in[k]).view.pixels() == 1 ? kDense : kPlain;
    const PlaneLayout& l = layout(op.in[k], form);
    auto job = std::make_shared<kernels::PlaneSpread>();
    job->features = part.features;
    job->plane_stride = l.plane_stride;
    // Rows of features of the innermost axis that has any.
    std::vector<size_t> axes;
    int64_t rows = 1;
    for (size_t i = 0; i < own.size(); ++i) {
      switch (part.roles[i]) {
        case SpreadSpec::batch: job->batches = own[i], job->batch_stride = strides[i]; break;
        case SpreadSpec::token: job->tokens = own[i], job->token_stride = strides[i]; break;
        case SpreadSpec::feature: axes.push_back(i); break;
        default: break;
      }
    }
    if (job->tokens == 0) job->tokens = 1, job->token_stride = 1;
    job->feature_stride = 1;
    if (!axes.empty()) {
      job->width = own[axes.back()], job->feature_stride = strides[axes.back()];
      axes.pop_back();
    }
    job->row_offsets = {0};
    for (size_t axis : axes) {
      std::vector<int64_t> next;
      for (int64_t base : job->row_offsets)
        for (int64_t i = 0; i < own[axis]; ++i) next.push_back(base + i * strides[axis]);
      job->row_offsets = std::move(next);
      rows *= own[axis];
    }
    const int64_t lead = l.lead;
    auto in = use(op.in[k], form), out = use(op.out, kDense);
    add(op.label, "spread", rows, moving(4 * floats), [=](const Frame& f, int64_t first, int64_t last, void*) {
      job->run(f.at(*in) + lead, f.at(*out) + begin, first, last);
    });
  }
}

}  // namespace onnxprune::ep
