// Normalisations of images: by the channels around each (LRN), and over the pixels of groups of channels
// (InstanceNormalization, GroupNormalization, and the latter spelled as a reshaped former).
#include "ep/lower_internal.h"
#include "ep/trace.h"

namespace onnxprune::ep {
namespace {

// Channels of [N, C, spatial...]; throws where they are not known.
int32_t channels_of(const Dims& x) {
  if (x.size() != 3 && x.size() != 4) throw Unsupported("the input is not [N, C, spatial...]");
  if (!x[1].known() || x[1].value < 1 || x[1].value > (1 << 24))
    throw Unsupported("the number of channels is not known");
  return static_cast<int32_t>(x[1].value);
}

// The constant in input `i` by channel: one number for each of so many that follow each other.
std::vector<float> by_channel(const LowerContext& context, const GraphNode& node, size_t i, int64_t count,
                              int32_t channels, const char* what) {
  const Constant c = context.weight(node, i, what);
  if (c.desc.dims.size() != 1 || c.size() != count || channels % count != 0)
    throw Unsupported(std::string(what) + " does not fit the channels");
  std::vector<float> out;
  for (int32_t k = 0; k < channels; ++k) out.push_back(c.floats()[k / (channels / count)]);
  return out;
}

// `source` normalised in so many groups, with as many constants of `node` as `numbers` says.
void set_group_norm(const LowerContext& context, const GraphNode& node, int source, int64_t groups, int64_t numbers,
                    Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::group_norm;
  op.in = {source};
  const Dims& x = context.of(source);
  const int32_t channels = channels_of(x);
  if (groups < 1 || channels % groups != 0) throw Unsupported("groups that do not fit the channels");
  op.geometry.in_channels = op.geometry.out_channels = channels;
  op.geometry.groups = static_cast<int32_t>(groups);
  op.scale = by_channel(context, node, 1, numbers, channels, "the gain");
  op.shift = by_channel(context, node, 2, numbers, channels, "the shift");
  op.epsilon = attr_float(node, "epsilon", 1e-5f);
  if (!(op.epsilon >= 0.0f)) throw Unsupported("a negative epsilon");
  unit->domains = bit(Domain::image);
  unit->dims = x;
}

}  // namespace

void lower_response_norm(const LowerContext& context, const GraphNode& node, Unit* unit) {
  Op& op = unit->op;
  op.kind = OpKind::response_norm;
  op.in = {context.activation(node, 0)};
  const Dims& x = context.of(op.in[0]);
  if (x.size() != 4) throw Unsupported("the input is not [N, C, H, W]");
  channels_of(x);
  const int64_t size = attr_int(node, "size", 0);
  if (size < 1 || size > (1 << 24)) throw Unsupported("a window of no or too many channels");
  op.response.size = static_cast<int32_t>(size);
  op.response.alpha = attr_float(node, "alpha", 1e-4f);
  op.response.beta = attr_float(node, "beta", 0.75f);
  op.response.bias = attr_float(node, "bias", 1.0f);
  if (!kernels::check_response_norm(op.response)) throw Unsupported("sums or powers that may be no normal numbers");
  unit->domains = bit(Domain::image);
  unit->dims = x;
}

void lower_group_norm(const LowerContext& context, const GraphNode& node, Unit* unit) {
  const int source = context.activation(node, 0);
  const int32_t channels = channels_of(context.of(source));
  if (node.op == "InstanceNormalization") return set_group_norm(context, node, source, channels, channels, unit);
  if (attr_int(node, "stash_type", 1) != 1) throw Unsupported("a normalisation in another type than float32");
  const int64_t groups = attr_int(node, "num_groups", 0);
  set_group_norm(context, node, source, groups, node.since < 21 ? groups : channels, unit);
}

// Reshape to [N, groups, rest], InstanceNormalization, and back.
bool lower_group_norm_chain(const LowerContext& context, int last, Unit* unit) {
  const Graph& graph = context.graph;
  const auto maker = [&](int value, const char* op) -> const GraphNode* {
    if (value < 0 || graph.value(value).producer < 0) return nullptr;
    const GraphNode& node = graph.node(graph.value(value).producer);
    return node.op == op && node.domain.empty() ? &node : nullptr;
  };
  const GraphNode& back = graph.node(last);
  if (back.op != "Reshape" || !back.domain.empty() || back.out.size() != 1 || back.out[0] < 0) return false;
  const GraphNode* norm = maker(back.in[0], "InstanceNormalization");
  const GraphNode* there = norm == nullptr ? nullptr : maker(norm->in[0], "Reshape");
  if (there == nullptr || graph.is_constant(there->in[0])) return false;
  const GraphValue& source = graph.value(there->in[0]);
  if (!source.ranked || source.desc.type != abi::kFloat) return false;
  Tracer tracer(graph, context.dims, context.alone);
  for (int node : {graph.value(norm->in[0]).producer, graph.value(back.in[0]).producer, last}) tracer.include(node);
  const Dims& x = context.of(there->in[0]);
  const Dims split = tracer.dims_of(norm->in[0]), y = tracer.dims_of(back.out[0]);
  // What is left open follows from the number of elements where it is one axis.
  if (split.size() < 3 || !(split[0] == x[0]) || !split[1].known() || y.size() != x.size()) return false;
  size_t open = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] == y[i]) continue;
    if (x[i].known() && y[i].known()) return false;
    ++open;
  }
  if (open > 1) return false;
  tracer.absorb({there->in[0], back.out[0]});
  if (!tracer.isolated(last)) return false;
  try {
    set_group_norm(context, *norm, there->in[0], split[1].value, split[1].value, unit);
  } catch (const Unsupported&) {
    return false;
  }
  unit->op.out = back.out[0];
  unit->op.label = graph.label(*norm);
  unit->nodes.assign(tracer.nodes().begin(), tracer.nodes().end());
  return true;
}

}  // namespace onnxprune::ep
