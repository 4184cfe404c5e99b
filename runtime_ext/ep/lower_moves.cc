// What moves numbers and computes little: images resized, channels picked and put into another order;
// and the one activation that differs by channel.
#include <algorithm>

#include "ep/lower_internal.h"
#include "ep/trace.h"

namespace onnxprune::ep {
namespace {

// A constant list of floats; empty when the input is omitted or empty.
std::vector<float> float_list(const LowerContext& context, const GraphNode& node, size_t i, const char* what) {
  const int value = Graph::input(node, i);
  if (value < 0) return {};
  if (!context.graph.is_constant(value)) throw Unsupported(std::string(what) + " are not constant");
  const Constant c = constant(context.graph.value(value));
  if (c.desc.type != abi::kFloat) throw Unsupported(std::string(what) + " are not float32");
  return {c.floats(), c.floats() + c.size()};
}

std::string text_attr(const GraphNode& node, const char* name, const char* fallback) {
  std::string text = attr_string(node, name, fallback);
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

void read_modes(const GraphNode& node, ResizeSpec* spec) {
  using Coordinates = ResizeSpec::Coordinates;
  using Nearest = ResizeSpec::Nearest;
  const std::string mode = text_attr(node, "mode", "nearest");
  spec->linear = mode == "linear" || mode == "bilinear";
  if (!spec->linear && mode != "nearest") throw Unsupported("resizing by mode '" + mode + "'");
  if (node.op == "Upsample" || node.since < 11) {
    spec->coordinates = Coordinates::asymmetric;
    spec->nearest = Nearest::simple;
    return;
  }
  const std::string where = text_attr(node, "coordinate_transformation_mode", "half_pixel");
  if (where == "asymmetric") spec->coordinates = Coordinates::asymmetric;
  else if (where == "half_pixel") spec->coordinates = Coordinates::half_pixel;
  else if (where == "pytorch_half_pixel") spec->coordinates = Coordinates::pytorch_half_pixel;
  else if (where == "align_corners") spec->coordinates = Coordinates::align_corners;
  else if (where == "half_pixel_symmetric") spec->coordinates = Coordinates::half_pixel_symmetric;
  else throw Unsupported("resizing by coordinates '" + where + "'");
  const std::string nearest = text_attr(node, "nearest_mode", "round_prefer_floor");
  if (nearest == "round_prefer_floor") spec->nearest = Nearest::round_prefer_floor;
  else if (nearest == "round_prefer_ceil") spec->nearest = Nearest::round_prefer_ceil;
  else if (nearest == "floor") spec->nearest = Nearest::floor;
  else if (nearest == "ceil") spec->nearest = Nearest::ceil;
  else throw Unsupported("resizing to the nearest pixel by '" + nearest + "'");
  if (attr_int(node, "antialias", 0) != 0) throw Unsupported("resizing with antialiasing");
}

// Channels first .. first + count - 1 of an input.
Op picked(int from, int out, int64_t first, int64_t count) {
  Op op;
  op.kind = OpKind::pick;
  op.in = {from};
  op.out = out;
  for (int64_t c = first; c < first + count; ++c) op.channels.push_back(static_cast<int32_t>(c));
  return op;
}

// The views in which `axis` of a tensor of this rank is the channels.
uint8_t views_of(int64_t axis, size_t rank) {
  uint8_t views = 0;
  if (axis == 1 && rank <= 4) views |= bit(Domain::image);
  if (axis + 1 == static_cast<int64_t>(rank) && axis > 0) views |= bit(Domain::tokens);
  if (views == 0) throw Unsupported("parts along another axis than channels or features");
  return views;
}

int64_t known_size(const Dims& x, int64_t* axis) {
  if (*axis < 0) *axis += static_cast<int64_t>(x.size());
  if (*axis < 0 || *axis >= static_cast<int64_t>(x.size())) throw Unsupported("an axis that does not exist");
  const Dim& size = x[static_cast<size_t>(*axis)];
  if (!size.known() || size.value < 1 || size.value > (1 << 24)) throw Unsupported("the number of channels is not known");
  return size.value;
}

}  // namespace

void lower_resize(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::resize;
  op.in = {context.activation(node, 0)};
  const Dims& x = context.of(op.in[0]);
  const size_t rank = x.size();
  // onnxruntime resizes the quantised numbers then, with another rounding.
  const int maker = context.graph.value(op.in[0]).producer;
  if (maker >= 0 && context.graph.node(maker).op == "DequantizeLinear") throw Unsupported("resizing quantised numbers");
  auto spec = std::make_shared<ResizeSpec>();
  read_modes(node, spec.get());
  if (rank != 4 && (rank != 3 || spec->linear)) throw Unsupported("resizing " + std::to_string(rank) + " axes");
  const bool plain = node.op == "Upsample" || node.since < 11;
  std::vector<float> scales = float_list(context, node, plain ? 1 : 2, "the scales");
  const bool sized = !plain && Graph::input(node, 3) >= 0;
  if (scales.empty() != sized) throw Unsupported("neither scales nor sizes are constant");
  if (sized && text_attr(node, "keep_aspect_ratio_policy", "stretch") != "stretch")
    throw Unsupported("resizing that keeps the aspect ratio");
  std::vector<int64_t> axes = attr_ints(node, "axes");
  if (axes.empty())
    for (size_t i = 0; i < rank; ++i) axes.push_back(static_cast<int64_t>(i));
  for (int64_t& axis : axes) {
    if (axis < 0) axis += static_cast<int64_t>(rank);
    if (axis < 0 || axis >= static_cast<int64_t>(rank)) throw Unsupported("an axis that does not exist");
  }
  std::vector<ResizeSpec::Axis> wanted;
  if (const auto listed = sized ? constant_ints(context.graph, node.in[3]) : std::nullopt) {
    for (int64_t size : *listed) {
      if (size < 1) throw Unsupported("a size below one");
      wanted.push_back({0, size});
    }
  } else if (sized) {
    wanted = computed_sizes(context, node, axes, unit);
  }
  for (float scale : scales) wanted.push_back({scale, -1});
  if (axes.size() != wanted.size()) throw Unsupported("scales or sizes do not fit the input");
  unit->dims = x;
  for (size_t i = 0; i < axes.size(); ++i) {
    const size_t axis = static_cast<size_t>(axes[i]);
    const Dim& size = x[axis];
    const ResizeSpec::Axis& one = wanted[i];
    if (axis < 2) {
      if (one.size >= 0 ? size != Dim::of(one.size) : one.scale != 1.0f) throw Unsupported("resizing along another axis than the spatial ones");
      continue;
    }
    spec->axes[axis + 2 - rank] = one;
    unit->dims[axis] = one.size == 0 ? context.of(op.in[1])[axis] : resized(one, size);
  }
  try {
    check_resize(*spec);
  } catch (const std::invalid_argument& e) {
    throw Unsupported(e.what());
  }
  op.resize = std::move(spec);
  unit->domains = bit(Domain::image);
}

void lower_slice(const LowerContext& context, const GraphNode& node, Unit* unit) {
  const int from = context.activation(node, 0);
  const Dims& x = context.of(from);
  auto listed = [&](size_t input, const char* name, int64_t fallback) {
    std::vector<int64_t> list;
    if (node.since < 10) {
      list = attr_ints(node, name);
    } else if (const int value = Graph::input(node, input); value >= 0) {
      const auto ints = constant_ints(context.graph, value);
      if (!ints) throw Unsupported("its bounds are not constant");
      list = *ints;
    }
    if (list.empty()) list = {fallback};
    if (list.size() != 1) throw Unsupported("a slice of several axes");
    return list[0];
  };
  int64_t start = listed(1, "starts", 0), stop = listed(2, "ends", 0), axis = listed(3, "axes", 0);
  if (listed(4, "steps", 1) != 1) throw Unsupported("a slice with steps");
  const int64_t all = known_size(x, &axis);
  unit->domains = views_of(axis, x.size());
  start = std::clamp<int64_t>(start < 0 ? start + all : start, 0, all);
  stop = std::clamp<int64_t>(stop < 0 ? stop + all : stop, 0, all);
  if (stop <= start) throw Unsupported("an empty slice");
  const std::string label = unit->op.label;
  unit->op = picked(from, unit->op.out, start, stop - start);
  unit->op.label = label;
  unit->dims = x;
  unit->dims[static_cast<size_t>(axis)] = Dim::of(stop - start);
}

void lower_split(const LowerContext& context, const GraphNode& node, Unit* unit) {
  const int from = context.activation(node, 0);
  const Dims& x = context.of(from);
  int64_t axis = attr_int(node, "axis", 0);
  const int64_t all = known_size(x, &axis);
  unit->domains = views_of(axis, x.size());
  std::vector<int64_t> sizes = attr_ints(node, "split");
  if (Graph::input(node, 1) >= 0) {
    const auto ints = constant_ints(context.graph, node.in[1]);
    if (!ints) throw Unsupported("its sizes are not constant");
    sizes = *ints;
  }
  const int64_t parts = static_cast<int64_t>(node.out.size());
  if (sizes.empty()) sizes.assign(static_cast<size_t>(parts), (all + parts - 1) / parts);  // the last may be smaller
  if (static_cast<int64_t>(sizes.size()) != parts) throw Unsupported("its sizes do not fit its outputs");
  const std::string label = unit->op.label;
  int64_t first = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const int64_t count = std::min(sizes[i], all - first);
    if (count < 1) throw Unsupported("an empty part");
    Dims dims = x;
    dims[static_cast<size_t>(axis)] = Dim::of(count);
    Op op = picked(from, node.out[i], first, count);
    op.label = label;
    first += count;
    if (i == 0) {
      unit->op = std::move(op);
      unit->dims = std::move(dims);
    } else if (node.out[i] >= 0) {
      unit->also.push_back({std::move(op), std::move(dims)});
    }
  }
  if (first != all) throw Unsupported("its sizes do not fit the input");
}

bool lower_shuffle(const LowerContext& context, int last, Unit* unit) {
  const Graph& graph = context.graph;
  const GraphNode& node = graph.node(last);
  if (node.op != "Reshape" || !node.domain.empty() || node.out.size() != 1 || node.out[0] < 0) return false;
  const int before = graph.value(node.in[0]).producer;
  if (before < 0 || graph.node(before).op != "Transpose") return false;
  const int ahead = graph.value(graph.node(before).in[0]).producer;
  if (ahead < 0 || graph.node(ahead).op != "Reshape") return false;
  Tracer tracer(graph, context.dims, context.alone);
  // Not further than the first reshape, whatever is before it.
  tracer.stop_at({graph.node(ahead).in[0]});
  const auto traced = tracer.trace(node.out[0]);
  if (!traced || traced->source != graph.node(ahead).in[0] || traced->scale != 1.0) return false;
  const Dims& x = context.of(traced->source);
  const size_t rank = x.size();
  if ((rank != 3 && rank != 4) || traced->axes.size() != rank || !x[1].known() || x[1].value < 1) return false;
  for (int64_t offset : traced->offset)
    if (offset != 0) return false;
  for (size_t i = 0; i < rank; ++i) {
    if (i == 1) continue;
    const Atoms& atoms = traced->axes[i];
    if (atoms.empty() ? !(x[i] == Dim::of(1)) : atoms.size() != 1 || atoms[0].axis != static_cast<int>(i) || !(atoms[0].size == x[i]))
      return false;
  }
  std::vector<int32_t> channels = {0};
  for (const Atom& atom : traced->axes[1]) {
    if (atom.axis != 1 || !atom.size.known()) return false;
    std::vector<int32_t> next;
    for (int32_t c : channels)
      for (int64_t i = 0; i < atom.size.value; ++i) next.push_back(c + static_cast<int32_t>(i * atom.inner));
    channels = std::move(next);
  }
  if (static_cast<int64_t>(channels.size()) != x[1].value) return false;
  tracer.absorb({traced->source, node.out[0]});
  if (!tracer.isolated(last)) return false;
  Op& op = unit->op;
  op.kind = OpKind::pick;
  op.in = {traced->source};
  op.out = node.out[0];
  op.label = graph.label(node);
  op.channels = std::move(channels);
  unit->domains = bit(Domain::image);
  unit->dims = x;
  unit->nodes.assign(tracer.nodes().begin(), tracer.nodes().end());
  return true;
}

void lower_prelu(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.in = {context.activation(node, 0)};
  const Dims& x = context.of(op.in[0]);
  const Constant slope = context.weight(node, 1, "the slope");
  unit->dims = x;
  op.epilogue.activation = kernels::Activation::leaky_relu;
  if (slope.size() == 1 && slope.desc.dims.size() <= x.size()) {
    op.kind = OpKind::pointwise;
    op.epilogue.alpha = slope.floats()[0];
    unit->domains = kAnyDomain;
    return;
  }
  op.kind = OpKind::affine;
  unit->domains = channel_views(x, slope.desc.dims);
  if (unit->domains == 0) throw Unsupported("the slope is not one number per channel");
  op.slope.assign(slope.floats(), slope.floats() + slope.size());
}

}  // namespace onnxprune::ep
