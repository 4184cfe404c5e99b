#include "ep/instance_builder.h"

#include <cstring>

#include "ep/resize.h"

namespace onnxprune::ep {

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
  // As large as another value is the same as of this size.
  const auto settled = [&](ResizeSpec::Axis axis, int64_t size) { return axis.size == 0 ? ResizeSpec::Axis{0, size} : axis; };
  const ResizeSpec::Axis axes[2] = {settled(op.resize->axes[0], y.height), settled(op.resize->axes[1], y.width)};
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

void InstanceBuilder::emit_interleave(const Op& op) {
  const PlaneLayout from = layout(op.in[0], kPlain), to = layout(op.out, kPlain);
  const View& y = value(op.out).view;
  auto in = use(op.in[0], kPlain), out = use(op.out, kPlain);
  const kernels::ConvGeometry g = op.geometry;
  auto channels = std::make_shared<const std::vector<int32_t>>(op.channels);
  add(op.label, "interleave", y.channels, moving(2 * y.channels * y.pixels()),
      [=](const Frame& f, int64_t first, int64_t last, void*) {
        kernels::interleave_planes(g, channels->data(), from, f.at(*in), to, f.at(*out), static_cast<int32_t>(first),
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

}  // namespace onnxprune::ep
