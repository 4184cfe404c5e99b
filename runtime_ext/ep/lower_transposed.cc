// Transposed convolutions and DepthToSpace: each phase of the output is a plane of its own, and the planes are
// interleaved.
#include "ep/lower_internal.h"
#include "ep/resize.h"

namespace onnxprune::ep {
namespace {

// One spatial axis of a transposed convolution with stride s, of which output o sums x[i] w[t] over
// o + pad = s i + t. With o + pad = s q + r, tap t = r + s m of phase r reads x[q - m]: an ordinary
// convolution over q, with the taps turned round.
struct Axis {
  int64_t kernel = 1, stride = 1, pad_begin = 0, pad_end = 0;
  int64_t extra = 0;      // output_padding
  int64_t taps() const { return (kernel + stride - 1) / stride; }
  int64_t skipped() const { return pad_begin / stride; }  // of the values of q
  int64_t reach() const { return kernel - pad_end + extra - 1; }
  int64_t conv_begin() const { return taps() - 1 - skipped(); }
  int64_t conv_end() const { return reach() / stride; }
  int64_t cut_begin() const { return pad_begin % stride; }
  // The convolution yields size + conv_end - skipped values of q, each of `stride` outputs.
  int64_t cut_end() const { return stride - 1 - reach() % stride; }
  int64_t offset() const { return kernel - stride - pad_begin - pad_end + extra; }  // output = stride * size + offset
};

Dim outputs_of(const Axis& axis, const Dim& size) {
  if (axis.offset() == 0) return resized({static_cast<float>(axis.stride), -1}, size);
  if (size.known()) return Dim::of(axis.stride * size.value + axis.offset());
  if (size.symbol.empty()) return Dim{};
  return Dim::named("t(" + size.symbol + "," + std::to_string(axis.stride) + "," + std::to_string(axis.offset()) + ")");
}

constexpr int64_t kMost = 1 << 15;  // of any number of a window

int64_t part(const Shape& list, size_t i, int64_t fallback) { return list.empty() ? fallback : list[i]; }

Axis axis_of(const GraphNode& node, size_t i, const Shape& kernel) {
  const size_t axes = kernel.size();
  const Shape strides = attr_ints(node, "strides"), pads = attr_ints(node, "pads"), extra = attr_ints(node, "output_padding");
  if ((!strides.empty() && strides.size() != axes) || (!pads.empty() && pads.size() != 2 * axes) || (!extra.empty() && extra.size() != axes))
    throw Unsupported("attributes do not fit the rank of the weight");
  Axis axis;
  axis.kernel = kernel[i];
  axis.stride = part(strides, i, 1);
  axis.pad_begin = part(pads, i, 0);
  axis.pad_end = part(pads, axes + i, 0);
  axis.extra = part(extra, i, 0);
  for (const int64_t number : {axis.kernel, axis.stride, axis.pad_begin + 1, axis.pad_end + 1, axis.extra + 1})
    if (number < 1 || number > kMost) throw Unsupported("a number of its window is out of range");
  if (axis.extra >= axis.stride || axis.conv_begin() < 0 || axis.reach() < 0)
    throw Unsupported("padding as large as the window");
  return axis;
}

void set_text(const GraphNode& node, const char* name, const char* only) {
  std::string text = attr_string(node, name, only);
  while (!text.empty() && text.back() == '\0') text.pop_back();
  if (text != only && !text.empty()) throw Unsupported(std::string(name) + " is '" + text + "'");
}

}  // namespace

void lower_conv_transpose(const LowerContext& context, const GraphNode& node, Unit* unit) {
  const int from = context.activation(node, 0);
  const Constant weight = context.weight(node, 1, "the weight");
  const Shape& dims = weight.desc.dims;
  if ((dims.size() != 3 && dims.size() != 4) || weight.size() == 0) throw Unsupported("a convolution over other than 1 or 2 axes");
  set_text(node, "auto_pad", "NOTSET");
  if (!attr_ints(node, "output_shape").empty()) throw Unsupported("a stated output_shape");
  for (int64_t d : attr_ints(node, "dilations"))
    if (d != 1) throw Unsupported("a dilated transposed convolution");
  const Shape kernel(dims.begin() + 2, dims.end());
  const auto stated = attr_ints(node, "kernel_shape");
  if (!stated.empty() && stated != kernel) throw Unsupported("kernel_shape differs from the weight");
  const int64_t groups = attr_int(node, "group", 1), inputs = dims[0];
  if (groups < 1 || inputs % groups != 0) throw Unsupported("groups do not divide the inputs");
  const int64_t group_in = inputs / groups, group_out = dims[1], outputs = group_out * groups;
  const Dims& x = context.of(from);
  if (x.size() != dims.size()) throw Unsupported("the rank of the input is not known");
  if (x[1].known() && x[1].value != inputs) throw Unsupported("the input's channels do not fit the weight");

  Axis axes[2];  // height, width; a 1-D one is a width
  for (size_t i = 0; i < kernel.size(); ++i) axes[i + 2 - kernel.size()] = axis_of(node, i, kernel);
  const Axis &h = axes[0], &w = axes[1];
  const int64_t phases = h.stride * w.stride, taps_h = h.taps(), taps_w = w.taps();
  const int64_t columns = group_in * taps_h * taps_w;
  if (inputs > kMost || outputs * phases > (1 << 20) || outputs * phases * columns > (int64_t{1} << 31))
    throw Unsupported("its phases are too many");

  // The sums: a row for every output and phase.
  Unit sums;
  sums.op.kind = OpKind::conv;
  sums.op.label = unit->op.label;
  sums.op.in = {from};
  kernels::ConvGeometry& g = sums.op.geometry;
  g.in_channels = static_cast<int32_t>(inputs);
  g.out_channels = static_cast<int32_t>(outputs * phases);
  g.groups = static_cast<int32_t>(groups);
  g.kernel_h = static_cast<int32_t>(taps_h);
  g.kernel_w = static_cast<int32_t>(taps_w);
  g.pad_top = static_cast<int32_t>(h.conv_begin());
  g.pad_bottom = static_cast<int32_t>(h.conv_end());
  g.pad_left = static_cast<int32_t>(w.conv_begin());
  g.pad_right = static_cast<int32_t>(w.conv_end());
  auto source = std::make_shared<WeightSource>();
  auto matrix = std::make_shared<std::vector<float>>(static_cast<size_t>(outputs * phases * columns), 0.0f);
  const float* value = weight.floats();
  for (int64_t in = 0; in < inputs; ++in)
    for (int64_t out = 0; out < group_out; ++out)
      for (int64_t ty = 0; ty < h.kernel; ++ty)
        for (int64_t tx = 0; tx < w.kernel; ++tx) {
          const int64_t row = ((in / group_in * group_out + out) * h.stride + ty % h.stride) * w.stride + tx % w.stride;
          const int64_t column = (in % group_in * taps_h + taps_h - 1 - ty / h.stride) * taps_w + taps_w - 1 - tx / w.stride;
          (*matrix)[static_cast<size_t>(row * columns + column)] = *value++;
        }
  source->dense = {matrix->data(), columns, 1};
  source->held = std::move(matrix);
  if (Graph::input(node, 2) >= 0) {
    const Constant bias = context.weight(node, 2, "the bias");
    if (bias.desc.dims != Shape{outputs}) throw Unsupported("the bias does not fit the weight");
    for (int64_t row = 0; row < outputs * phases; ++row) source->bias.push_back(bias.floats()[row / phases]);
  }
  if (const kernels::Status status = kernels::check_geometry(g); !status.ok()) throw Unsupported(status.message);
  sums.op.source = std::move(source);
  sums.domains = bit(Domain::image);
  sums.dims = {x[0], Dim::of(outputs * phases)};
  for (size_t i = 2; i < x.size(); ++i) {
    const Axis& axis = axes[i + 2 - x.size()];
    Window window{axis.taps(), 1, 1, axis.conv_begin(), axis.conv_end()};
    if (!window.in_range(x[i].value)) throw Unsupported("a size is out of range");
    sums.dims.push_back(window_output(window, x[i]));
  }
  sums.supported = true;
  sums.anchor = true;
  unit->padding = outputs * phases * columns - weight.size();

  Op& op = unit->op;
  op.kind = OpKind::interleave;
  op.in = {kBefore};
  op.geometry.in_channels = g.out_channels;
  op.geometry.out_channels = static_cast<int32_t>(outputs);
  op.geometry.stride_h = static_cast<int32_t>(h.stride);
  op.geometry.stride_w = static_cast<int32_t>(w.stride);
  op.geometry.pad_top = static_cast<int32_t>(h.cut_begin());
  op.geometry.pad_bottom = static_cast<int32_t>(h.cut_end());
  op.geometry.pad_left = static_cast<int32_t>(w.cut_begin());
  op.geometry.pad_right = static_cast<int32_t>(w.cut_end());
  for (int64_t row = 0; row < outputs * phases; ++row) op.channels.push_back(static_cast<int32_t>(row));
  unit->domains = bit(Domain::image);
  unit->dims = {x[0], Dim::of(outputs)};
  for (size_t i = 2; i < x.size(); ++i) {
    unit->dims.push_back(outputs_of(axes[i + 2 - x.size()], x[i]));
    if (unit->dims.back().known() && unit->dims.back().value < 1) throw Unsupported("an empty output");
  }
  unit->before.push_back(std::move(sums));
  unit->anchor = true;
}

void lower_depth_to_space(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::interleave;
  op.in = {context.activation(node, 0)};
  const Dims& x = context.of(op.in[0]);
  const int64_t block = attr_int(node, "blocksize", 0);
  if (x.size() != 4 || !x[1].known() || block < 1 || block > kMost || x[1].value > kMost || x[1].value % (block * block) != 0)
    throw Unsupported("the number of channels is not known");
  std::string mode = attr_string(node, "mode", "DCR");
  while (!mode.empty() && mode.back() == '\0') mode.pop_back();
  const int64_t phases = block * block, outputs = x[1].value / phases;
  op.geometry.in_channels = static_cast<int32_t>(x[1].value);
  op.geometry.out_channels = static_cast<int32_t>(outputs);
  op.geometry.stride_h = op.geometry.stride_w = static_cast<int32_t>(block);
  for (int64_t c = 0; c < outputs; ++c)
    for (int64_t phase = 0; phase < phases; ++phase)
      op.channels.push_back(static_cast<int32_t>(mode == "CRD" ? c * phases + phase : phase * outputs + c));
  unit->domains = bit(Domain::image);
  unit->dims = {x[0], Dim::of(outputs)};
  for (size_t i = 2; i < 4; ++i) unit->dims.push_back(resized({static_cast<float>(block), -1}, x[i]));
}

}  // namespace onnxprune::ep
