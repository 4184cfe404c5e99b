#include "ep/instance_builder.h"

#include "ep/attention.h"

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
  int64_t lead[3], *strides[3] = {&job.q_stride, &job.k_stride, &job.v_stride};
  for (size_t i = 0; i < 3; ++i) {
    const Form own = value(op.in[i]).view.pixels() == 1 ? kDense : kPlain;
    const PlaneLayout& l = layout(op.in[i], own);
    in[i] = use(op.in[i], own);
    *strides[i] = l.plane_stride;
    lead[i] = l.lead;
  }
  auto mask = op.in.size() > 3 && !masked ? use(op.in[3], kDense) : nullptr;
  auto out = use(op.out, form);
  job.layout = layout(op.out, form);
  Step& step = add(op.label, "attention", job.items(), job.cycles(),
                   [=, q = in[0], k = in[1], v = in[2], q_lead = lead[0], k_lead = lead[1], v_lead = lead[2],
                    held = op.attention](const Frame& f, int64_t first, int64_t last, void* scratch) {
                     kernels::Attention now = job;
                     now.q = f.at(*q) + q_lead;
                     now.k = f.at(*k) + k_lead;
                     now.v = f.at(*v) + v_lead;
                     now.out = f.at(*out) + now.layout.lead;
                     if (mask || !held->mask.empty()) now.mask = mask ? f.at(*mask) : held->mask.data();
                     now.run(first, last, scratch);
                   });
  // The scratch depends on whether there is a mask, whose place is known only when it runs.
  if (mask_shape != nullptr) job.mask = &kAnyMask;
  step.scratch = job.scratch_bytes();
}

}  // namespace onnxprune::ep
