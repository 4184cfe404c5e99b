#include "ep/instance.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "ep/recurrent.h"
#include "ep/tasks.h"
#include "kernels/shares.h"

namespace onnxprune::ep {

using kernels::PlaneLayout;

namespace {
constexpr float kAnyMask = 0;
}  // namespace

// Turns ops into steps.
class InstanceBuilder {
 public:
  InstanceBuilder(const Program& program, const std::vector<Shape>& shapes, const InstanceOptions& options,
                  Instance* instance)
      : program_(program),
        options_(options),
        instance_(instance),
        shapes_(infer_shapes(program, shapes)),
        plan_(plan_layouts(program, shapes_)),
        places_(program, plan_) {}

  void build() {
    plan_kernels();
    for (int v : program_.inputs) convert_from(v, kDense);
    for (size_t i = 0; i < program_.ops.size(); ++i) {
      units_ = program_.ops[i].units;
      emit(program_.ops[i], plan_.ops[i]);
      convert_from(program_.ops[i].out, value(program_.ops[i].out).primary);
      for (int v : program_.ops[i].more) convert_from(v, value(v).primary);
    }
    units_.clear();
    for (const auto& copy : places_.output_copies()) emit_copy(copy.first, copy.second);
    lay_out();
  }

 private:
  static size_t at(int i) { return static_cast<size_t>(i); }
  static size_t at64(int64_t i) { return static_cast<size_t>(i); }
  ValuePlan& value(int v) { return plan_.values[at(v)]; }
  const PlaneLayout& layout(int v, Form form) const { return plan_.values[at(v)].forms.at(form); }
  int32_t channels(int v) { return static_cast<int32_t>(value(v).view.channels); }
  // A handle that will hold the value's place once memory is laid out; notes the use by the next step.
  std::shared_ptr<Place> use(int v, Form form) {
    return places_.use(v, form, static_cast<int>(instance_->steps_.size()));
  }

  template <typename Body>
  Step& add(const std::string& label, const std::string& kernel, int64_t items, double cycles, Body body) {
    Step step;
    step.label = label;
    step.kernel = kernel;
    step.items = items;
    step.cycles = cycles;
    step.units = units_;
    step.body = std::move(body);
    instance_->steps_.push_back(std::move(step));
    return instance_->steps_.back();
  }

  // Moving data costs about a cycle for every four floats.
  static double moving(int64_t floats) { return 0.25 * static_cast<double>(floats); }

  void emit_copy(int v, const Place& place) {
    auto from = use(v, kDense);
    const View& x = value(v).view;
    const int64_t floats = x.images * x.channels * x.pixels();
    add("copy", "copy", 1, moving(floats), [=](const Frame& f, int64_t, int64_t, void*) {
      std::memcpy(f.at(place), f.at(*from), static_cast<size_t>(floats) * sizeof(float));
    });
  }

  // What makes the value, for profiles.
  std::string name_of(int v) const {
    for (const Op& op : program_.ops)
      if (op.out == v) return op.label;
    return "an input";
  }

  // All other forms of `v` from the one that has just been written.
  void convert_from(int v, Form source) {
    for (const auto& entry : value(v).forms) {
      if (entry.first == source) continue;
      emit_conversion(v, source, entry.first);
    }
  }

  void emit_conversion(int v, Form source, Form target) {
    const View x = value(v).view;
    const PlaneLayout from = layout(v, source), to = layout(v, target);
    // The same bytes under two names: nothing to move.
    if (same_bytes(source, from, target, to) && places_.alias(v, source, target)) return;
    auto in = use(v, source), out = use(v, target);
    const int64_t image = x.channels * x.pixels();
    const double cost = moving(2 * x.images * image);
    const int64_t images = x.images, channels = x.channels;
    const bool tokens = program_.domain == Domain::tokens;
    const std::string label = "layout of " + name_of(v);
    auto step = [&](const char* kernel, auto one) {
      // Leaving the program is a cost of the border, not of the operation before it.
      const std::vector<int> units = target.dense() && places_.is_output(v) ? std::vector<int>{} : units_;
      Step& s = add(label, kernel, images * channels, cost, [=](const Frame& f, int64_t first, int64_t last, void*) {
        // Items run over images x channels; cut the range at image borders.
        while (first < last) {
          const int64_t n = first / channels, c0 = first % channels;
          const int64_t c1 = std::min(channels, c0 + (last - first));
          one(f.at(*in), f.at(*out), n, static_cast<int32_t>(c0), static_cast<int32_t>(c1));
          first += c1 - c0;
        }
      });
      s.units = units;
      if (tokens) s.grain = 16;
    };
    if (source.dense() && tokens) {
      step("import_tokens", [=](const float* a, float* b, int64_t, int32_t c0, int32_t c1) {
        kernels::import_tokens(a, channels, to, b, c0, c1);
      });
    } else if (target.dense() && tokens) {
      step("export_tokens", [=](const float* a, float* b, int64_t, int32_t c0, int32_t c1) {
        kernels::export_tokens(from, a, b, channels, c0, c1);
      });
    } else if (source.dense()) {
      const int64_t stride = to.image_floats(static_cast<int32_t>(channels));
      step("import_nchw", [=](const float* a, float* b, int64_t n, int32_t c0, int32_t c1) {
        kernels::import_nchw(a + n * image, to, b + n * stride, c0, c1);
      });
    } else if (target.dense()) {
      const int64_t stride = from.image_floats(static_cast<int32_t>(channels));
      step("export_nchw", [=](const float* a, float* b, int64_t n, int32_t c0, int32_t c1) {
        kernels::export_nchw(from, a + n * stride, b + n * image, c0, c1);
      });
    } else {
      const int64_t stride = from.image_floats(static_cast<int32_t>(channels));
      const int64_t target_stride = to.image_floats(static_cast<int32_t>(channels));
      step("convert_planes", [=](const float* a, float* b, int64_t n, int32_t c0, int32_t c1) {
        kernels::convert_planes(from, a + n * stride, to, b + n * target_stride, c0, c1);
      });
    }
  }

  bool same_bytes(Form source, const PlaneLayout& from, Form target, const PlaneLayout& to) const {
    if (program_.domain == Domain::tokens && source.dense() != target.dense()) return false;
    return from.plain() && to.plain() && from.pitch == to.pitch && from.plane_stride == to.plane_stride &&
           from.lead == to.lead;
  }

  void plan_kernels();
  void emit(const Op& op, const OpPlan& o);
  void emit_conv(const Op& op, const OpPlan& o);
  void emit_pool(const Op& op, const OpPlan& o);
  void emit_reshape(const Op& op, Form form);
  void emit_concat(const Op& op, Form form);
  void emit_resize(const Op& op);
  void emit_pick(const Op& op, Form form);
  void emit_pointwise(const Op& op, Form form);
  void emit_global_pool(const Op& op);
  void emit_quantised_sum(const Op& op, Form form);
  void emit_crossing(const Op& op);
  void emit_norm(const Op& op, Form form);
  void emit_attention(const Op& op, Form form);
  void emit_recurrent(const Op& op);
  void lay_out();

  const Program& program_;
  const InstanceOptions& options_;
  Instance* instance_;
  std::vector<Shape> shapes_;  // of all values
  LayoutPlan plan_;
  Places places_;
  std::vector<std::shared_ptr<const kernels::Plan>> plans_;  // by operation, until its step is made
  std::vector<int> units_;  // of the operation being emitted
};

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

void InstanceBuilder::emit_pool(const Op& op, const OpPlan& o) {
  const PlaneLayout from = layout(op.in[0], o.in), to = layout(op.out, o.out);
  const View& y = value(op.out).view;
  auto in = use(op.in[0], o.in), out = use(op.out, o.out);
  const kernels::ConvGeometry geometry = op.geometry;
  const bool maximum = op.maximum, include = op.count_include_pad;
  const double cost = 0.2 * static_cast<double>(y.channels * y.pixels() * geometry.taps());
  add(op.label, maximum ? "max_pool" : "average_pool", y.channels, cost,
      [=](const Frame& f, int64_t first, int64_t last, void*) {
        const int32_t a = static_cast<int32_t>(first), b = static_cast<int32_t>(last);
        if (maximum) {
          kernels::max_pool(geometry, from, f.at(*in), to, f.at(*out), a, b);
        } else {
          kernels::average_pool(geometry, include, from, f.at(*in), to, f.at(*out), a, b);
        }
      });
}

void InstanceBuilder::emit_reshape(const Op& op, Form form) {
  // The same bytes under another shape, whether dense or in planes.
  if (places_.put(op.out, op.in[0], form)) return;
  auto in = use(op.in[0], form), out = use(op.out, form);
  const View& x = value(op.in[0]).view;
  const int64_t floats = form.dense() ? x.images * x.channels * x.pixels()
                                      : layout(op.in[0], form).image_floats(channels(op.in[0]));
  add(op.label, "copy", 1, moving(floats), [=](const Frame& f, int64_t, int64_t, void*) {
    std::memcpy(f.at(*out), f.at(*in), static_cast<size_t>(floats) * sizeof(float));
  });
}

void InstanceBuilder::emit_concat(const Op& op, Form form) {
  const PlaneLayout l = layout(op.out, form);
  int64_t channel = 0;
  for (int v : op.in) {
    const int64_t offset = channel * l.plane_stride, floats = channels(v) * l.plane_stride;
    channel += channels(v);
    if (places_.lies_in(v, op.out, form, offset)) continue;
    auto in = use(v, form), out = use(op.out, form);
    add(op.label, "copy", 1, moving(2 * floats), [=](const Frame& f, int64_t, int64_t, void*) {
      std::memcpy(f.at(*out) + offset, f.at(*in), static_cast<size_t>(floats) * sizeof(float));
    });
  }
}

void InstanceBuilder::emit_resize(const Op& op) {
  const PlaneLayout from = layout(op.in[0], kPlain), to = layout(op.out, kPlain);
  const View& y = value(op.out).view;
  auto in = use(op.in[0], kPlain), out = use(op.out, kPlain);
  const auto& axes = op.resize->axes;
  auto rows = std::make_shared<const kernels::ResizeAxis>(
      y.height == 1 && shapes_[at(op.in[0])].size() == 3 ? kernels::ResizeAxis{{0}, {}, {}}
                                                         : resize_axis(*op.resize, axes[0], from.height));
  auto columns = std::make_shared<const kernels::ResizeAxis>(resize_axis(*op.resize, axes[1], from.width));
  add(op.label, op.resize->linear ? "resize_linear" : "resize_nearest", y.channels, moving(2 * y.channels * y.pixels()),
      [=](const Frame& f, int64_t first, int64_t last, void*) {
        kernels::resize_planes(*rows, *columns, from, f.at(*in), to, f.at(*out), static_cast<int32_t>(first),
                               static_cast<int32_t>(last));
      });
}

// Planes that follow each other in the input are a view of it; others are copied.
void InstanceBuilder::emit_pick(const Op& op, Form form) {
  const PlaneLayout l = layout(op.out, form);
  const int64_t stride = l.plane_stride;
  bool run = true;
  for (size_t c = 1; c < op.channels.size(); ++c) run &= op.channels[c] == op.channels[c - 1] + 1;
  if (run && !op.channels.empty() && places_.put(op.out, op.in[0], form, op.channels[0] * stride)) return;
  auto in = use(op.in[0], form), out = use(op.out, form);
  auto channels = std::make_shared<const std::vector<int32_t>>(op.channels);
  const int64_t count = static_cast<int64_t>(op.channels.size());
  add(op.label, "copy", count, moving(2 * count * stride), [=](const Frame& f, int64_t first, int64_t last, void*) {
    const float* from = f.at(*in);
    float* to = f.at(*out);
    for (int64_t c = first; c < last;) {  // runs of planes at once
      int64_t end = c + 1;
      while (end < last && (*channels)[at64(end)] == (*channels)[at64(end - 1)] + 1) ++end;
      std::memcpy(to + c * stride, from + (*channels)[at64(c)] * stride, static_cast<size_t>((end - c) * stride) * sizeof(float));
      c = end;
    }
  });
}

void InstanceBuilder::emit_pointwise(const Op& op, Form form) {
  const PlaneLayout l = layout(op.out, form);
  const View& x = value(op.out).view;
  auto a = use(op.in[0], form), out = use(op.out, form);
  const int64_t images = x.images, planes = images * x.channels;
  const double cost = moving(3 * planes * l.plane_stride) * (op.epilogue.activation > kernels::Activation::clip ? 8 : 1);
  const kernels::Epilogue epilogue = op.epilogue;
  // Images follow each other plane by plane, so a batch is just more planes. (Batches of more than one
  // image only occur where constants multiply from the left, whose ops have no per-channel numbers.)
  if (op.kind == OpKind::binary && !op.gate) {
    auto b = use(op.in[1], form);
    const kernels::Binary what = op.binary;
    add(op.label, "binary_planes", planes, cost, [=](const Frame& f, int64_t first, int64_t last, void*) {
      kernels::binary_planes(what, l, f.at(*a), f.at(*b), f.at(*out), epilogue, static_cast<int32_t>(first),
                             static_cast<int32_t>(last));
    });
    return;
  }
  if (op.gate) {
    auto gate = use(op.in[1], kDense);
    add(op.label, "affine_planes", planes, cost, [=](const Frame& f, int64_t first, int64_t last, void*) {
      kernels::affine_planes(l, f.at(*a), f.at(*gate), nullptr, f.at(*out), epilogue, static_cast<int32_t>(first),
                             static_cast<int32_t>(last));
    });
    return;
  }
  // Constants are spread to one per plane, so that the kernel needs no second case.
  auto spread = [&](const std::vector<float>& values) {
    std::shared_ptr<std::vector<float>> out_values;
    if (values.empty()) return out_values;
    out_values = std::make_shared<std::vector<float>>(static_cast<size_t>(planes));
    for (int64_t i = 0; i < planes; ++i)
      (*out_values)[static_cast<size_t>(i)] =
          values.size() == 1 ? values[0] : values[static_cast<size_t>(i % x.channels)];
    return out_values;
  };
  auto scale = spread(op.scale), shift = spread(op.shift), slope = spread(op.slope);
  if (slope) {  // one alpha a plane
    add(op.label, "affine_planes", planes, cost, [=](const Frame& f, int64_t first, int64_t last, void*) {
      kernels::Epilogue own = epilogue;
      for (int64_t c = first; c < last; ++c) {
        own.alpha = (*slope)[at64(c)];
        kernels::affine_planes(l, f.at(*a), scale ? scale->data() : nullptr, shift ? shift->data() : nullptr, f.at(*out),
                               own, static_cast<int32_t>(c), static_cast<int32_t>(c + 1));
      }
    });
    return;
  }
  add(op.label, "affine_planes", planes, cost, [=](const Frame& f, int64_t first, int64_t last, void*) {
    kernels::affine_planes(l, f.at(*a), scale ? scale->data() : nullptr, shift ? shift->data() : nullptr,
                           f.at(*out), epilogue, static_cast<int32_t>(first), static_cast<int32_t>(last));
  });
}

void InstanceBuilder::emit_global_pool(const Op& op) {
  const PlaneLayout l = layout(op.in[0], kPlain);
  auto in = use(op.in[0], kPlain), out = use(op.out, kDense);
  const View& x = value(op.in[0]).view;
  const bool maximum = op.maximum, sum = !op.scale.empty();
  const float factor = sum ? op.scale[0] : 1.0f;
  const kernels::Epilogue epilogue = op.epilogue;
  add(op.label, maximum ? "global_max_pool" : "global_average_pool", x.channels, moving(x.channels * x.pixels()),
      [=](const Frame& f, int64_t first, int64_t last, void*) {
        const int32_t a = static_cast<int32_t>(first), b = static_cast<int32_t>(last);
        if (sum) {
          kernels::global_sum_pool(l, f.at(*in), factor, epilogue, f.at(*out), a, b);
        } else {
          (maximum ? kernels::global_max_pool : kernels::global_average_pool)(l, f.at(*in), f.at(*out), a, b);
        }
      });
}

void InstanceBuilder::emit_quantised_sum(const Op& op, Form form) {
  const PlaneLayout l = layout(op.out, form);
  const View& x = value(op.out).view;
  auto a = use(op.in[0], form), b = use(op.in[1], form), out = use(op.out, form);
  kernels::QuantisedSum sum;
  sum.a_factor = op.scale[0];
  sum.b_factor = op.scale[1];
  if (op.shift.empty()) {
    sum.step = op.scale[2];
  } else {
    sum.a_zero = op.shift[0];
    sum.b_zero = op.shift[1];
    sum.shift = op.shift[2];
    sum.zero = op.shift[3];
  }
  sum.low = op.epilogue.alpha;
  sum.high = op.epilogue.beta;
  const int64_t planes = x.images * x.channels;
  add(op.label, "quantised_sum", planes, moving(3 * planes * l.plane_stride),
      [=](const Frame& f, int64_t first, int64_t last, void*) {
        kernels::quantised_sum_planes(sum, l, f.at(*a), f.at(*b), f.at(*out), static_cast<int32_t>(first),
                                      static_cast<int32_t>(last));
      });
}

// Integers at the program's border, whose places are onnxruntime's own buffers.
void InstanceBuilder::emit_crossing(const Op& op) {
  constexpr int64_t kPiece = 4096;
  const bool enters = op.kind == OpKind::decode, has_sign = op.signs;
  auto in = use(op.in[0], kDense), out = use(op.out, kDense);
  const View& x = value(op.out).view;
  const int64_t numbers = x.images * x.channels * x.pixels();
  const float zero = op.shift[0];
  Step& step = add((enters ? "integers of " : "to integers of ") + op.label, enters ? "decode" : "encode",
                   (numbers + kPiece - 1) / kPiece, moving(2 * numbers),
                   [=](const Frame& f, int64_t first, int64_t last, void*) {
                     const int64_t begin = first * kPiece, count = std::min(numbers, last * kPiece) - begin;
                     if (enters) {
                       const auto* bytes = reinterpret_cast<const uint8_t*>(f.at(*in)) + begin;
                       kernels::decode(bytes, has_sign, zero, f.at(*out) + begin, count);
                     } else {
                       auto* bytes = reinterpret_cast<uint8_t*>(f.at(*out)) + begin;
                       kernels::encode(f.at(*in) + begin, zero, has_sign, bytes, count);
                     }
                   });
  step.units = {};  // a cost of the border
}

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

// Tiles of a recurrent layer, which sessions share.
std::shared_ptr<const kernels::RecurrentWeights> recurrent_weights(const Op& op) {
  static Shared<const kernels::RecurrentWeights> held;
  // Directions and gates cut the same matrix into tiles in different ways.
  const kernels::RecurrentShape& s = op.recurrent->shape;
  const Digest key = op.digest.known() ? Hasher().put(op.digest).put(s.cell).put(s.directions).put(s.hidden).digest() : Digest{};
  if (auto known = held.find(key)) return known;
  const auto packed = op.weights ? op.weights : packed_weight(op, false);
  std::shared_ptr<const kernels::RecurrentWeights> made;
  const kernels::Status status = kernels::make_recurrent_weights(s, *packed, &made);
  if (!status.ok()) throw std::runtime_error("onnxprune: no kernel for '" + op.label + "': " + std::string(status.message));
  return held.keep(key, std::move(made));
}

void InstanceBuilder::emit_recurrent(const Op& op) {
  // Below so many cycles between two meetings threads would mostly wait for each other.
  constexpr double kWorthMeeting = 16000;
  const std::shared_ptr<const RecurrentSpec> spec = op.recurrent;
  const Shape& x = shapes_[at(op.in[0])];
  const int64_t steps = x[0], batch = x[1];
  auto weights = recurrent_weights(op);
  auto layer = std::make_shared<const kernels::Recurrent>(spec->shape, weights, steps, batch, options_.isa);
  auto in = use(op.in[0], kDense);
  std::shared_ptr<Place> lengths, h, c, results[3];
  size_t next = 1;
  if (spec->operands & kLengths) lengths = use(op.in[next++], kDense);
  if (spec->operands & kInitialH) h = use(op.in[next++], kDense);
  if (spec->operands & kInitialC) c = use(op.in[next++], kDense);
  next = 0;
  for (int i = 0; i < 3; ++i) {
    if (!(spec->results & 1u << i)) continue;
    results[i] = use(next == 0 ? op.out : op.more[next - 1], kDense);
    ++next;
  }
  auto arguments = [=, y = results[0], y_h = results[1], y_c = results[2]](const Frame& f) {
    auto constant = [](const auto& list) { return list.empty() ? nullptr : list.data(); };
    kernels::RecurrentRun run;
    run.x = f.at(*in);
    run.bias = constant(spec->bias);
    run.h = h ? f.at(*h) : constant(spec->h);
    run.c = c ? f.at(*c) : constant(spec->c);
    run.lengths = lengths ? reinterpret_cast<const int32_t*>(f.at(*lengths)) : constant(spec->lengths);
    if (lengths) check_lengths(run.lengths, batch, steps);
    if (y) run.y = f.at(*y);
    if (y_h) run.y_h = f.at(*y_h);
    if (y_c) run.y_c = f.at(*y_c);
    return run;
  };
  static const char* const names[] = {"recurrent_tiles_f32_scalar", "recurrent_tiles_f32_avx2", "recurrent_tiles_f32_avx512"};
  const char* const name = names[static_cast<int>(options_.isa)];
  const size_t state = (layer->state_bytes() + 63) / 64 * 64;
  const int directions = spec->shape.directions;
  Step& step = add(op.label, name, directions, layer->cycles(), [=](const Frame& f, int64_t first, int64_t last, void* scratch) {
    const kernels::RecurrentRun run = arguments(f);
    for (int64_t d = first; d < last; ++d) layer->run(run, d, scratch, static_cast<char*>(scratch) + state);
  });
  step.scratch = state + layer->scratch_bytes();
  if (options_.threads > directions && layer->stage_cycles() > kWorthMeeting)
    step.together = [=](const Frame& f, Parallel* parallel, int threads, char* scratch, size_t chunk) {
      const kernels::RecurrentRun run = arguments(f);
      const auto stages = layer->stages(threads);
      layer->start(run, scratch);
      parallel->run(threads, [&](int thread) {
        layer->join(run, stages.get(), thread, scratch, scratch + chunk * static_cast<size_t>(thread) + state);
      });
    };
  instance_->packed_bytes_ += weights->bytes();
  for (const std::string& node : op.nodes) {
    NodeKernel kernel{node, name};
    kernel.bytes = weights->bytes();
    instance_->kernels_.push_back(std::move(kernel));
  }
  instance_->owned_.push_back(std::move(weights));
}

void InstanceBuilder::emit(const Op& op, const OpPlan& o) {
  if (!op.has_weight())
    for (const std::string& node : op.nodes) instance_->kernels_.push_back({node, "planes"});
  switch (op.kind) {
    case OpKind::conv:
      return emit_conv(op, o);
    case OpKind::pool:
      return emit_pool(op, o);
    case OpKind::global_pool:
      return emit_global_pool(op);
    case OpKind::quantised_sum:
      return emit_quantised_sum(op, o.out);
    case OpKind::decode:
    case OpKind::encode:
      return emit_crossing(op);
    case OpKind::reshape:
      return emit_reshape(op, o.out);
    case OpKind::concat:
      return emit_concat(op, o.out);
    case OpKind::pointwise:
    case OpKind::affine:
    case OpKind::binary:
      return emit_pointwise(op, o.out);
    case OpKind::norm:
      return emit_norm(op, o.out);
    case OpKind::attention:
      return emit_attention(op, o.out);
    case OpKind::recurrent:
      return emit_recurrent(op);
    case OpKind::resize:
      return emit_resize(op);
    case OpKind::pick:
      return emit_pick(op, o.out);
  }
}

void InstanceBuilder::lay_out() {
  instance_->arena_floats_ = places_.allocate();
  size_t scratch = 0;
  for (const Step& step : instance_->steps_) scratch = std::max(scratch, (step.scratch + 63) / 64 * 64);
  instance_->threads_ = options_.threads;
  instance_->scratch_chunk_ = scratch;
  instance_->scratch_total_ = scratch * at(options_.threads);
}

Instance::Instance(const Program& program, const std::vector<Shape>& shapes, const InstanceOptions& options) {
  InstanceBuilder(program, shapes, options, this).build();
}

double Instance::cycles() const {
  double total = 0;
  for (const Step& step : steps_) total += step.cycles;
  return total;
}

namespace {

double now(Instance::Clock clock) {
  timespec t{};
  clock_gettime(clock == Instance::Clock::wall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &t);
  return 1e6 * static_cast<double>(t.tv_sec) + 1e-3 * static_cast<double>(t.tv_nsec);
}

}  // namespace

void Instance::run(const float* const* inputs, float* const* outputs, void* workspace, Parallel* parallel,
                   double* microseconds, Clock clock) const {
  // Below this many cycles a hand-over to another thread costs more than it saves.
  constexpr double kWorthAThread = 20000;
  // ... and so many are worth taking from what threads share.
  constexpr double kPiece = 5000;
  constexpr int64_t kMostPieces = 1 << 30;
  Frame frame;
  frame.inputs = inputs;
  frame.outputs = outputs;
  frame.arena = static_cast<float*>(workspace);
  char* scratch = static_cast<char*>(workspace) + static_cast<size_t>(arena_floats_) * sizeof(float);
  const int threads = std::min(parallel->threads(), threads_);
  kernels::Shares shares(threads);
  double before = microseconds ? now(clock) : 0;
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    const double cycles_an_item = std::max(1.0, step.cycles / static_cast<double>(std::max<int64_t>(1, step.items)));
    const int64_t worth = static_cast<int64_t>(kPiece / cycles_an_item) + 1;
    const int64_t grain = (std::max(worth, step.items / kMostPieces) + step.grain - 1) / step.grain * step.grain;
    const int64_t pieces = (step.items + grain - 1) / grain;
    const int chunks =
        static_cast<int>(std::min<int64_t>({threads, pieces, static_cast<int64_t>(step.cycles / kWorthAThread) + 1}));
    if (step.together && threads > 1) {
      step.together(frame, parallel, threads, scratch, scratch_chunk_);
    } else if (chunks <= 1) {
      step.body(frame, 0, step.items, scratch);
    } else {
      shares.deal(pieces, chunks);
      parallel->run(chunks, [&](int chunk) {
        int64_t first = 0, last = 0;
        while (shares.take(chunk, &first, &last))
          step.body(frame, first * grain, std::min(step.items, last * grain),
                    scratch + scratch_chunk_ * static_cast<size_t>(chunk));
      });
    }
    if (microseconds) {
      const double after = now(clock);
      microseconds[i] += after - before;
      before = after;
    }
  }
}

}  // namespace onnxprune::ep
