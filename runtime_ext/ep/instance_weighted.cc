#include "ep/instance_builder.h"

#include <algorithm>
#include <stdexcept>

#include "ep/tasks.h"

namespace onnxprune::ep {

namespace {

// Plans that some session of the process holds.
Shared<const kernels::Plan>& held_plans() {
  static Shared<const kernels::Plan> held;
  return held;
}

// Of all that a plan depends on.
Digest plan_digest(const Op& op, const PlaneLayout& in, const PlaneLayout& out, const kernels::PlanOptions& options, bool tuned) {
  if (!op.digest.known()) return {};
  Hasher hasher;
  hasher.put(op.digest);
  for (const PlaneLayout* l : {&in, &out}) {
    for (int32_t v : {l->height, l->width, l->stride_h, l->stride_w, l->rows, l->cols, l->top, l->left, l->bottom, l->right, l->pitch})
      hasher.put(v);
    hasher.put(l->phase_mask).put(l->lead).put(l->phase_stride).put(l->plane_stride);
  }
  const kernels::Epilogue& e = options.epilogue;
  hasher.put(e.activation).put(e.alpha).put(e.beta).put(e.step).put(e.residual).list(op.scale);
  return hasher.put(options.isa).put(options.generate_code).put(options.threads).put(tuned).digest();
}

}  // namespace

// All weighted sums at once: generating code and copying weights takes time. What is held already is taken
// over. Timing needs a quiet machine and comes before, the heaviest sums first.
void InstanceBuilder::plan_kernels() {
  const size_t count = program_.ops.size();
  plans_.resize(count);
  auto options_of = [&](const Op& op) {
    kernels::PlanOptions options;
    options.isa = options_.isa;
    options.threads = options_.threads;
    options.generate_code = options_.generate_code;
    options.epilogue = op.epilogue;
    options.factor = op.scale.empty() ? nullptr : op.scale.data();
    return options;
  };
  auto in_of = [&](size_t i) -> const PlaneLayout& { return layout(program_.ops[i].in[0], plan_.ops[i].in); };
  auto out_of = [&](size_t i) -> const PlaneLayout& { return layout(program_.ops[i].out, plan_.ops[i].out); };
  std::vector<Digest> digests(count);
  std::vector<size_t> missing;
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < count; ++i) {
    const Op& op = program_.ops[i];
    if (op.kind != OpKind::conv) continue;
    digests[i] = plan_digest(op, in_of(i), out_of(i), options_of(op), options_.tuner != nullptr);
    plans_[i] = held_plans().find(digests[i]);
    if (plans_[i]) continue;
    missing.push_back(i);
    sizes.push_back(op.geometry.columns() * op.geometry.out_channels);
  }
  std::vector<std::shared_ptr<const kernels::Weights>> weights(count);
  run_tasks(sizes, [&](size_t m) {
    const Op& op = program_.ops[missing[m]];
    weights[missing[m]] = op.weights ? op.weights : packed_weight(op, false);
  });
  if (options_.tuner != nullptr && !missing.empty()) {
    std::vector<std::pair<double, size_t>> heaviest;
    for (size_t i : missing)
      heaviest.emplace_back(-static_cast<double>(weights[i]->nnz() * value(program_.ops[i].out).view.pixels()), i);
    std::sort(heaviest.begin(), heaviest.end());
    for (const auto& [weight, i] : heaviest) {
      kernels::PlanPtr made;
      kernels::Status status =
          options_.tuner->tune(*weights[i], in_of(i), out_of(i), options_of(program_.ops[i]), &made);
      plans_[i] = std::move(made);
      if (!status.ok()) throw std::runtime_error("onnxprune: " + std::string(status.message));
    }
    options_.tuner->release();
  }
  for (size_t m = 0; m < missing.size(); ++m) sizes[m] = weights[missing[m]]->stored();
  run_tasks(sizes, [&](size_t m) {
    const size_t i = missing[m];
    const Op& op = program_.ops[i];
    // Another operation with the same weight, or another session, may have been faster.
    if (!plans_[i]) plans_[i] = held_plans().find(digests[i]);
    if (!plans_[i]) {
      const kernels::PlanOptions options = options_of(op);
      kernels::PlanPtr made;
      kernels::Status status = options_.tuner != nullptr
                                   ? kernels::make_remembered_plan(*weights[i], in_of(i), out_of(i), options, &made)
                                   : kernels::make_plan(*weights[i], in_of(i), out_of(i), options, &made);
      if (!status.ok())
        throw std::runtime_error("onnxprune: no kernel for '" + op.label + "': " + std::string(status.message));
      plans_[i] = std::move(made);
    }
    weights[i].reset();
    plans_[i] = held_plans().keep(digests[i], std::move(plans_[i]));
  });
}

void InstanceBuilder::emit_conv(const Op& op, const OpPlan& o) {
  const PlaneLayout &from = layout(op.in[0], o.in), &to = layout(op.out, o.out);
  std::shared_ptr<const kernels::Plan> plan(std::move(plans_[static_cast<size_t>(&op - program_.ops.data())]));
  const View& x = value(op.in[0]).view;
  const int32_t images = static_cast<int32_t>(x.images);
  const int64_t in_stride = from.image_floats(channels(op.in[0])), out_stride = to.image_floats(channels(op.out));
  if (op.residual >= 0 && plan->residual_in_place()) places_.reuse_residual(op, o.out);
  auto in = use(op.in[0], o.in), out = use(op.out, o.out);
  auto residual = op.residual >= 0 ? use(op.residual, o.out) : nullptr;
  const kernels::PlanInfo& info = plan->info();
  Step& step = add(op.label, info.kernel, plan->work_items(images), info.cycles * images,
                   [=](const Frame& f, int64_t first, int64_t last, void* scratch) {
                     kernels::RunArgs args;
                     args.in = f.at(*in);
                     args.out = f.at(*out);
                     args.residual = residual ? f.at(*residual) : nullptr;
                     args.images = images;
                     args.in_image_stride = in_stride;
                     args.out_image_stride = out_stride;
                     plan->run(args, first, last, scratch);
                   });
  step.scratch = plan->scratch_bytes();
  instance_->packed_bytes_ += info.bytes;
  lately().use(plan, static_cast<size_t>(info.bytes));
  // What a kernel takes is told of the node it was made for, not of those fused into it.
  for (const std::string& node : op.nodes) {
    NodeKernel kernel{node, info.kernel};
    if (&node == &op.nodes.front()) {
      kernel.bytes = info.bytes;
      kernel.code_bytes = info.code_bytes;
      kernel.build_us = 1e6 * info.build_seconds;
    }
    instance_->kernels_.push_back(std::move(kernel));
  }
  instance_->owned_.push_back(std::move(plan));
}

}  // namespace onnxprune::ep
