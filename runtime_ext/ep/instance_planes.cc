#include "ep/instance_builder.h"

#include <algorithm>
#include <cstring>

namespace onnxprune::ep {

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

void InstanceBuilder::emit_broadcast(const Op& op, Form form) {
  const PlaneLayout l = layout(op.out, form);
  const View& y = value(op.out).view;
  const auto form_of = [&](int v) { return value(v).view.pixels() == 1 ? kDense : kPlain; };
  const auto operand = [&](int v) { return kernels::PlaneOperand{layout(v, form_of(v)), channels(v)}; };
  const kernels::PlaneOperand x[2] = {operand(op.in[0]), operand(op.in[1])};
  auto a = use(op.in[0], form_of(op.in[0])), b = use(op.in[1], form_of(op.in[1])), out = use(op.out, form);
  const kernels::Binary what = op.binary;
  const kernels::Epilogue epilogue = op.epilogue;
  const int32_t channels_out = channels(op.out);
  add(op.label, "broadcast_planes", y.channels, pointwise_cost(op, y.channels * l.plane_stride),
      [=](const Frame& f, int64_t first, int64_t last, void*) {
        kernels::broadcast_planes(what, l, channels_out, x[0], f.at(*a), x[1], f.at(*b), f.at(*out), epilogue,
                                  static_cast<int32_t>(first), static_cast<int32_t>(last));
      });
}

void InstanceBuilder::emit_pointwise(const Op& op, Form form) {
  if (op.kind == OpKind::binary && shapes_[at(op.in[0])] != shapes_[at(op.in[1])]) return emit_broadcast(op, form);
  const PlaneLayout l = layout(op.out, form);
  const View& x = value(op.out).view;
  auto a = use(op.in[0], form), out = use(op.out, form);
  const int64_t images = x.images, planes = images * x.channels;
  const double cost = pointwise_cost(op, planes * l.plane_stride);
  const kernels::Epilogue epilogue = op.epilogue;
  // Images follow each other plane by plane, so a batch is just more planes. (Batches of more than one
  // image only occur where constants multiply from the left, whose ops have no per-channel numbers.)
  if (op.kind == OpKind::binary) {
    auto b = use(op.in[1], form);
    const kernels::Binary what = op.binary;
    add(op.label, "binary_planes", planes, cost, [=](const Frame& f, int64_t first, int64_t last, void*) {
      kernels::binary_planes(what, l, f.at(*a), f.at(*b), f.at(*out), epilogue, static_cast<int32_t>(first),
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

void InstanceBuilder::emit_response_norm(const Op& op, Form form) {
  const PlaneLayout l = layout(op.out, form);
  auto in = use(op.in[0], form), out = use(op.out, form);
  const int32_t planes = channels(op.out);
  const kernels::ResponseNorm norm = op.response;
  const double cost = (1.0 + 0.1 * std::min(norm.size, planes)) * static_cast<double>(planes * l.plane_stride);
  add(op.label, "response_norm", planes, cost, [=](const Frame& f, int64_t first, int64_t last, void*) {
    kernels::response_norm(norm, l, planes, f.at(*in), f.at(*out), static_cast<int32_t>(first),
                           static_cast<int32_t>(last));
  });
}

void InstanceBuilder::emit_group_norm(const Op& op, Form form) {
  const PlaneLayout l = layout(op.out, form);
  auto in = use(op.in[0], form), out = use(op.out, form);
  const int32_t groups = op.geometry.groups, planes = op.geometry.in_channels / groups;
  struct Constants {
    std::vector<float> gain, shift;
  };
  auto held = std::make_shared<const Constants>(Constants{op.scale, op.shift});
  const float epsilon = op.epsilon;
  const kernels::Epilogue epilogue = op.epilogue;
  auto pointer = [](const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); };
  add(op.label, "group_norm", groups, moving(4 * op.geometry.in_channels * l.plane_stride),
      [=](const Frame& f, int64_t first, int64_t last, void*) {
        kernels::group_norm(l, planes, f.at(*in), pointer(held->gain), pointer(held->shift), epsilon, epilogue,
                            f.at(*out), static_cast<int32_t>(first), static_cast<int32_t>(last));
      });
}

}  // namespace onnxprune::ep
