// Conv, Gemm and MatMul with a constant weight.
#include <limits>

#include "ep/lower_internal.h"
#include "ep/trace.h"

namespace onnxprune::ep {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();

int32_t narrow(int64_t value, const char* what) {
  if (value < 0 || value > kMaxInt) throw Unsupported(std::string(what) + " is out of range");
  return static_cast<int32_t>(value);
}

// Bias of `rows` numbers from a constant that varies along one axis only: the last one, or, where a
// constant multiplies from the left, the one before.
std::vector<float> row_bias(const Constant& bias, int64_t rows, float factor, bool left) {
  const auto& dims = bias.desc.dims;
  const size_t axis = left ? 2 : 1;  // counted from the end
  for (size_t i = 0; i < dims.size(); ++i)
    if (dims.size() - i != axis && dims[i] != 1) throw Unsupported("the added constant varies along another axis");
  const int64_t size = dims.size() < axis ? 1 : dims[dims.size() - axis];
  if (size != rows && size != 1) throw Unsupported("the added constant does not fit the output");
  std::vector<float> out(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r)
    out[static_cast<size_t>(r)] = factor * bias.floats()[size == 1 ? 0 : r];
  return out;
}

int64_t spatial(const std::vector<int64_t>& values, size_t i, int64_t fallback) {
  return values.empty() ? fallback : values[i];
}

AutoPad auto_pad_of(const GraphNode& node) {
  std::string text = attr_string(node, "auto_pad", "NOTSET");
  while (!text.empty() && text.back() == '\0') text.pop_back();
  if (text == "NOTSET" || text.empty()) return AutoPad::none;
  if (text == "SAME_UPPER") return AutoPad::same_upper;
  if (text == "SAME_LOWER") return AutoPad::same_lower;
  if (text == "VALID") return AutoPad::valid;
  throw Unsupported("auto_pad is '" + text + "'");
}

}  // namespace

// Windows of the spatial axes (1 or 2 of them) from the attributes, into `geometry`; `sizes` are the
// input's spatial dims. Returns the output's.
Dims lower_windows(const GraphNode& node, const Shape& kernel, const Dims& sizes, kernels::ConvGeometry* geometry) {
  const size_t axes = kernel.size();
  const auto strides = attr_ints(node, "strides"), pads = attr_ints(node, "pads"),
             dilations = attr_ints(node, "dilations");
  if ((!strides.empty() && strides.size() != axes) || (!dilations.empty() && dilations.size() != axes) ||
      (!pads.empty() && pads.size() != 2 * axes))
    throw Unsupported("attributes do not fit the rank of the weight");
  const AutoPad mode = auto_pad_of(node);
  Dims out;
  Window windows[2];  // height, width; a 1-D one is a width
  for (size_t i = 0; i < axes; ++i) {
    Window w;
    w.kernel = kernel[i];
    w.stride = spatial(strides, i, 1);
    w.dilation = spatial(dilations, i, 1);
    w.pad_begin = spatial(pads, i, 0);
    w.pad_end = spatial(pads, axes + i, 0);
    if (w.kernel < 1 || w.stride < 1 || w.dilation < 1) throw Unsupported("empty window or stride");
    if (w.pad_begin < 0 || w.pad_end < 0) throw Unsupported("negative pads");
    const Dim size = i < sizes.size() ? sizes[i] : Dim{};
    if (!w.in_range(size.value)) throw Unsupported("a number of its window is out of range");
    if ((mode == AutoPad::same_upper || mode == AutoPad::same_lower) && w.dilation != 1)
      throw Unsupported("automatic padding with dilation");
    if (!resolve_auto_pad(&w, mode, size)) throw Unsupported("automatic padding of an open size");
    Dim result = window_output(w, size);
    if (result.known() && result.value <= 0) throw Unsupported("the window does not fit into the input");
    out.push_back(result);
    windows[axes == 1 ? 1 : i] = w;
  }
  geometry->kernel_h = narrow(windows[0].kernel, "kernel");
  geometry->kernel_w = narrow(windows[1].kernel, "kernel");
  geometry->stride_h = narrow(windows[0].stride, "stride");
  geometry->stride_w = narrow(windows[1].stride, "stride");
  geometry->dilation_h = narrow(windows[0].dilation, "dilation");
  geometry->dilation_w = narrow(windows[1].dilation, "dilation");
  geometry->pad_top = narrow(windows[0].pad_begin, "pad");
  geometry->pad_bottom = narrow(windows[0].pad_end, "pad");
  geometry->pad_left = narrow(windows[1].pad_begin, "pad");
  geometry->pad_right = narrow(windows[1].pad_end, "pad");
  return out;
}

void lower_conv(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::conv;
  op.in = {context.activation(node, 0)};
  const WeightInput weight = weight_input(context, node, 1);
  const Shape& dims = weight.dims;
  if (dims.size() != 3 && dims.size() != 4)
    throw Unsupported("a convolution over " + std::to_string(dims.size() - 2) + " axes");
  const Shape kernel(dims.begin() + 2, dims.end());
  const auto stated = attr_ints(node, "kernel_shape");
  if (!stated.empty() && stated != kernel) throw Unsupported("kernel_shape differs from the weight");
  const int64_t groups = attr_int(node, "group", 1);
  if (groups < 1 || dims[0] % groups != 0) throw Unsupported("groups do not divide the outputs");

  kernels::ConvGeometry& g = op.geometry;
  g.out_channels = narrow(dims[0], "number of outputs");
  g.in_channels = narrow(dims[1] * groups, "number of inputs");
  g.groups = narrow(groups, "number of groups");
  const Dims& x = context.of(op.in[0]);
  if (x.size() != dims.size()) throw Unsupported("the rank of the input is not known");
  if (x[1].known() && x[1].value != g.in_channels) throw Unsupported("the input's channels do not fit the weight");
  Dims out = lower_windows(node, kernel, Dims(x.begin() + 2, x.end()), &g);

  auto source = std::make_shared<WeightSource>();
  if (Graph::input(node, 2) >= 0) {
    const Constant bias = context.weight(node, 2, "the bias");
    if (bias.desc.dims != Shape{dims[0]}) throw Unsupported("the bias does not fit the weight");
    source->bias.assign(bias.floats(), bias.floats() + dims[0]);
  }
  op.source = std::move(source);
  unit->domains = bit(Domain::image);
  unit->dims = {x[0], Dim::of(dims[0])};
  unit->dims.insert(unit->dims.end(), out.begin(), out.end());
  weight.give(g.columns(), 1, unit);
}

void lower_gemm(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::conv;
  const bool left = !is_packed(node) && context.graph.is_constant(Graph::input(node, 0));
  op.in = {context.activation(node, left ? 1 : 0)};
  if (attr_int(node, left ? "transB" : "transA", 0) != 0)
    throw Unsupported(left ? "the input is transposed (transB)" : "the input is transposed (transA)");
  const WeightInput weight = weight_input(context, node, left ? 0 : 1);
  const Shape& dims = weight.dims;
  if (dims.size() != 2) throw Unsupported("the weight is not a matrix");
  // The kernels want [out, in]: A as it is, B transposed.
  const bool by_rows = (attr_int(node, left ? "transA" : "transB", 0) != 0) != left;
  const int64_t in = by_rows ? dims[1] : dims[0], out = by_rows ? dims[0] : dims[1];
  const Dims& x = context.of(op.in[0]);
  const size_t axis = left ? 0 : 1;
  if (x.size() != 2) throw Unsupported("the rank of the input is not known");
  if (x[axis].known() && x[axis].value != in) throw Unsupported("the input does not fit the weight");
  op.geometry = kernels::matmul_geometry(narrow(in, "size"), narrow(out, "size"));

  auto source = std::make_shared<WeightSource>();
  const float alpha = attr_float(node, "alpha", 1.0f), beta = attr_float(node, "beta", 1.0f);
  if (alpha != 1.0f) source->row_scale.assign(static_cast<size_t>(out), alpha);
  if (Graph::input(node, 2) >= 0 && beta != 0.0f)
    source->bias = row_bias(context.weight(node, 2, "the added term"), out, beta, left);
  op.source = std::move(source);
  unit->domains = left ? bit(Domain::left) : bit(Domain::tokens) | bit(Domain::image);
  unit->dims = x;
  unit->dims[axis] = Dim::of(out);
  weight.give(by_rows ? in : 1, by_rows ? 1 : out, unit);
}

void lower_matmul(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::conv;
  const bool packed_left = is_packed(node) && attr_int(node, "weight_input", 1) == 0;
  const bool left = packed_left || (!is_packed(node) && context.graph.is_constant(Graph::input(node, 0)));
  op.in = {context.activation(node, left && !packed_left ? 1 : 0)};
  const WeightInput weight = weight_input(context, node, left ? 0 : 1);
  const Shape& dims = weight.dims;
  const Dims& x = context.of(op.in[0]);
  if (dims.size() < 2) throw Unsupported("the weight is a vector");
  if (x.size() < 2 || x.size() < dims.size()) throw Unsupported("the input has fewer axes than the weight");
  for (size_t i = 0; i + 2 < dims.size(); ++i)
    if (dims[i] != 1) throw Unsupported("the weight holds a batch of matrices");
  const int64_t rows = dims[dims.size() - 2], columns = dims[dims.size() - 1];
  const int64_t in = left ? columns : rows, out = left ? rows : columns;
  const size_t axis = x.size() - (left ? 2 : 1);
  if (x[axis].known() && x[axis].value != in) throw Unsupported("the input does not fit the weight");
  op.geometry = kernels::matmul_geometry(narrow(in, "size"), narrow(out, "size"));
  op.source = std::make_shared<WeightSource>();
  unit->domains = bit(left ? Domain::left : Domain::tokens);
  if (!left && x.size() == 2) unit->domains |= bit(Domain::image);
  unit->dims = x;
  unit->dims[axis] = Dim::of(out);
  weight.give(left ? columns : 1, left ? 1 : columns, unit);
}

bool lower_flat_product(const LowerContext& context, int last, Unit* unit) {
  const Graph& graph = context.graph;
  const GraphNode& node = graph.node(last);
  if (node.op != "Reshape" || !node.domain.empty() || node.out.size() != 1 || node.out[0] < 0) return false;
  const GraphValue& out = graph.value(node.out[0]);
  if (!out.ranked || out.desc.type != abi::kFloat) return false;
  // The node that makes input `i` of another, if nobody else reads that.
  const auto alone = [&](const GraphNode& reader, size_t i, const char* op) {
    const int value = Graph::input(reader, i);
    if (value < 0 || graph.value(value).producer < 0) return -1;
    const GraphValue& v = graph.value(value);
    const GraphNode& maker = graph.node(v.producer);
    const bool fits = maker.op == op && maker.domain.empty() && !v.graph_output && v.consumers.size() == 1 && v.uses == 1;
    return fits ? v.producer : -1;
  };
  const int product = alone(node, 0, "Gemm");
  const int flat = product < 0 ? -1 : alone(graph.node(product), 0, "Reshape");
  if (flat < 0 || graph.is_constant(graph.node(flat).in[0])) return false;
  const int from = graph.node(flat).in[0];
  Tracer tracer(graph, context.dims, context.alone);
  const Dims x = tracer.dims_of(from), y = tracer.dims_of(node.out[0]), rows = context.of(graph.node(flat).out[0]);
  if (x.size() < 2 || x.size() != y.size() || rows.size() != 2 || !x.back().known() || rows[1] != x.back()) return false;
  for (size_t i = 0; i + 1 < x.size(); ++i)
    if (x[i] != y[i]) return false;
  try {
    lower_gemm(context, graph.node(product), unit);
  } catch (const Unsupported&) {
    return false;
  }
  if (!(unit->domains & bit(Domain::tokens)) || !(y.back() == Dim::of(unit->op.geometry.out_channels))) return false;
  for (int n : {flat, product, last}) tracer.include(n);
  tracer.absorb({from, node.out[0]});
  if (!tracer.isolated(last)) return false;
  unit->op.in = {from};
  unit->op.out = node.out[0];
  unit->op.label = graph.label(graph.node(product));
  unit->domains = bit(Domain::tokens);
  unit->dims = x;
  unit->dims.back() = y.back();
  unit->nodes.assign(tracer.nodes().begin(), tracer.nodes().end());
  return true;
}

}  // namespace onnxprune::ep
