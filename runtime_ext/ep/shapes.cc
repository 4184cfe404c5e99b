#include "ep/shapes.h"

#include <algorithm>
#include <stdexcept>

#include "ep/broadcast.h"
#include "ep/recurrent.h"

namespace onnxprune::ep {
namespace {

[[noreturn]] void misfit(const Op& op, const std::string& what) {
  throw std::invalid_argument("onnxprune: '" + op.label + "': " + what);
}

// Of operands added to each other and the like.
Shape pair_shape(const Program& program, const Op& op, const Shape& a, const Shape& b) {
  if (a == b) return a;
  const auto both = program.domain == Domain::image && op.fit != Fit::same ? broadcast(a, b) : std::nullopt;
  if (!both) misfit(op, "operands of shapes " + to_string(a) + " and " + to_string(b));
  return *both;
}

// `target` with its -1 filled in.
Shape reshaped(const Op& op, const Shape& in) {
  if (op.target.empty()) return in;
  int64_t count = 1, known = 1;
  for (int64_t d : in) count *= d;
  for (int64_t d : op.target) known *= d < 0 ? 1 : d;
  Shape out = op.target;
  for (int64_t& d : out)
    if (d < 0) d = known == 0 ? 0 : count / known;
  int64_t total = 1;
  for (int64_t d : out) total *= d;
  if (total != count || in.empty() || out.empty() || in.back() != out.back())
    misfit(op, "cannot reshape " + to_string(in) + " to " + to_string(op.target));
  return out;
}

Shape op_shape(const Program& program, const Op& op, const std::vector<Shape>& shapes) {
  auto in = [&](size_t i) -> const Shape& { return shapes[static_cast<size_t>(op.in[i])]; };
  switch (op.kind) {
    case OpKind::conv: {
      Shape out = reshaped(op, conv_shape(program, op, in(0)));
      return op.residual < 0 ? out : pair_shape(program, op, out, shapes[static_cast<size_t>(op.residual)]);
    }
    case OpKind::pool:
      return conv_shape(program, op, in(0));
    case OpKind::global_pool: {
      Shape out = in(0);
      for (size_t i = 2; i < out.size(); ++i) out[i] = 1;
      if (!op.target.empty() && out.size() > 2) out.resize(2);
      return reshaped(op, out);
    }
    case OpKind::pointwise:
    case OpKind::affine: {
      const View x = view(program.domain, in(0));
      for (const auto* list : {&op.scale, &op.shift, &op.slope})
        if (list->size() > 1 && static_cast<int64_t>(list->size()) != x.channels)
          misfit(op, "an input of shape " + to_string(in(0)));
      return reshaped(op, in(0));
    }
    case OpKind::resize: {
      Shape out = in(0);
      if (out.size() < 3 || out.size() > 4) misfit(op, "input of rank " + std::to_string(out.size()));
      for (size_t i = 2; i < out.size(); ++i) {
        if (out[i] < 1) misfit(op, "an empty image");
        const ResizeSpec::Axis& axis = op.resize->axes[i + 2 - out.size()];
        if (axis.size == 0 && (in(1).size() != out.size() || in(1)[i] < 1)) misfit(op, "resized to " + to_string(in(1)));
        out[i] = axis.size == 0 ? in(1)[i] : resized(axis, out[i]);
      }
      return reshaped(op, out);
    }
    case OpKind::pick: {
      Shape out = in(0);
      if (out.size() < 2 || program.domain == Domain::left) misfit(op, "input of rank " + std::to_string(out.size()));
      int64_t& channels = program.domain == Domain::image ? out[1] : out.back();
      for (int32_t c : op.channels)
        if (c < 0 || c >= channels) misfit(op, "picks a channel that an input of shape " + to_string(in(0)) + " lacks");
      channels = static_cast<int64_t>(op.channels.size());
      return reshaped(op, out);
    }
    case OpKind::interleave: {
      const kernels::ConvGeometry& g = op.geometry;
      Shape out = in(0);
      if (out.size() < 3 || out.size() > 4 || out[1] != g.in_channels || op.channels.size() != static_cast<size_t>(g.in_channels))
        misfit(op, "an input of shape " + to_string(in(0)));
      out[1] = g.out_channels;
      out.back() = out.back() * g.stride_w - g.pad_left - g.pad_right;
      if (out.size() == 4) out[2] = out[2] * g.stride_h - g.pad_top - g.pad_bottom;
      if (out.back() < 1 || out[2] < 1) misfit(op, "an empty result");
      return reshaped(op, out);
    }
    case OpKind::response_norm:
      if (in(0).size() != 4) misfit(op, "input of rank " + std::to_string(in(0).size()));
      return in(0);
    case OpKind::group_norm:
      if (in(0).size() < 3 || in(0).size() > 4 || in(0)[1] != op.geometry.in_channels)
        misfit(op, "an input of shape " + to_string(in(0)));
      return in(0);
    case OpKind::norm: {
      for (size_t i = 1; i < op.in.size(); ++i)
        if (in(i) != in(0)) misfit(op, "operands of shapes " + to_string(in(0)) + " and " + to_string(in(i)));
      for (const auto* list : {&op.scale, &op.shift, &op.bias})
        if (in(0).size() < 2 || (!list->empty() && in(0).back() != static_cast<int64_t>(list->size())))
          misfit(op, "an input of shape " + to_string(in(0)));
      return reshaped(op, in(0));
    }
    case OpKind::attention: {
      const AttentionSpec& spec = *op.attention;
      attention_arguments(spec, in(0), in(1), in(2), op.in.size() > 3 ? &in(3) : nullptr);
      Shape out = in(0);
      out.back() = static_cast<int64_t>(spec.value_dim) * spec.heads();
      return reshaped(op, out);
    }
    case OpKind::sums:
    case OpKind::spread: {
      std::vector<Shape> operands;
      for (size_t i = 0; i < op.in.size(); ++i) operands.push_back(in(i));
      return op.kind == OpKind::sums ? sums_shape(*op.sums, operands) : spread_shape(*op.spread, operands);
    }
    case OpKind::lookup: {
      const SumsSpec::Table& table = op.sums->tables[0];
      Shape out = in(0);
      out.push_back(static_cast<int64_t>(table.planes.size()) / table.tokens);
      return out;
    }
    case OpKind::recurrent:
      break;  // has several results
    case OpKind::decode:
    case OpKind::encode:
      return in(0);
    case OpKind::quantised_sum:
      if (in(1) != in(0)) misfit(op, "operands of shapes " + to_string(in(0)) + " and " + to_string(in(1)));
      return reshaped(op, in(0));
    case OpKind::binary:
      return reshaped(op, pair_shape(program, op, in(0), in(1)));
    case OpKind::concat: {
      Shape out = in(0);
      for (size_t i = 1; i < op.in.size(); ++i) {
        Shape other = in(i);
        if (other.size() != out.size() || other.size() < 2) misfit(op, "operands of different rank");
        out[1] += other[1];
        other[1] = in(0)[1];
        if (other != in(0)) misfit(op, "operands of shapes " + to_string(in(0)) + " and " + to_string(in(i)));
      }
      return out;
    }
    case OpKind::reshape: {
      if (!op.target.empty()) return reshaped(op, in(0));
      int64_t features = 1;
      for (size_t i = 1; i < in(0).size(); ++i) features *= in(0)[i];
      return {in(0)[0], features};
    }
  }
  misfit(op, "unknown operation");
}

// Sizes that nothing real has, as damaged models promise them, would overflow what is computed from them.
const Shape& plausible(const Shape& shape) {
  constexpr int64_t kMostSize = int64_t{1} << 30, kMostElements = int64_t{1} << 40;
  int64_t elements = 1;
  for (int64_t d : shape) {
    if (d > kMostSize || (d > 0 && elements > kMostElements / d))
      throw std::invalid_argument("onnxprune: a tensor of shape " + to_string(shape) + " is too large");
    elements *= std::max<int64_t>(d, 1);
  }
  return shape;
}

}  // namespace

Shape conv_shape(const Program& program, const Op& op, const Shape& in) {
  const kernels::ConvGeometry& g = op.geometry;
  Shape out = in;
  size_t axis = program.domain == Domain::image ? 1 : in.size() - (program.domain == Domain::tokens ? 1 : 2);
  if (in.size() < 2) misfit(op, "input of rank " + std::to_string(in.size()));
  if (in[axis] != g.in_channels)
    misfit(op, "input has " + std::to_string(in[axis]) + " channels, the weight expects " +
                   std::to_string(g.in_channels));
  out[axis] = op.kind == OpKind::conv ? g.out_channels : g.in_channels;
  if (program.domain != Domain::image || in.size() == 2) return out;
  if (in.size() > 4) misfit(op, "input of rank " + std::to_string(in.size()));
  View v = view(program.domain, in);
  int64_t height = g.out_height(static_cast<int32_t>(v.height)), width = g.out_width(static_cast<int32_t>(v.width));
  if (height <= 0 || width <= 0)
    misfit(op, "the window does not fit into an input of shape " + to_string(in));
  out.back() = width;
  if (in.size() == 4) out[2] = height;
  return out;
}

std::vector<Shape> infer_shapes(const Program& program, const std::vector<Shape>& inputs) {
  if (inputs.size() != program.inputs.size()) throw std::invalid_argument("onnxprune: wrong number of inputs");
  std::vector<Shape> shapes(static_cast<size_t>(program.value_count));
  for (size_t i = 0; i < inputs.size(); ++i) shapes[static_cast<size_t>(program.inputs[i])] = plausible(inputs[i]);
  for (const Op& op : program.ops) {
    if (op.kind != OpKind::recurrent) {
      shapes[static_cast<size_t>(op.out)] = plausible(op_shape(program, op, shapes));
      continue;
    }
    std::vector<Shape> operands;
    for (int v : op.in) operands.push_back(shapes[static_cast<size_t>(v)]);
    const std::vector<Shape> results = recurrent_shapes(*op.recurrent, operands);
    shapes[static_cast<size_t>(op.out)] = plausible(reshaped(op, results[0]));
    for (size_t i = 0; i < op.more.size(); ++i) shapes[static_cast<size_t>(op.more[i])] = plausible(results[i + 1]);
  }
  return shapes;
}

}  // namespace onnxprune::ep
