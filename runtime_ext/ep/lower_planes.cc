// Pooling, additions and products, concatenation, flattening: what may stand between weighted sums.
#include <cmath>

#include "ep/lower_internal.h"

namespace onnxprune::ep {

Dims lower_windows(const GraphNode& node, const Shape& kernel, const Dims& sizes, kernels::ConvGeometry* geometry);

namespace {

int32_t known_channels(const Dims& x) {
  if (x.size() < 2 || !x[1].known() || x[1].value < 1 || x[1].value > (1 << 24))
    throw Unsupported("the number of channels is not known");
  return static_cast<int32_t>(x[1].value);
}

// Of two names for the same size the one that can be compared with more others: a number, a name at all, the
// less derived one.
const Dim& plainer(const Dim& a, const Dim& b) {
  const auto rank = [](const Dim& dim) {
    return dim.known() ? 0 : dim.symbol.empty() ? 3 : dim.symbol.find('?') != std::string::npos ? 2 : 1;
  };
  if (rank(a) != rank(b)) return rank(a) < rank(b) ? a : b;
  return b.symbol.size() < a.symbol.size() ? b : a;
}

// The dims of what comes of two images that are not known to have the same.
Dims broadcast(const Dims& a, const Dims& b, Fit* fit) {
  const char* const reason = "operands whose shapes do not fit or are not known to";
  if (a.size() != b.size() || a.size() < 3 || a.size() > 4 || a[0] != b[0]) throw Unsupported(reason);
  known_channels(a);
  known_channels(b);
  Dims out = a;
  *fit = Fit::open;
  for (size_t i = 1; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    const bool one = a[i] == Dim::of(1) || b[i] == Dim::of(1);
    if (a[i].known() && b[i].known() && !one) throw Unsupported(reason);
    if (one) *fit = Fit::different;
    out[i] = larger(a[i], b[i]);
  }
  return out;
}

// [N, C, 1] against [N, C, W]. Other operands of three axes are rather tokens, whose axes mean something else.
bool one_each(const Dims& a, const Dims& b) { return a[1] == b[1] && (a[2] == Dim::of(1) || b[2] == Dim::of(1)); }

}  // namespace

uint8_t channel_views(const Dims& x, const Shape& c) {
  if (c.size() > x.size()) return 0;
  int64_t size = 1;
  size_t axis = x.size();  // where the constant varies
  for (size_t i = 0; i < c.size(); ++i) {
    size *= c[i];
    if (c[i] != 1) axis = x.size() - c.size() + i;
  }
  if (size == 0) return 0;
  if (size == 1) return kAnyDomain;
  if (axis >= x.size() || size != c[axis - (x.size() - c.size())] || !(x[axis] == Dim::of(size))) return 0;
  uint8_t views = 0;
  if (axis == 1) views |= bit(Domain::image);
  if (axis + 1 == x.size()) views |= bit(Domain::tokens);
  if (axis + 2 == x.size()) views |= bit(Domain::left);
  return views;
}

void lower_pool(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::pool;
  op.maximum = node.op == "MaxPool";
  op.in = {context.activation(node, 0)};
  const Dims& x = context.of(op.in[0]);
  if (x.size() != 3 && x.size() != 4) throw Unsupported("pooling over " + std::to_string(x.size()) + " axes");
  const Shape kernel = attr_ints(node, "kernel_shape");
  if (kernel.size() + 2 != x.size()) throw Unsupported("kernel_shape does not fit the input");
  kernels::ConvGeometry& g = op.geometry;
  g.in_channels = g.out_channels = g.groups = known_channels(x);
  op.count_include_pad = attr_int(node, "count_include_pad", 0) != 0;
  Dims out = lower_windows(node, kernel, Dims(x.begin() + 2, x.end()), &g);
  if (attr_int(node, "ceil_mode", 0) != 0) {
    // Rounding up differs from rounding down only when the last window hangs over.
    const int64_t strides[2] = {g.stride_h, g.stride_w};
    const int64_t spare[2] = {g.pad_top + g.pad_bottom - (g.kernel_h - 1) * g.dilation_h - 1,
                              g.pad_left + g.pad_right - (g.kernel_w - 1) * g.dilation_w - 1};
    for (size_t i = 2; i < x.size(); ++i) {
      const size_t axis = x.size() == 3 ? 1 : i - 2;
      if (!x[i].known() || (x[i].value + spare[axis]) % strides[axis] != 0)
        throw Unsupported("pooling that rounds its output size up");
    }
  }
  // A window that lies in the padding alone has no maximum and no mean.
  if (g.pad_top >= (g.kernel_h - 1) * g.dilation_h + 1 || g.pad_left >= (g.kernel_w - 1) * g.dilation_w + 1 ||
      g.pad_bottom >= (g.kernel_h - 1) * g.dilation_h + 1 || g.pad_right >= (g.kernel_w - 1) * g.dilation_w + 1)
    throw Unsupported("padding as large as the pooling window");
  unit->domains = bit(Domain::image);
  unit->dims = {x[0], x[1]};
  unit->dims.insert(unit->dims.end(), out.begin(), out.end());
  // One window over all pixels.
  const auto whole = [&](size_t axis, int32_t kernel, int32_t pads, int32_t dilation) {
    return x[axis].known() && x[axis].value == kernel && pads == 0 && dilation == 1;
  };
  if (whole(x.size() - 1, g.kernel_w, g.pad_left + g.pad_right, g.dilation_w) &&
      (x.size() == 3 || whole(2, g.kernel_h, g.pad_top + g.pad_bottom, g.dilation_h)))
    op.kind = OpKind::global_pool;
}

void lower_global_pool(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::global_pool;
  op.maximum = node.op == "GlobalMaxPool";
  op.in = {context.activation(node, 0)};
  const Dims& x = context.of(op.in[0]);
  if (x.size() != 3 && x.size() != 4) throw Unsupported("the input is not [N, C, spatial...]");
  known_channels(x);
  if (node.op == "ReduceMean") {
    Shape axes = attr_ints(node, "axes");
    int from_input = Graph::input(node, 1);
    if (from_input >= 0) {
      if (!context.graph.is_constant(from_input)) throw Unsupported("the reduced axes are not constant");
      Constant c = constant(context.graph.value(from_input));
      if (c.desc.type != abi::kInt64) throw Unsupported("the reduced axes are not int64");
      axes.assign(c.ints(), c.ints() + c.size());
    }
    std::vector<bool> reduced(x.size(), false);
    for (int64_t axis : axes) {
      int64_t a = axis < 0 ? axis + static_cast<int64_t>(x.size()) : axis;
      if (a < 0 || a >= static_cast<int64_t>(x.size())) throw Unsupported("a reduced axis that does not exist");
      reduced[static_cast<size_t>(a)] = true;
    }
    for (size_t i = 0; i < x.size(); ++i)
      if (reduced[i] != (i >= 2)) throw Unsupported("a mean over other axes than the spatial ones");
    if (attr_int(node, "keepdims", 1) == 0) op.target = {-1, x[1].value};
  }
  unit->domains = bit(Domain::image);
  unit->dims = x;
  for (size_t i = 2; i < x.size(); ++i) unit->dims[i] = Dim::of(1);
  if (!op.target.empty()) unit->dims.resize(2);
}

void lower_binary(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  if (node.in.size() != 2 || node.in[0] < 0 || node.in[1] < 0) throw Unsupported("not exactly two operands");
  const bool first = context.graph.is_constant(node.in[0]), second = context.graph.is_constant(node.in[1]);
  if (first && second) throw Unsupported("both operands are constants");
  const bool add = node.op == "Add" || node.op == "Sum", subtract = node.op == "Sub", divide = node.op == "Div";
  if (first || second) {
    op.kind = OpKind::affine;
    op.in = {context.activation(node, first ? 1 : 0)};
    const Dims& x = context.of(op.in[0]);
    const Constant c = context.weight(node, first ? 0 : 1, "the operand");
    if (first && divide) throw Unsupported("a constant divided by the input");
    unit->domains = channel_views(x, c.desc.dims);
    if (unit->domains == 0) throw Unsupported("the constant operand is not one number per channel");
    std::vector<float> values(c.floats(), c.floats() + c.size());
    if (add) {
      op.shift = std::move(values);
    } else if (subtract) {
      if (first) {
        op.scale = {-1.0f};
      } else {
        for (float& v : values) v = -v;
      }
      op.shift = std::move(values);
    } else {
      if (divide) {
        for (float& v : values) v = 1.0f / v;
      }
      op.scale = std::move(values);
    }
    unit->dims = x;
    return;
  }
  op.kind = OpKind::binary;
  op.binary = add        ? kernels::Binary::add
              : subtract ? kernels::Binary::subtract
              : divide   ? kernels::Binary::divide
                         : kernels::Binary::multiply;
  op.in = {context.activation(node, 0), context.activation(node, 1)};
  const Dims &a = context.of(op.in[0]), &b = context.of(op.in[1]);
  if (a == b) {
    unit->domains = kAnyDomain;
    unit->dims = a;
    return;
  }
  unit->dims = broadcast(a, b, &op.fit);
  if (op.fit == Fit::different && a.size() == 3 && (op.binary != kernels::Binary::multiply || !one_each(a, b)))
    throw Unsupported("operands of different shapes that may be tokens");
  unit->domains = bit(Domain::image);
}

void lower_batch_norm(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::affine;
  op.in = {context.activation(node, 0)};
  if (attr_int(node, "training_mode", 0) != 0) throw Unsupported("normalisation in training mode");
  if (attr_int(node, "spatial", 1) == 0) throw Unsupported("normalisation of every pixel by itself");
  const Dims& x = context.of(op.in[0]);
  const int32_t channels = known_channels(x);
  Constant parts[4];
  const char* names[4] = {"the scale", "the shift", "the mean", "the variance"};
  for (size_t i = 0; i < 4; ++i) {
    parts[i] = context.weight(node, i + 1, names[i]);
    if (parts[i].size() != channels) throw Unsupported(std::string(names[i]) + " does not fit the channels");
  }
  const double epsilon = attr_float(node, "epsilon", 1e-5f);
  for (int32_t c = 0; c < channels; ++c) {
    const double scale = parts[0].floats()[c] / std::sqrt(parts[3].floats()[c] + epsilon);
    op.scale.push_back(static_cast<float>(scale));
    op.shift.push_back(static_cast<float>(parts[1].floats()[c] - parts[2].floats()[c] * scale));
  }
  unit->domains = bit(Domain::image);
  unit->dims = x;
}

void lower_concat(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::concat;
  for (size_t i = 0; i < node.in.size(); ++i) op.in.push_back(context.activation(node, i));
  if (op.in.size() < 2) throw Unsupported("a single input");
  const Dims& x = context.of(op.in[0]);
  int64_t axis = attr_int(node, "axis", 0);
  if (axis < 0) axis += static_cast<int64_t>(x.size());
  if (axis != 1 || x.size() < 3 || x.size() > 4) throw Unsupported("a concatenation along another axis than channels");
  // Whoever concatenates promises that the other sizes are equal: the one that says most is that of all.
  Dims y = x;
  int64_t channels = 0;
  for (int value : op.in) {
    const Dims& other = context.of(value);
    if (other.size() != x.size()) throw Unsupported("operands of different rank");
    channels += known_channels(other);
    for (size_t i = 0; i < x.size(); ++i) {
      if (i == 1) continue;
      if (y[i].known() && other[i].known() && y[i] != other[i]) throw Unsupported("operands whose sizes differ");
      y[i] = plainer(y[i], other[i]);
    }
  }
  unit->domains = bit(Domain::image);
  unit->dims = std::move(y);
  unit->dims[1] = Dim::of(channels);
}

void lower_reshape(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::reshape;
  op.in = {context.activation(node, 0)};
  const Dims& x = context.of(op.in[0]);
  const Dims& y = context.of(op.out);
  unit->dims = y;
  // The number of elements is fixed, so one open axis of the result follows from the others.
  Shape target;
  int open = 0;
  for (const Dim& dim : y) {
    open += dim.known() ? 0 : 1;
    target.push_back(dim.value);
  }
  if (x.size() >= 2 && y.size() >= 2 && x.back().known() && x.back() == y.back() && x.back().value > 0 && open <= 1) {
    op.target = std::move(target);
    unit->domains = bit(Domain::tokens);
    return;
  }
  int64_t features = 1;
  for (size_t i = 1; i < x.size(); ++i) features *= x[i].known() && x[i].value > 0 ? x[i].value : 0;
  if (x.size() < 3 || x.size() > 4 || y.size() != 2 || features == 0 || !(y[1] == Dim::of(features)))
    throw Unsupported("a reshape other than [N, ...] to [N, F] or of leading axes");
  unit->domains = bit(Domain::image);
  unit->dims = {x[0], Dim::of(features)};
}

}  // namespace onnxprune::ep
